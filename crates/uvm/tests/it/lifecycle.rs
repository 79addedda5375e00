//! From creation to the end: what is allowed when, what the host is asked for, what goes wrong there.

use std::error::Error;
use std::time::Duration;

use tokio::time::Instant;
use uvm::platform::PlatformError;
use uvm::platform::fake::Fault;
use uvm::platform::vm::VmEvent;
use uvm::wire::system::{DumpStacks, DumpStacksReply, ShutdownGraceful};
use uvm::wire::{Failure, Hresult};
use uvm::{BridgeError, Deadlines, ErrorKind, ExitStatus, ProcessSpec, Refusal, UtilityVm, UvmError};

use crate::support::{Played, TestResult, chain, container, create_container, nothing_left, settle, within_a_day};

/// Why an operation was refused.
pub(crate) fn refused<T>(result: Result<T, UvmError>) -> Option<Refusal> {
    match result.err() {
        Some(UvmError::Refused { why, .. }) => Some(why),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_host_is_asked_for_each_thing_once_and_in_order() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.vm.pause().await?;
    played.vm.resume().await?;
    assert_eq!(played.vm.properties().await?.state, "running");
    played.vm.terminate().await?;
    let host = played.host.clone();
    played.close().await?;
    let listen = ["listen 1", "listen 109", "listen 0x40000000"];
    let calls = [&["create"][..], &listen, &["start", "pause", "resume", "properties", "terminate", "close"]].concat();
    assert_eq!(host.calls(), calls);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d30_waiting_tells_how_a_vm_ended() -> TestResult {
    for (status, clean) in [
        (ExitStatus::PoweredOff, true),
        (ExitStatus::Reset, false),
        (ExitStatus::Panicked, false),
        (ExitStatus::HostProcessExited(3), false),
        (ExitStatus::HostProcessKilled(9), false),
        (ExitStatus::Abnormal("unexpected exit".into()), false),
    ] {
        let (played, _guest) = Played::boot().await?;
        assert_eq!(played.vm.exit_status(), None);
        assert_eq!(refused(played.vm.exit_error()), Some(Refusal::NotEnded));
        let waiting = tokio::spawn({
            let vm = played.vm.clone();
            async move { vm.wait().await }
        });
        settle().await;
        played.end.exit(status.clone());
        assert_eq!(within_a_day(waiting).await???, status);
        assert_eq!(played.vm.exit_status(), Some(status.clone()));
        match played.vm.exit_error() {
            Ok(()) => assert!(clean, "{status}"),
            Err(error) => {
                assert!(!clean && error.kind() == ErrorKind::Exited, "{error}");
                assert!(error.to_string().contains(&status.to_string()), "{error}");
            }
        }
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d75_a_second_start_is_refused_and_the_host_is_not_asked_again() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let error = played.vm.start().await.expect_err("it was started");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert_eq!(refused(Err::<(), _>(error)), Some(Refusal::AlreadyStarted));
    played.end.exit(ExitStatus::PoweredOff);
    within_a_day(played.vm.wait()).await??;
    let error = played.vm.start().await.expect_err("it has ended");
    assert!(matches!(error, UvmError::Exited { status: ExitStatus::PoweredOff, .. }), "{error}");
    assert_eq!(played.host.calls().iter().filter(|call| *call == "start").count(), 1);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_host_that_hangs_is_not_waited_for_for_ever() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let deadlines = Deadlines::default();
    for (operation, limit) in [
        ("pause", deadlines.host_call),
        ("resume", deadlines.host_call),
        ("properties", deadlines.host_call),
        ("terminate", deadlines.terminate),
    ] {
        played.host.plant(operation, 0, Fault::Hang);
        let began = Instant::now();
        let error = within_a_day(on_host(&played.vm, operation)).await?.expect_err(operation);
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(
            (limit..limit + Duration::from_secs(2)).contains(&began.elapsed()),
            "{operation}: {:?}",
            began.elapsed()
        );
        assert!(chain(&error).contains(&format!("no answer within {limit:?}; fake VM")), "{}", chain(&error));
    }
    assert_eq!(played.vm.exit_status(), None);
    played.vm.terminate().await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d77_a_closed_vm_refuses_to_be_inspected_without_asking_the_host() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.vm.close().await?;
    assert_eq!(refused(played.vm.properties().await), Some(Refusal::Closed));
    assert_eq!(refused(played.vm.pause().await), Some(Refusal::Closed));
    assert_eq!(refused(played.vm.start().await), Some(Refusal::Closed));
    assert_eq!(refused(played.vm.dump_stacks().await), Some(Refusal::Closed));
    assert_eq!(refused(played.vm.create_process(&ProcessSpec::new(["true"])).await), Some(Refusal::Closed));
    assert_eq!(refused(create_container(&played.vm, container("c")).await), Some(Refusal::Closed));
    played.vm.terminate().await?;
    played.vm.shutdown().await?;
    assert_eq!(played.host.calls().last().map(String::as_str), Some("close"));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_to_a_vm_that_was_not_started() -> TestResult {
    let played = Played::create().await?;
    assert_eq!(refused(played.vm.pause().await), Some(Refusal::NotStarted));
    assert_eq!(refused(played.vm.resume().await), Some(Refusal::NotStarted));
    assert_eq!(refused(played.vm.shutdown().await), Some(Refusal::NotStarted));
    assert_eq!(refused(create_container(&played.vm, container("c")).await), Some(Refusal::NotStarted));
    assert_eq!(played.vm.properties().await?.state, "not started");
    assert_eq!(played.vm.capabilities(), None);
    played.vm.terminate().await?;
    assert!(matches!(played.vm.start().await, Err(UvmError::Exited { status: ExitStatus::Terminated, .. })));
    played.close().await
}

/// Pause, resume and terminate, by name.
async fn on_host(vm: &UtilityVm, operation: &str) -> Result<(), UvmError> {
    match operation {
        "pause" => vm.pause().await,
        "resume" => vm.resume().await,
        "terminate" => vm.terminate().await,
        "properties" => vm.properties().await.map(drop),
        other => panic!("no operation: {other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_is_quoted_and_the_vm_goes_on() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for operation in ["pause", "resume", "properties", "terminate"] {
        played.host.plant(operation, 0, Fault::Fail);
        let error = on_host(&played.vm, operation).await.expect_err(operation);
        assert_eq!(error.kind(), ErrorKind::Host, "{error}");
        assert!(matches!(error, UvmError::Operation { .. }), "{error}");
        assert!(chain(&error).ends_with(&format!("cannot {operation}: a planted fault")), "{}", chain(&error));
    }
    let reply = DumpStacksReply { guest_stacks: "here".into() };
    let (stacks, served) = tokio::join!(played.vm.dump_stacks(), guest.answer::<DumpStacks>(reply));
    served?;
    assert_eq!(stacks?, "here");
    for operation in ["pause", "resume", "properties", "terminate"] {
        on_host(&played.vm, operation).await?;
    }
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_a_vm_in_any_state() -> TestResult {
    let played = Played::create().await?;
    drop(played.vm);
    nothing_left(&played.host).await?;

    let (played, mut guest) = Played::boot().await?;
    let another = played.vm.clone();
    drop(played.vm);
    settle().await;
    assert_eq!(another.exit_status(), None, "it has a handle");
    drop(another);
    nothing_left(&played.host).await?;
    guest.next().await.expect_err("its bridge was cut");

    let (played, _guest) = Played::boot().await?;
    played.vm.terminate().await?;
    drop(played.vm);
    nothing_left(&played.host).await
}

#[tokio::test(start_paused = true)]
async fn shutdown_asks_the_guest_and_waits_for_the_end_of_the_vm() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let end = played.end.clone();
    let power_off = async {
        let asked = guest.expect::<ShutdownGraceful>().await?;
        assert!(asked.request.base.container_id.is_uvm());
        end.exit(ExitStatus::PoweredOff);
        TestResult::Ok(())
    };
    let (down, off) = tokio::join!(played.vm.shutdown(), power_off);
    down?;
    off?;
    assert_eq!(played.vm.exit_status(), Some(ExitStatus::PoweredOff));
    played.vm.exit_error()?;
    played.vm.shutdown().await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_power_off_is_told_in_time_and_still_runs() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let began = Instant::now();
    let (down, asked) = tokio::join!(played.vm.shutdown(), guest.expect::<ShutdownGraceful>());
    asked?;
    let error = down.expect_err("nothing happens");
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, Deadlines::default().shutdown));
    assert_eq!(played.vm.exit_status(), None);
    // That the bridge ends is not the end of the VM.
    let began = Instant::now();
    let hang_up = async {
        guest.expect::<ShutdownGraceful>().await?;
        guest.hang_up().await
    };
    let (down, cut) = tokio::join!(played.vm.shutdown(), hang_up);
    cut?;
    assert_eq!(down.expect_err("it runs").kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), Deadlines::default().shutdown);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_to_power_off_is_quoted() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (down, served) = tokio::join!(played.vm.shutdown(), guest.refuse::<ShutdownGraceful>(Failure::plain("no")));
    served?;
    let error = down.expect_err("refused");
    assert_eq!((error.kind(), chain(&error).ends_with("guest RPC failure: no")), (ErrorKind::Guest, true), "{error}");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_lost_transport_is_told_and_leaves_only_the_end() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.end.tell(VmEvent::Broken { why: "a test".into() });
    settle().await;
    assert_eq!(refused(played.vm.dump_stacks().await), Some(Refusal::Broken));
    assert_eq!(refused(played.vm.shutdown().await), Some(Refusal::Broken));
    assert_eq!(refused(played.vm.start().await), Some(Refusal::AlreadyStarted));
    played.vm.pause().await?;
    played.vm.terminate().await?;
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_panicking_kernel_is_no_end_of_its_own() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.end.tell(VmEvent::GuestPanicked);
    settle().await;
    assert_eq!(played.vm.exit_status(), None);
    played.end.exit(ExitStatus::Panicked);
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Panicked);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d28_the_cause_of_a_failure_can_be_told_by_its_type() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    played.host.plant("pause", 0, Fault::Fail);
    let error = played.vm.pause().await.expect_err("planted");
    let cause = error.source().and_then(|cause| cause.downcast_ref::<PlatformError>());
    let Some(PlatformError::Host { intent, source }) = cause else { panic!("{error:?}") };
    assert_eq!((intent.as_str(), source.to_string().as_str()), ("pause", "a planted fault"));
    let failure = Failure::code(Hresult::NOT_FOUND);
    let (stacks, served) = tokio::join!(played.vm.dump_stacks(), guest.refuse::<DumpStacks>(failure));
    served?;
    let error = stacks.expect_err("refused");
    let cause = error.source().and_then(|cause| cause.downcast_ref::<BridgeError>());
    let failure = cause.and_then(BridgeError::failure);
    assert_eq!(failure.map(|failure| failure.result), Some(Hresult::NOT_FOUND));
    played.close().await
}
