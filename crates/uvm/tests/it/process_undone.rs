//! Processes that do not start, or that nobody would learn the end of, or nobody wants any more: nothing of them is left.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use uvm::platform::fake::Fault;
use uvm::wire::call::Done;
use uvm::wire::execute::{ExecuteProcess, ExecuteProcessReply, VsockStdio};
use uvm::wire::process::{SignalProcess, WaitForProcess};
use uvm::wire::{Failure, Hresult};
use uvm::{BridgeError, Deadlines, ErrorKind, ProgramError, UvmError};

use crate::process::{running, sleep};
use crate::support::{
    GuestProcess, Played, TestResult, chain, code, executes, poll_once, settle, silence, within_a_day,
};

/// Why a program could not be started.
fn program_error(error: UvmError) -> ProgramError {
    match error {
        UvmError::Program { source, .. } => *source,
        other => panic!("no error of a program: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_program_that_is_not_there_is_told_apart() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for (errno, kind) in [
        (Some(2), ErrorKind::NotFound),
        (Some(20), ErrorKind::NotFound),
        (Some(13), ErrorKind::PermissionDenied),
        (Some(8), ErrorKind::PermissionDenied),
        (Some(12), ErrorKind::Guest),
        (None, ErrorKind::Guest),
    ] {
        let failure = Failure { errno, ..Failure::plain("no") };
        let spec = sleep();
        let (created, served) = tokio::join!(played.vm.create_process(&spec), guest.refuse::<ExecuteProcess>(failure));
        served?;
        let error = created.expect_err("refused");
        assert_eq!(error.kind(), kind, "{errno:?}");
        let told = format!("cannot run \"sleep\" in utility VM {}: guest RPC failure: no", played.vm.id());
        assert!(chain(&error).starts_with(&told), "{}", chain(&error));
        assert_eq!(played.host.leftovers().get("ports"), None);
    }
    // Something else of the request is wrong, whatever the errno would say of a program.
    let directory = Failure::wrapping(Hresult::INVALID_ARGUMENT, "working directory").with_errno(2);
    let spec = sleep();
    let (created, served) = tokio::join!(played.vm.create_process(&spec), guest.refuse::<ExecuteProcess>(directory));
    served?;
    assert_eq!(created.expect_err("refused").kind(), ErrorKind::InvalidInput);
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_port_that_cannot_be_had_is_named_and_the_guest_is_not_asked() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for (port, name) in
        [("listen 0x40000001", "stdin"), ("listen 0x40000003", "stdout"), ("listen 0x40000006", "stderr")]
    {
        played.host.plant(port, 0, Fault::Fail);
        let error = played.vm.create_process(&sleep().with_stdin()).await.expect_err(port);
        assert_eq!(error.kind(), ErrorKind::Host);
        assert!(matches!(program_error(error), ProgramError::Port { stream, .. } if stream == name), "{port}");
        assert_eq!(played.host.leftovers().get("ports"), None);
    }
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d73_a_stream_that_is_not_dialled_fails_the_process_and_kills_it() -> TestResult {
    for (missing, name) in ["stdin", "stdout", "stderr"].into_iter().enumerate() {
        let (played, mut guest) = Played::boot().await?;
        let spec = sleep().with_stdin();
        let began = Instant::now();
        let serve = async {
            let received = guest.expect::<ExecuteProcess>().await?;
            let asked = executes(&received).settings.vsock_stdio.unwrap_or_default();
            let mut ports = [asked.stdin, asked.stdout, asked.stderr];
            ports[missing] = None;
            let [stdin, stdout, stderr] = ports;
            let streams = guest.dial_stdio(&VsockStdio { stdin, stdout, stderr }).await?;
            guest.reply::<ExecuteProcess>(&received, Ok(ExecuteProcessReply { process_id: 7 })).await?;
            let asked = guest.answer::<SignalProcess>(Done::default()).await?;
            assert_eq!(asked.request.call, SignalProcess::kill(7).into());
            TestResult::Ok(streams)
        };
        let (created, served) = within_a_day(async { tokio::join!(played.vm.create_process(&spec), serve) }).await?;
        let mut streams = served?;
        let error = created.expect_err(name);
        let waited = Deadlines::default().stdio_dial;
        assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, waited));
        assert!(chain(&error).ends_with(&format!("did not connect its {name} within {waited:?}")), "{}", chain(&error));
        assert_eq!(played.host.leftovers().get("ports"), None);
        for stream in streams.iter_mut().flatten() {
            stream.read_u8().await.expect_err("it was cut");
        }
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d32_a_process_is_killed_within_a_limit_of_its_own() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let began = Instant::now();
    let serve = async {
        let received = guest.expect::<ExecuteProcess>().await?;
        guest.reply::<ExecuteProcess>(&received, Ok(ExecuteProcessReply { process_id: 7 })).await?;
        // The streams have not come in time. The guest is as slow with this.
        let asked = guest.expect::<SignalProcess>().await?;
        tokio::time::sleep(Duration::from_secs(20)).await;
        guest.reply::<SignalProcess>(&asked, Ok(Done::default())).await?;
        TestResult::Ok(())
    };
    let spec = sleep();
    let create = async { (played.vm.create_process(&spec).await, began.elapsed()) };
    let ((created, took), served) = within_a_day(async { tokio::join!(create, serve) }).await?;
    served?;
    assert!(matches!(program_error(created.expect_err("no streams")), ProgramError::StreamNotDialled { .. }));
    assert_eq!(took, Deadlines::default().stdio_dial + Duration::from_secs(20));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d72_a_process_whose_end_nobody_would_learn_of_is_killed() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (process, served) = running(&played, &mut guest, &sleep()).await?;
    guest.reply::<WaitForProcess>(&served.wait, Err(Failure::code(Hresult::FAIL))).await?;
    let asked = within_a_day(guest.answer::<SignalProcess>(Done::default())).await??;
    assert_eq!(asked.request.call, SignalProcess::kill(1000).into());
    let error = process.wait().await.expect_err("nobody knows");
    assert_eq!(error.kind(), ErrorKind::Guest);
    drop(process);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_after_its_caller_was_told_it_does_not_is_killed() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let spec = sleep();
    let (created, received) =
        within_a_day(async { tokio::join!(played.vm.create_process(&spec), guest.expect::<ExecuteProcess>()) }).await?;
    let error = created.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let ProgramError::Guest(BridgeError::Timeout { waited, .. }) = program_error(error) else {
        panic!("another error")
    };
    assert_eq!(waited, Deadlines::default().rpc);
    assert_eq!(played.host.leftovers().get("ports"), None);
    guest.reply::<ExecuteProcess>(&received?, Ok(ExecuteProcessReply { process_id: 7 })).await?;
    let asked = within_a_day(guest.answer::<SignalProcess>(Done::default())).await??;
    assert_eq!(asked.request.call, SignalProcess::kill(7).into());
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_process_whose_caller_gave_up_is_killed_whenever_that_was() -> TestResult {
    for answered_first in [false, true] {
        let (played, mut guest) = Played::boot().await?;
        let spec = sleep();
        let mut creating = Box::pin(played.vm.create_process(&spec));
        poll_once(&mut creating).await;
        if answered_first {
            let served = GuestProcess::begin(&mut guest, 7).await?;
            settle().await;
            // The process is there for the taking.
            drop(creating);
            let asked = within_a_day(guest.answer::<SignalProcess>(Done::default())).await??;
            assert_eq!(asked.request.call, SignalProcess::kill(7).into());
            served.exit(&mut guest, code(0)).await?;
        } else {
            let received = guest.expect::<ExecuteProcess>().await?;
            drop(creating);
            let stdio = executes(&received).settings.vsock_stdio.unwrap_or_default();
            let _streams = guest.dial_stdio(&stdio).await?;
            guest.reply::<ExecuteProcess>(&received, Ok(ExecuteProcessReply { process_id: 7 })).await?;
            let mut asked =
                [guest.next().await?, within_a_day(guest.next()).await??].map(|asked| asked.map(|a| a.request.call));
            asked.sort_by_key(|call| call.as_ref().map(uvm::wire::Call::message_type));
            let calls = [WaitForProcess::forever(7).into(), SignalProcess::kill(7).into()].map(Some);
            assert_eq!(asked, calls);
        }
        settle().await;
        assert_eq!(played.host.leftovers().get("streams"), Some(&2), "the bridge and the log");
        played.close().await?;
    }
    Ok(())
}
