//! Processes that the service makes, where it holds the guest connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_hcs::HcsVm;
use uvm_hcs::recording::{Fault, RecordingHcs};
use uvm_platform::{ExitStatus, GuestFault, HostedGuest, PlatformError, PlatformProcess, PlatformVm, VmEvents};
use uvm_wire::Hresult;

use crate::platform::{create, summaries};
use crate::specs::lcow;

/// A VM that runs. What it took is not in the books.
pub(crate) async fn running(host: &RecordingHcs) -> (Arc<HcsVm>, VmEvents) {
    let (vm, events) = create(host, &lcow()).await;
    vm.start().await.expect("started");
    host.take_calls();
    (vm, events)
}

pub(crate) fn fault_of(error: &PlatformError) -> Option<GuestFault> {
    match error {
        PlatformError::InGuest { fault, .. } => Some(*fault),
        _ => None,
    }
}

async fn process(vm: &HcsVm, parameters: &str) -> Arc<dyn PlatformProcess> {
    vm.create_process(parameters).await.expect("started")
}

#[tokio::test]
async fn a_process_lives_from_its_creation_to_its_exit_code() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let process = process(&vm, r#"{"CommandLine":"x"}"#).await;
    assert_eq!((process.id(), process.exit_code()), (201, None));
    assert!(process.signal(r#"{"Signal":15}"#).await.expect("sent"));
    process.resize(40, 120).await.expect("resized");
    assert!(host.exit_process(201, 3));
    assert_eq!(process.wait().await.expect("it ended"), 3);
    assert_eq!((process.wait().await.expect("it is known"), process.exit_code()), (3, Some(3)));
    let calls = host.calls();
    assert_eq!(calls[0].text(), r#"{"CommandLine":"x"}"#);
    assert_eq!(calls[1].text(), r#"{"Signal":15}"#);
    assert_eq!(calls[2].text(), r#"{"Operation":"ConsoleSize","ConsoleSize":{"Height":40,"Width":120}}"#);
    drop(process);
    vm.close().await.expect("closed");
    assert_eq!(
        summaries(&host),
        [
            "hcs create_process vm-under-test",
            "hcs signal_process 201",
            "hcs modify_process 201",
            "hcs get_process_properties 201",
            "hcs close_process 201",
            "hcs terminate_system vm-under-test",
            "hcs close_system vm-under-test",
        ]
    );
}

#[tokio::test]
async fn a_process_that_is_killed_says_so_and_one_that_is_dropped_goes_on() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let killed = process(&vm, "{}").await;
    let dropped = process(&vm, "{}").await;
    assert!(killed.kill().await.expect("killed"));
    assert_eq!(killed.wait().await.expect("it ended"), 137);
    assert_eq!(host.open_processes(), 2);
    host.take_calls();
    drop(dropped);
    while host.open_processes() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(summaries(&host), ["hcs close_process 202"]);
}

#[tokio::test]
async fn streams_are_those_that_were_asked_for() {
    let host = RecordingHcs::new().with_output(b"hello");
    let (vm, _events) = running(&host).await;
    let none = process(&vm, "{}").await.take_stdio();
    assert!(none.stdin.is_none() && none.stdout.is_none() && none.stderr.is_none());
    let all = r#"{"CreateStdInPipe":true,"CreateStdOutPipe":true,"CreateStdErrPipe":true}"#;
    let process = process(&vm, all).await;
    let mut streams = process.take_stdio();
    assert!(process.take_stdio().stdin.is_none(), "they are taken");
    let mut output = String::new();
    streams.stdout.take().expect("asked for").read_to_string(&mut output).await.expect("read");
    assert_eq!(output, "hello");
    streams.stderr.take().expect("asked for").read_to_string(&mut output).await.expect("read");
    assert_eq!(output, "hello");
    let mut stdin = streams.stdin.take().expect("asked for");
    stdin.write_all(b"some input").await.expect("written");
    host.take_calls();
    stdin.shutdown().await.expect("ended");
    stdin.shutdown().await.expect("ended already");
    stdin.write_all(b"more").await.expect_err("it has ended");
    drop(stdin);
    let calls = host.take_calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].text(), r#"{"Operation":"CloseHandle","CloseHandle":{"Handle":"StdIn"}}"#);
    assert_eq!(host.input_of(202), b"some input");
}

#[tokio::test(start_paused = true)]
async fn a_standard_input_that_is_dropped_has_ended_and_keeps_its_process_open_until_then() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    for exits in [false, true] {
        let process = process(&vm, r#"{"CreateStdInPipe":true}"#).await;
        let stdin = process.take_stdio().stdin.expect("asked for");
        let id = process.id();
        if exits {
            assert!(host.exit_process(id, 0));
            process.wait().await.expect("it ended");
        }
        drop(process);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(host.open_processes(), 1);
        host.take_calls();
        drop(stdin);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (modify, close) = (format!("hcs modify_process {id}"), format!("hcs close_process {id}"));
        // Nobody reads any more where it has ended.
        let expected = if exits { vec![close] } else { vec![modify, close] };
        assert_eq!(summaries(&host), expected);
    }
}

#[tokio::test]
async fn a_standard_input_that_cannot_be_ended_says_why_unless_nobody_reads_it() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    for (code, fails) in [(Hresult::NOT_FOUND, false), (Hresult::FAIL, true)] {
        let process = process(&vm, r#"{"CreateStdInPipe":true}"#).await;
        let mut stdin = process.take_stdio().stdin.expect("asked for");
        host.plant(Fault::on("hcs", "modify_process").code(code));
        assert_eq!(stdin.shutdown().await.is_err(), fails, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_gone_is_no_error_and_its_end_is_learnt_though_it_was_never_told() {
    for (answer, expected) in [
        (r#"{"Exited":true,"ExitCode":7}"#, Ok(7)),
        (r#"{"Exited":false}"#, Err("its end was not told")),
        (r#"{"Exited":true,"LastWaitResult":-2147467259}"#, Err("cannot wait for process 201: 0x80004005")),
        ("[", Err("the compute service's answer cannot be read: [")),
    ] {
        let host = RecordingHcs::new()
            .with_answers(move |call| (call.op == "get_process_properties").then(|| answer.to_owned()));
        let (vm, _events) = running(&host).await;
        let process = process(&vm, "{}").await;
        for op in ["signal_process", "terminate_process", "modify_process"] {
            host.plant(Fault::on("hcs", op).code(Hresult::NOT_FOUND));
        }
        assert!(!process.signal("{}").await.expect("it has ended"));
        assert!(!process.kill().await.expect("it has ended"));
        process.resize(1, 1).await.expect("it has ended");
        match (process.wait().await, expected) {
            (Ok(code), Ok(expected)) => assert_eq!(code, expected),
            (Err(error), Err(expected)) => {
                assert_eq!(std::error::Error::source(&error).expect("a cause").to_string(), expected);
                assert_eq!(process.exit_code(), None);
            }
            (outcome, expected) => panic!("{outcome:?}, not {expected:?}"),
        }
    }
}

#[tokio::test]
async fn what_the_service_refuses_is_told_by_kind() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let process = process(&vm, "{}").await;
    let denied = Hresult::from_bits(0x8007_0005);
    for op in ["signal_process", "terminate_process", "modify_process", "create_process"] {
        host.plant(Fault::on("hcs", op).code(denied));
    }
    let errors = [
        process.signal("{}").await.expect_err("refused"),
        process.kill().await.expect_err("refused"),
        process.resize(1, 1).await.expect_err("refused"),
        vm.create_process("{}").await.err().expect("refused"),
    ];
    for error in errors {
        assert_eq!(fault_of(&error), Some(GuestFault::PermissionDenied), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_ends_the_wait_for_its_processes_and_closes_them() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let process = process(&vm, r#"{"CreateStdInPipe":true}"#).await;
    let mut stdin = process.take_stdio().stdin.expect("asked for");
    host.plant(Fault::on("hcs", "signal_process").hang());
    let (signalled, waited, terminated) = tokio::join!(process.signal("{}"), process.wait(), vm.terminate());
    terminated.expect("terminated");
    for error in [signalled.expect_err("it has ended"), waited.expect_err("it has ended")] {
        assert!(matches!(error, PlatformError::Ended { status: ExitStatus::Terminated, .. }), "{error:?}");
    }
    vm.close().await.expect("closed");
    assert_eq!((host.open_processes(), host.open_systems()), (0, 0));
    assert!(matches!(vm.create_process("{}").await, Err(PlatformError::WrongState { state: "closed", .. })));
    // Nobody reads it any more.
    stdin.shutdown().await.expect("ended");
}

#[tokio::test]
async fn a_vm_that_is_dropped_lets_go_of_what_a_program_keeps_handles_of() {
    let host = RecordingHcs::new();
    let (vm, events) = running(&host).await;
    let process = process(&vm, "{}").await;
    drop((vm, events));
    while host.open_systems() > 0 || host.open_processes() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(process.kill().await, Err(PlatformError::WrongState { state: "closed", .. })));
    assert!(matches!(process.wait().await, Err(PlatformError::WrongState { state: "closed", .. })));
}
