//! What is left of containers and processes that fail on their way, or that nobody waits for: nothing.

use std::time::Duration;

use uvm_hcs::recording::{Fault, RecordingHcs};
use uvm_platform::{HostedGuest, PlatformError, PlatformVm};
use uvm_wire::Hresult;

use crate::hosted_containers::C1;
use crate::hosted_processes::running;
use crate::platform::summaries;

const DENIED: Hresult = Hresult::from_bits(0x8007_0005);
/// Longer than whatever is undone takes.
const LONG: Duration = Duration::from_secs(300);

/// Only the VM is left.
async fn nothing_is_left(host: &RecordingHcs, of: &str) {
    tokio::time::sleep(LONG).await;
    assert_eq!((host.open_systems(), host.open_processes()), (1, 0), "{of}");
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_creation_fails_at_any_call_is_ended_and_closed() {
    let undone = ["hcs terminate_system c1", "hcs close_system c1"];
    for (op, calls) in [("create_system", 1), ("get_properties", 2), ("start_system", 3)] {
        for hangs in [false, true] {
            let host = RecordingHcs::new();
            let (vm, _events) = running(&host).await;
            let fault = Fault::on("hcs", op).containing("c1").code(DENIED);
            host.plant(if hangs { fault.hang() } else { fault });
            let error = vm.create_container(C1).await.err().expect("planted");
            assert_eq!(matches!(error, PlatformError::Timeout { .. }), hangs, "{op}: {error:?}");
            // Before the error is told.
            let told = summaries(&host);
            assert_eq!(told[calls..], undone[..if calls == 1 { 0 } else { 2 }], "{op}");
            nothing_is_left(&host, op).await;
            vm.create_container(C1).await.expect("the id is free");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_be_ended_is_closed_all_the_same() {
    for hangs in [false, true] {
        let host = RecordingHcs::new().with_stubborn_systems();
        let (vm, _events) = running(&host).await;
        host.plant(Fault::on("hcs", "get_properties").containing("c1").code(DENIED));
        let terminate = Fault::on("hcs", "terminate_system").containing("c1").code(DENIED);
        host.plant(if hangs { terminate.hang() } else { terminate });
        vm.create_container(C1).await.err().expect("planted");
        nothing_is_left(&host, "a container").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_cannot_be_read_undoes_the_container() {
    let host = RecordingHcs::new().with_answers(|call| {
        (call.op == "get_properties" && call.id.as_deref() == Some("c1")).then(|| "no JSON".to_owned())
    });
    let (vm, _events) = running(&host).await;
    vm.create_container(C1).await.err().expect("it cannot be read");
    nothing_is_left(&host, "a container").await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_cannot_be_started_leaves_nothing() {
    for hangs in [false, true] {
        let host = RecordingHcs::new();
        let (vm, _events) = running(&host).await;
        let fault = Fault::on("hcs", "create_process").code(DENIED);
        host.plant(if hangs { fault.hang() } else { fault });
        let error = vm.create_process("{}").await.err().expect("planted");
        assert_eq!(matches!(error, PlatformError::Timeout { .. }), hangs, "{error:?}");
        nothing_is_left(&host, "a process").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_without_the_streams_that_were_asked_for_is_killed() {
    let host = RecordingHcs::new().without_pipes();
    let (vm, _events) = running(&host).await;
    for (parameters, stream) in [
        (r#"{"CreateStdInPipe":true}"#, "standard input"),
        (r#"{"CreateStdOutPipe":true}"#, "standard output"),
        (r#"{"CreateStdErrPipe":true}"#, "standard error"),
    ] {
        let error = vm.create_process(parameters).await.err().expect("nobody can talk to it");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert_eq!(cause, format!("the compute service gave no pipe for its {stream}"));
        let ops: Vec<String> = host.take_calls().into_iter().map(|call| call.op).collect();
        assert_eq!(ops[..2], ["create_process", "terminate_process"]);
        nothing_is_left(&host, stream).await;
        host.take_calls();
    }
    vm.create_process("{}").await.expect("it needs none");
}

#[tokio::test(start_paused = true)]
async fn what_comes_to_exist_after_the_deadline_is_undone() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let late = |op| Fault::on("hcs", op).late(vm_deadline() + Duration::from_secs(10));
    host.plant(late("create_process"));
    let error = vm.create_process("{}").await.err().expect("too late");
    assert!(matches!(error, PlatformError::Timeout { .. }), "{error:?}");
    nothing_is_left(&host, "a process").await;
    let undone = ["hcs create_process vm-under-test", "hcs terminate_process 201", "hcs close_process 201"];
    assert_eq!(summaries(&host), undone);
    host.plant(late("create_system"));
    let error = vm.create_container(C1).await.err().expect("too late");
    assert!(matches!(error, PlatformError::Timeout { .. }), "{error:?}");
    nothing_is_left(&host, "a container").await;
}

/// How long the VM waits for a call in its guest.
fn vm_deadline() -> Duration {
    crate::specs::lcow().deadlines.rpc
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_undone_at_whatever_moment_it_is_given_up() {
    for given_up_after in 0..8 {
        let host = RecordingHcs::new().with_calls_that_take(Duration::from_millis(2));
        let (vm, _events) = running(&host).await;
        let moment = Duration::from_millis(given_up_after);
        let made = tokio::time::timeout(moment, vm.create_container(C1)).await;
        assert_eq!(made.is_ok(), given_up_after > 6, "{given_up_after}");
        let started = tokio::time::timeout(moment, vm.create_process("{}")).await;
        assert_eq!(started.is_ok(), given_up_after > 2, "{given_up_after}");
        if let Ok(Ok(container)) = made {
            container.command(uvm_platform::ContainerCommand::Terminate).await.expect("told");
        }
        drop(started);
        nothing_is_left(&host, &format!("what was given up after {given_up_after} ms")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_made_while_the_vm_ends_ends_with_it() {
    for ends_after in 0..8 {
        let host = RecordingHcs::new().with_calls_that_take(Duration::from_millis(2));
        let (vm, _events) = running(&host).await;
        let end = async {
            tokio::time::sleep(Duration::from_millis(ends_after)).await;
            vm.close().await
        };
        let (_container, _process, closed) = tokio::join!(vm.create_container(C1), vm.create_process("{}"), end);
        closed.expect("closed");
        tokio::time::sleep(LONG).await;
        assert_eq!((host.open_systems(), host.open_processes()), (0, 0), "ended after {ends_after} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_made_while_a_vm_is_closed_that_cannot_be_ended_is_closed_too() {
    for begun_after in 0..8 {
        let host = RecordingHcs::new().with_calls_that_take(Duration::from_millis(2));
        let (vm, _events) = running(&host).await;
        host.plant(Fault::on("hcs", "terminate_system").containing("vm-under-test"));
        let started = async {
            tokio::time::sleep(Duration::from_millis(begun_after)).await;
            vm.create_process("{}").await
        };
        let (closed, started) = tokio::join!(vm.close(), started);
        closed.expect_err("planted");
        tokio::time::sleep(LONG).await;
        assert_eq!((host.open_systems(), host.open_processes()), (0, 0), "begun after {begun_after} ms");
        drop(started);
    }
}
