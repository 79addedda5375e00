//! Full disks and directories that cannot be written.

use std::fs;
use std::path::Path;
use std::process::Command;

use uvm_image::{BootFiles, BootFilesOptions, DataDir, ImageError, ImageErrorKind, ImageStore};

use crate::machine::{Machine, chain, files_in};

const MACHINE: &str = "UVM_IMAGE_TEST_MACHINE";

/// A shell script that runs `child` below on this machine, as `$CHILD`.
fn with_child(machine: &Machine, child: &str, script: &str) -> std::process::Output {
    let child =
        format!("{} --exact storage::{child} --ignored --nocapture", std::env::current_exe().unwrap().display());
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env("CHILD", child).env(MACHINE, machine.root()).env("DATA", machine.path("data"));
    shell.output().unwrap()
}

/// The machine of the test that started this process, if one did.
fn machine_of_parent() -> Option<Machine> {
    std::env::var_os(MACHINE).map(|root| Machine::at(root.as_ref()))
}

#[test]
#[ignore = "the child process of the tests below, not a test by itself"]
fn child_without_space() {
    let Some(machine) = machine_of_parent() else { return };
    let error = BootFiles::ensure(&machine.options()).expect_err("there is no space");
    assert!(matches!(error, ImageError::DiskFull { .. }), "{}", chain(&error));
    assert_eq!(error.kind(), ImageErrorKind::Storage);
    let text = error.to_string();
    assert!(text.contains(machine.data_dir().path().to_str().unwrap()) && text.contains("UVM_DATA_DIR"), "{text}");
    assert!(machine.junk().is_empty(), "{text} left {:?}", machine.junk());
    let boot = machine.data_dir().boot();
    assert!(files_in(&boot).is_empty(), "{text} left {:?}", files_in(&boot));
}

#[test]
#[ignore = "the child process of the tests below, not a test by itself"]
fn child_with_space() {
    let Some(machine) = machine_of_parent() else { return };
    machine.ensure().verify().unwrap();
}

#[test]
fn a_full_disk_is_named_and_nothing_unfinished_stays_on_it() {
    let machine = Machine::new();
    // In a mount namespace of its own the test needs no root, where user namespaces are allowed.
    let script = "mkdir -p $DATA && exec unshare -rm sh -ec '
        mount -t tmpfs -o size=4k none $DATA
        echo mounted
        for size in 8k 16k 24k 32k 40k 48k; do
            mount -o remount,size=$size none $DATA
            $CHILD_AT
        done
        mount -o remount,size=10m none $DATA
        $CHILD_AT_LAST'";
    let child = format!("{} --ignored --nocapture --exact storage::child", std::env::current_exe().unwrap().display());
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).env(MACHINE, machine.root()).env("DATA", machine.path("data"));
    shell.env("CHILD_AT", format!("{child}_without_space")).env("CHILD_AT_LAST", format!("{child}_with_space"));
    let output = shell.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !out.contains("mounted") {
        println!("NOT RUN: this machine allows no user namespaces, so no small disk can be made: {err}");
        return;
    }
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.matches("1 passed").count(), 7, "{out}\n{err}");
}

#[test]
fn a_file_size_limit_counts_as_a_full_disk() {
    let machine = Machine::new();
    // In units of 512 bytes: too little for the largest file only, and too little for any.
    for limit in [3, 1] {
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec $CHILD");
        let output = with_child(&machine, "child_without_space", &script);
        assert!(output.status.success(), "{limit}: {}", String::from_utf8_lossy(&output.stderr));
    }
    machine.ensure().verify().unwrap();
}

#[test]
fn a_directory_that_nobody_may_write_is_named() {
    // Nobody, root included, makes directories there.
    let store = ImageStore::new(DataDir::at("/sys/uvm").unwrap());
    let machine = Machine::new();
    let options = BootFilesOptions::new(store.with_search_path(machine.path("bin"))).with_agent(machine.path("agent"));
    let error = BootFiles::ensure(&options).unwrap_err();
    assert!(matches!(error, ImageError::NotWritable { .. }), "{}", chain(&error));
    assert!(error.to_string().contains("/sys/uvm") && error.to_string().contains("UVM_DATA_DIR"), "{error}");
}

#[test]
#[ignore = "the child process of the test below, not a test by itself"]
fn child_without_permission() {
    let Some(machine) = machine_of_parent() else { return };
    let error = BootFiles::ensure(&machine.options()).expect_err("it may not write");
    assert!(matches!(error, ImageError::NotWritable { .. }), "{}", chain(&error));
}

#[test]
fn a_directory_of_another_user_is_named() {
    let machine = Machine::new();
    fs::create_dir(machine.path("data")).unwrap();
    // Root may write everywhere, so the child is somebody else then.
    let program = machine.path("child");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let set_mode = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set_mode(machine.root(), 0o755);
    set_mode(&machine.path("data"), 0o555);
    let drop_root =
        if rustix::process::geteuid().is_root() { "setpriv --reuid 65534 --regid 65534 --clear-groups" } else { "" };
    let script = format!(
        "exec {drop_root} {} --exact storage::child_without_permission --ignored --nocapture",
        program.display()
    );
    let output = with_child(&machine, "", &script);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
}

#[test]
fn files_that_are_there_need_no_writable_directory() {
    let machine = Machine::new();
    drop(machine.ensure());
    fs::remove_dir_all(machine.data_dir().path().join("locks")).unwrap();
    fs::remove_dir_all(machine.data_dir().path().join("tmp")).unwrap();
    machine.ensure().verify().unwrap();
    assert!(!machine.data_dir().path().join("locks").exists(), "nothing was locked for it");
}
