//! The command without VMs: its output and its exit codes.
#![cfg(target_os = "linux")]

use std::fs::{File, OpenOptions};
use std::process::{Command, Output, Stdio};

/// Runs it with nothing on this machine, and this as its standard output.
fn uvm(arguments: &[&str], stdout: Stdio) -> Output {
    let state = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
    command.args(arguments).env("UVM_STATE_DIR", state.path()).env("UVM_DATA_DIR", state.path());
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    command.spawn().and_then(std::process::Child::wait_with_output).expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What prints something, each in its own way.
const PRINTS: [&[&str]; 7] = [
    &["ps"],
    &["gc", "--dry-run"],
    &["gc", "--json"],
    &["image", "ls"],
    &["completions", "bash"],
    &["--help"],
    &["run", "--help"],
];

#[test]
fn a_closed_output_ends_it_quietly() {
    for arguments in PRINTS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = uvm(arguments, writer.into());
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(141), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_output_is_an_error() {
    for arguments in PRINTS {
        let full: File = OpenOptions::new().write(true).open("/dev/full").expect("it is there");
        let output = uvm(arguments, full.into());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("uvm: cannot write standard output\n  because: "), "{arguments:?}: {said}");
    }
}

#[test]
fn wrong_options_of_run_have_a_code_that_is_no_commands() {
    for (arguments, code, said) in [
        (&["run", "--nope"][..], 125, "--nope"),
        (&["run", "--memory", "x", "--", "true"], 125, "--memory"),
        (&["run", "--vsock", "5000", "--", "true"], 125, "PORT:SOCKET"),
        (&["gc", "--nope"], 2, "--nope"),
        (&["--nope"], 2, "--nope"),
        (&[], 2, "Usage"),
    ] {
        let output = uvm(arguments, Stdio::null());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    for arguments in [&["--version"][..], &["--help"], &["run", "--help"]] {
        assert_eq!(uvm(arguments, Stdio::null()).status.code(), Some(0), "{arguments:?}");
    }
}
