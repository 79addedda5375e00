//! Containers that the service makes, where it holds the guest connection.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, from_str, json};
use uvm_hcs::HcsVm;
use uvm_hcs::host::{Notification, NotificationKind};
use uvm_hcs::recording::{Fault, RecordingHcs};
use uvm_platform::{
    ContainerCommand, ContainerExit, ExitStatus, GuestFault, HostedGuest, NewContainer, PlatformContainer,
    PlatformError, PlatformVm,
};
use uvm_wire::Hresult;

use crate::hosted_processes::{fault_of, running};
use crate::platform::summaries;

pub(crate) const C1: NewContainer<'_> = NewContainer { id: "c1", settings: r#"{"OciBundlePath":"/c"}"#, start: true };

async fn container(vm: &HcsVm) -> Arc<dyn PlatformContainer> {
    vm.create_container(C1).await.expect("created")
}

/// Lets everything go on that can.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_from_its_creation_to_its_end() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let container = vm.create_container(NewContainer { start: false, ..C1 }).await.expect("created");
    assert_eq!(container.id(), "c1");
    for command in [ContainerCommand::Start, ContainerCommand::Pause, ContainerCommand::Resume] {
        container.command(command).await.expect("done");
    }
    let init = container.create_process(r#"{"CreateStdOutPipe":true}"#).await.expect("started");
    assert_eq!(init.id(), 201);
    container.modify(r#"{"ResourceType":"Oracle"}"#).await.expect("changed");
    let answer = container.properties(r#"{"PropertyTypes":["ProcessList"]}"#).await.expect("an answer");
    assert_eq!(from_str::<Value>(&answer).expect("JSON")["Id"], "c1");
    container.command(ContainerCommand::Shutdown).await.expect("asked");
    assert_eq!(container.ended().await, ContainerExit::Exited(ExitStatus::PoweredOff));
    let calls = host.calls();
    assert_eq!(
        from_str::<Value>(calls[0].text()).expect("JSON"),
        json!({
            "SchemaVersion": {"Major": 2, "Minor": 1},
            "HostingSystemId": "vm-under-test",
            "HostedSystem": {"OciBundlePath": "/c"},
            "ShouldTerminateOnLastHandleClosed": true
        })
    );
    assert_eq!(calls[1].text(), "{}");
    drop((container, init));
    settle().await;
    assert_eq!(
        summaries(&host),
        [
            "hcs create_system c1",
            "hcs get_properties c1",
            "hcs start_system c1",
            "hcs pause_system c1",
            "hcs resume_system c1",
            "hcs create_process c1",
            "hcs modify_system c1",
            "hcs get_properties c1",
            "hcs shutdown_system c1",
            "hcs close_system c1",
            "hcs close_process 201",
        ]
    );
    assert_eq!((host.open_systems(), host.open_processes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_container_goes_on_without_handles_and_its_id_is_free_after_its_end() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    drop(container(&vm).await);
    settle().await;
    assert_eq!(host.open_systems(), 2);
    let taken = vm.create_container(C1).await.err().expect("it is there");
    assert_eq!(fault_of(&taken), Some(GuestFault::AlreadyExists));
    let again = vm.open_container("c1");
    again.command(ContainerCommand::Terminate).await.expect("told");
    assert_eq!(again.ended().await, ContainerExit::Exited(ExitStatus::Terminated));
    settle().await;
    assert_eq!(host.open_systems(), 2, "who has a handle may look at it");
    again.properties("{}").await.expect("an answer");
    drop(again);
    settle().await;
    assert_eq!(host.open_systems(), 1);
    drop(container(&vm).await);
}

#[tokio::test(start_paused = true)]
async fn every_handle_hears_of_the_end_and_one_that_is_closed_of_nothing() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let (first, second) = (container(&vm).await, vm.open_container("c1"));
    let (told, ()) = tokio::join!(second.ended(), async { second.close() });
    assert_eq!(told, ContainerExit::Closed);
    let unexpected = Notification {
        data: r#"{"ExitType":"UnexpectedExit"}"#.to_owned(),
        ..Notification::new(NotificationKind::SystemExited, Hresult::OK)
    };
    assert!(host.notify("c1", unexpected));
    let abnormal = ContainerExit::Exited(ExitStatus::Abnormal("it exited unexpectedly".into()));
    assert_eq!(first.ended().await, abnormal);
    first.close();
    assert_eq!(first.ended().await, abnormal, "what it has heard it knows");
    assert_eq!(second.ended().await, ContainerExit::Closed);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_has_ended_and_can_do_nothing() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let unknown = vm.open_container("never made");
    for command in [ContainerCommand::Shutdown, ContainerCommand::Terminate] {
        unknown.command(command).await.expect("there is nothing to end");
    }
    assert_eq!(unknown.ended().await, ContainerExit::Lost);
    let errors = [
        unknown.command(ContainerCommand::Start).await.expect_err("unknown"),
        unknown.modify("{}").await.expect_err("unknown"),
        unknown.properties("{}").await.expect_err("unknown"),
        unknown.create_process("{}").await.err().expect("unknown"),
    ];
    for error in errors {
        assert_eq!(fault_of(&error), Some(GuestFault::NotFound), "{error:?}");
    }
    assert_eq!(host.take_calls(), []);
}

#[tokio::test(start_paused = true)]
async fn to_end_what_has_ended_is_success_and_to_start_it_is_not() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let container = container(&vm).await;
    // In both of their spellings.
    for bits in [0xc037_0110, 0x8037_0110] {
        for op in ["shutdown_system", "terminate_system", "start_system"] {
            host.plant(Fault::on("hcs", op).containing("c1").code(Hresult::from_bits(bits)));
        }
        container.command(ContainerCommand::Shutdown).await.expect("it has ended");
        container.command(ContainerCommand::Terminate).await.expect("it has ended");
        let error = container.command(ContainerCommand::Start).await.expect_err("it has ended");
        assert_eq!(fault_of(&error), Some(GuestFault::WrongState));
    }
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_takes_its_containers_along_and_closes_them() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let (kept, process) = (container(&vm).await, vm.create_process("{}").await.expect("started"));
    let (end, terminated) = tokio::join!(kept.ended(), vm.terminate());
    terminated.expect("terminated");
    assert_eq!(end, ContainerExit::Lost);
    let error = kept.command(ContainerCommand::Pause).await.expect_err("the VM has ended");
    assert!(matches!(error, PlatformError::Ended { .. }), "{error:?}");
    host.take_calls();
    vm.close().await.expect("closed");
    let closed = ["hcs close_process 201", "hcs close_system c1", "hcs close_system vm-under-test"];
    assert_eq!(summaries(&host)[1..], closed);
    assert_eq!((host.open_systems(), host.open_processes()), (0, 0));
    drop((kept, process));
    settle().await;
    assert_eq!(host.take_calls(), []);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_close_does_not_keep_its_vm() {
    let host = RecordingHcs::new();
    let (vm, _events) = running(&host).await;
    let _kept = (container(&vm).await, vm.create_process("{}").await.expect("started"));
    host.plant(Fault::on("hcs", "close_process").hang());
    host.plant(Fault::on("hcs", "close_system").containing("c1"));
    vm.close().await.expect("closed");
    assert_eq!(host.open_systems(), 0);
}
