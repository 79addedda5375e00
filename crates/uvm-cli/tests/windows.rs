//! The command on Windows: what it prints, and its exit codes.
#![cfg(windows)]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn uvm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvm"));
    command.args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn documents_are_printed() {
    for (arguments, place, wanted) in [
        (&["lcow", "--owner", "me"][..], "/Owner", "me"),
        (
            &["lcow", r"--boot-files-path=D:\boot"],
            "/VirtualMachine/Chipset/LinuxKernelDirect/KernelFilePath",
            r"D:\boot\vmlinux",
        ),
        (
            &["wcow", r"--layer-folders=C:\base,C:\scratch"],
            "/VirtualMachine/Devices/Scsi/0/Attachments/0/Path",
            r"C:\scratch\sandbox.vhdx",
        ),
    ] {
        let output = uvm(&[&["hcs-document"], arguments].concat());
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{arguments:?}");
        let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(document.pointer(place), Some(&Value::from(wanted)), "{arguments:?}: {document}");
    }
}

#[test]
fn what_cannot_be_done_has_a_code_and_a_reason() {
    for (arguments, code, said) in [
        (&["hcs-document", "lcow", "--scsi-controller-count=9"][..], 1, "UVM options incorrect"),
        (&["hcs-document", "lcow", "--nope"], 2, "--nope"),
        (&["run"], 2, "unrecognized subcommand"),
        (&[], 2, "Usage"),
    ] {
        let output = uvm(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{arguments:?}: {output:?}");
    }
}
