//! From creation to the end.

use uvm::wire::negotiate::GuestOs;
use uvm::{ErrorKind, ExitStatus, ProcessSpec, Refusal, ScsiDisk, UvmError};
use uvm_platform::Feature;

use super::subject::{failure, refused};
use super::{Host, Subject, Wanted};
use crate::TestResult;

fn linux(name: &'static str) -> Wanted {
    Wanted { name, os: GuestOs::Linux, virtual_sockets: false }
}

pub(super) async fn a_vm_that_was_never_started_refuses_and_closes(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::create(host, linux("unstarted")).await?;
    assert_eq!((vm.exit_status(), vm.protocol_version()), (None, None));
    assert!(vm.capabilities().is_none() && vm.id().as_str().contains("unstarted"));
    let spec = ProcessSpec::new(["true"]);
    refused("create a process", vm.create_process(&spec).await, Refusal::NotStarted)?;
    refused("pause", vm.pause().await, Refusal::NotStarted)?;
    refused("shutdown", vm.shutdown().await, Refusal::NotStarted)?;
    refused("exit error", vm.exit_error(), Refusal::NotEnded)?;
    assert_eq!(vm.properties().await?.state, "not started");
    (*vm).close().await?;
    assert_eq!(vm.wait().await?, ExitStatus::Terminated);
    refused("start", vm.start().await, Refusal::Closed)?;
    vm.gone().await
}

pub(super) async fn a_vm_is_started_once_and_closed_for_good(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::boot(host, linux("once")).await?;
    assert_eq!((vm.os(), vm.protocol_version()), (GuestOs::Linux, Some(4)));
    assert!(vm.capabilities().is_some() && vm.processor_count() > 0);
    refused("start", vm.start().await, Refusal::AlreadyStarted)?;
    let disk = vm.if_it_can(Feature::ScsiDisks, vm.add_scsi(&ScsiDisk::new(&vm.things().file)).await)?;
    // Two who close at the same time, and one after them.
    let (one, two) = tokio::join!((*vm).close(), (*vm).close());
    one.and(two)?;
    (*vm).close().await?;
    assert_eq!((vm.wait().await?, vm.exit_status()), (ExitStatus::Terminated, Some(ExitStatus::Terminated)));
    let spec = ProcessSpec::new(["true"]);
    refused("create a process", vm.create_process(&spec).await, Refusal::Closed)?;
    refused("stacks", vm.dump_stacks().await, Refusal::Closed)?;
    refused("start", vm.start().await, Refusal::Closed)?;
    refused("pause", vm.pause().await, Refusal::Closed)?;
    refused("properties", vm.properties().await, Refusal::Closed)?;
    refused("stats", vm.stats().await, Refusal::Closed)?;
    refused("add a disk", vm.add_scsi(&ScsiDisk::new(&vm.things().file)).await, Refusal::Closed)?;
    if let Some(disk) = disk {
        refused("release a disk", disk.release().await, Refusal::Closed)?;
    }
    // Nothing is left to do.
    vm.terminate().await?;
    vm.shutdown().await?;
    vm.gone().await
}

pub(super) async fn a_terminated_vm_ends_every_wait(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::boot(host, linux("terminated")).await?;
    let sleeper = vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?;
    let (ended, exit, terminated) = tokio::join!(vm.wait(), sleeper.wait(), vm.terminate());
    terminated?;
    assert_eq!(ended?, ExitStatus::Terminated);
    let error = failure("wait for a process", exit)?;
    assert_eq!(error.kind(), ErrorKind::Exited, "{error:?}");
    vm.terminate().await?;
    for (what, error) in [
        ("create a process", failure("process", vm.create_process(&ProcessSpec::new(["true"])).await)?),
        ("signal a process", failure("signal", sleeper.kill().await)?),
        ("start", failure("start", vm.start().await)?),
        ("add a disk", failure("disk", vm.add_scsi(&ScsiDisk::new(&vm.things().file)).await)?),
    ] {
        assert!(
            matches!(error, UvmError::Exited { status: ExitStatus::Terminated, .. })
                && error.kind() == ErrorKind::Exited,
            "{what}: {error:?}"
        );
    }
    // It was meant to.
    vm.exit_error()?;
    drop(sleeper);
    vm.close().await
}

pub(super) async fn a_shutdown_is_a_power_off(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::boot(host, linux("shutdown")).await?;
    let (down, ended) = tokio::join!(vm.shutdown(), vm.wait());
    down?;
    assert_eq!((ended?, vm.exit_status()), (ExitStatus::PoweredOff, Some(ExitStatus::PoweredOff)));
    vm.exit_error()?;
    vm.shutdown().await?;
    vm.close().await
}

pub(super) async fn a_vm_can_be_terminated_while_it_starts(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::create(host, linux("starting")).await?;
    // Both are asked for before anything of the start is done.
    let (started, terminated) = tokio::join!(vm.start(), vm.terminate());
    terminated?;
    let error = failure("start", started)?;
    assert!(matches!(error.kind(), ErrorKind::WrongState | ErrorKind::Exited), "{error:?}");
    assert_eq!(vm.wait().await?, ExitStatus::Terminated);
    vm.close().await
}

pub(super) async fn a_vm_whose_last_handle_is_dropped_is_gone(host: &dyn Host) -> TestResult<usize> {
    let vm = Subject::create(host, linux("dropped-unstarted")).await?;
    let before = vm.gone().await?;
    let vm = Subject::boot(host, linux("dropped")).await?;
    let another = (*vm).clone();
    drop(another);
    assert_eq!(vm.exit_status(), None, "one handle is left");
    Ok(before + vm.gone().await?)
}
