//! The program by its names, outside any VM: what it says of itself, and the agent with its bridge on pipes.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::support::{NEGOTIATE, ZERO, message, request};

fn program(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvm-agent"));
    command.arg0(name).stdin(Stdio::null());
    command
}

fn run(name: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = program(name).args(arguments).output().expect("runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

#[test]
fn it_says_what_it_is() {
    for arguments in [["--version"], ["-version"], ["version"]] {
        let (code, text, _) = run("/bin/gcs", &arguments);
        assert_eq!((code, text), (Some(0), format!("uvm-agent {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let (code, _, text) = run("/init", &[]);
    assert_eq!(code, Some(2));
    assert!(text.contains(env!("CARGO_PKG_VERSION")) && text.contains("/init of a utility VM"), "{text}");
}

#[test]
fn a_flag_that_no_original_knows_ends_it_at_once() {
    let (code, _, text) = run("/bin/gcs", &["-v4", "-mind-reading"]);
    assert_eq!(code, Some(2));
    assert!(text.starts_with("gcs: unknown flag -mind-reading; allowed are -v4, "), "{text}");
    let (code, _, text) = run("/bin/gcs", &["-v4", "-logfile", "/no/such/directory/log"]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("gcs: log file /no/such/directory/log: No such file"), "{text}");
}

#[test]
fn vsockexec_becomes_the_program() {
    let (code, text, _) = run("/bin/vsockexec", &["/bin/sh", "-c", "echo $0 $1; exit 3", "zero", "-e"]);
    assert_eq!((code, &*text), (Some(3), "zero -e\n"));
    let (code, _, text) = run("vsockexec", &["/no/such/program"]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with("vsockexec: cannot become \"/no/such/program\": No such file"), "{text}");
    let (code, _, text) = run("/bin/vsockexec", &["-e"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("flag -e needs a port"), "{text}");
}

/// Writes a message and reads one.
fn exchange(agent: &mut Child, message: &[u8]) -> (u32, Value) {
    agent.stdin.as_mut().expect("piped").write_all(message).expect("written");
    let output = agent.stdout.as_mut().expect("piped");
    let mut header = [0; 16];
    output.read_exact(&mut header).expect("a header");
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let mut body = vec![0; number(4) as usize - 16];
    output.read_exact(&mut body).expect("a body");
    (number(0), serde_json::from_slice(&body).expect("JSON"))
}

#[test]
fn the_bridge_may_be_on_pipes_and_the_log_goes_where_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    for log_file in [None, Some(&log)] {
        let mut command = program("/bin/gcs");
        command.args(["-v4", "-use-inouterr", "-log-format", "json", "-loglevel", "info", "-disable-time-sync"]);
        if let Some(path) = log_file {
            command.arg("-logfile").arg(path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut agent = command.spawn().expect("runs");
        let negotiate = message("01 0b 10 10 | 7d 00 00 00 | 00 00 00 00 00 00 00 00", NEGOTIATE);
        assert_eq!(exchange(&mut agent, &negotiate).1["Version"], 4);
        let execute = format!(
            r#"{{"ContainerId":"{ZERO}","ActivityId":"{ZERO}","Settings":{{"ProcessParameters":"{{\"CommandArgs\":[\"sh\",\"-c\",\"exit 6\"]}}"}}}}"#
        );
        let (kind, started) = exchange(&mut agent, &request(0x1010_0501, 1, &execute));
        assert_eq!((kind, &started["Result"]), (0x2010_0501, &0.into()), "{started}");
        let wait = format!(
            r#"{{"ContainerId":"{ZERO}","ActivityId":"{ZERO}","ProcessId":{},"TimeoutInMs":20000}}"#,
            started["ProcessId"]
        );
        let (kind, ended) = exchange(&mut agent, &request(0x1010_0601, 2, &wait));
        assert_eq!((kind, &ended["ExitCode"]), (0x2010_0601, &6.into()), "{ended}");
        // The end of the input is the end of the bridge, and so of the agent.
        drop(agent.stdin.take());
        let Output { status, stdout, stderr } = agent.wait_with_output().expect("ends");
        assert_eq!((status.code(), stdout.len()), (Some(0), 0));
        let text = match log_file {
            Some(path) => std::fs::read_to_string(path).expect("written"),
            None => String::from_utf8(stderr).expect("text"),
        };
        let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let has = |message: &str| entries.iter().any(|entry| entry["msg"] == message && entry["level"] == "info");
        assert!(has("bridge connected") && has("bridge closed by the host"), "{text}");
    }
}
