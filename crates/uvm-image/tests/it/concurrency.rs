//! Several builders at once, waiting ones, and killed ones.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use uvm_image::{BootFiles, ImageError, ImageErrorKind, Progress, ProgressSink, Step};

use crate::machine::{Machine, recorder};

/// Names the machine a child process works on.
const MACHINE: &str = "UVM_IMAGE_TEST_MACHINE";

/// Starts this test program again, as `child` below.
fn start_child(machine: &Machine, hang_at: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "concurrency::child", "--ignored", "--nocapture"])
        .env(MACHINE, machine.root())
        .env("UVM_IMAGE_TEST_HANG", hang_at)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the child process of the tests below, not a test by itself"]
fn child() {
    let Some(root) = std::env::var_os(MACHINE) else { return };
    let hang_at = std::env::var("UVM_IMAGE_TEST_HANG").unwrap_or_default();
    let machine = Machine::at(root.as_ref());
    let marker = machine.path("hangs");
    let mut options = machine.options();
    options.store = options.store.with_progress(ProgressSink::new(move |event| {
        if let Progress::Started { step, .. } = event
            && step.to_string() == hang_at
        {
            fs::write(&marker, "").unwrap();
            thread::sleep(Duration::from_secs(300));
        }
    }));
    drop(BootFiles::ensure(&options).unwrap());
}

/// Waits for something another process does.
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn threads_that_start_at_once_build_once() {
    let machine = Machine::new();
    let dirs: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| machine.ensure().dir().to_owned())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(dirs.iter().all(|dir| *dir == dirs[0]));
    assert_eq!(machine.downloads(), 2, "one kernel, one busybox");
    assert!(machine.junk().is_empty());
}

#[test]
fn processes_that_start_at_once_build_once() {
    let machine = Machine::new();
    let children: Vec<_> = (0..4).map(|_| start_child(&machine, "")).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(machine.downloads(), 2, "one kernel, one busybox");
    assert_eq!(BootFiles::list(&machine.data_dir()).unwrap().len(), 1);
    assert!(machine.junk().is_empty());
}

#[test]
fn what_a_killed_builder_leaves_is_removed_by_the_next() {
    // At each of these the builder has something unfinished on disk.
    for step in [Step::Downloading, Step::ChoosingModules, Step::BuildingInitramfs] {
        let machine = Machine::new();
        let mut child = start_child(&machine, &step.to_string());
        wait_until("the child to hang", || machine.path("hangs").exists());
        assert_eq!(machine.junk().len(), 1, "{step}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(machine.junk().len(), 1, "it had no chance to clean up: {step}");
        machine.ensure().verify().unwrap();
        assert!(machine.junk().is_empty(), "{step}: {:?}", machine.junk());
    }
}

#[test]
fn a_builder_that_waits_too_long_names_the_one_at_work_and_leaves_its_files_alone() {
    let machine = Machine::new();
    let mut child = start_child(&machine, &Step::BuildingInitramfs.to_string());
    wait_until("the child to hang", || machine.path("hangs").exists());
    let mut options = machine.options();
    options.store.deadlines.lock = Duration::from_millis(200);
    let (progress, events) = recorder();
    options.store = options.store.with_progress(progress);
    let error = BootFiles::ensure(&options).unwrap_err();
    assert!(matches!(error, ImageError::LockTimeout { .. }) && error.kind() == ImageErrorKind::Busy);
    assert!(error.to_string().contains(&format!("process {} (", child.id())), "{error}");
    let waiting = |event: &Progress| matches!(event, Progress::Started { step: Step::Waiting, .. });
    assert!(events.lock().unwrap().iter().any(waiting));
    // Another build sweeps up, but not what the living builder is at.
    machine.put_agent("2.0");
    drop(machine.ensure());
    assert_eq!(machine.junk().len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn removing_and_using_at_once_never_hands_out_half_of_the_files() {
    let machine = Machine::new();
    let key = machine.ensure().dir().file_name().unwrap().to_str().unwrap().to_owned();
    let until = Instant::now() + Duration::from_secs(2);
    let removed = thread::scope(|scope| {
        let remover = scope.spawn(|| {
            let mut removed = 0;
            while Instant::now() < until {
                match BootFiles::remove(&machine.data_dir(), &key) {
                    Ok(_) => removed += 1,
                    Err(ImageError::InUse { .. } | ImageError::NoSuchEntry { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            removed
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while Instant::now() < until {
                    let files = machine.ensure();
                    files.verify().unwrap();
                }
            });
        }
        remover.join().unwrap()
    });
    assert!(removed > 0);
    assert!(machine.junk().is_empty());
}
