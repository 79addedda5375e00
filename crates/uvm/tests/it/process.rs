//! Processes: streams before the start, signals, the end told once.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use uvm::wire::call::Done;
use uvm::wire::execute::{ConsoleSize, ExecuteProcess, VsockStdio};
use uvm::wire::process::{ResizeConsole, SignalProcess, WaitForProcessReply};
use uvm::wire::{Failure, Hresult};
use uvm::{ErrorKind, ExitStatus, Process, ProcessExit, ProcessSpec, TerminalSize, UvmError};
use uvm_testkit::guest::Guest;

use crate::support::{
    GuestProcess, Played, TestResult, code, container, create_container, nothing_left, poll_once, settle, silence,
};

/// A process that runs, and what the guest has of it.
pub(crate) async fn running(
    played: &Played,
    guest: &mut Guest,
    spec: &ProcessSpec,
) -> TestResult<(Process, GuestProcess)> {
    let (created, served) = tokio::join!(played.vm.create_process(spec), GuestProcess::begin(guest, 1000));
    Ok((created?, served?))
}

pub(crate) fn sleep() -> ProcessSpec {
    ProcessSpec::new(["sleep", "1000"])
}

#[tokio::test(start_paused = true)]
async fn what_is_written_arrives_and_what_is_read_is_all_there_is() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let spec = ProcessSpec::new(["cat", "-"]).with_stdin().with_env("A", "b").with_cwd("/tmp");
    let (mut process, mut served) = running(&played, &mut guest, &spec).await?;
    let parameters = &served.asked.settings.parameters;
    assert_eq!((parameters.command_args.join(" "), parameters.working_directory.as_str()), ("cat -".into(), "/tmp"));
    assert_eq!(parameters.environment, [("A".to_owned(), "b".to_owned())].into());
    assert!(served.container.is_uvm() && !parameters.create_in_utility_vm && !parameters.emulate_console);
    let ports: [u32; 3] = [0x4000_0001, 0x4000_0002, 0x4000_0003];
    let [stdin, stdout, stderr] = ports.map(NonZeroU32::new);
    assert_eq!(served.asked.settings.vsock_stdio, Some(VsockStdio { stdin, stdout, stderr }));
    assert_eq!(played.host.leftovers().get("ports"), None, "each port takes one connection");

    process.stdin.as_mut().ok_or("no input")?.write_all(b"through").await?;
    process.close_stdin().await?;
    let mut input = Vec::new();
    served.streams[0].as_mut().ok_or("no input")?.read_to_end(&mut input).await?;
    assert_eq!(input, b"through");
    served.streams[1].as_mut().ok_or("no output")?.write_all(b"out").await?;
    served.streams[2].as_mut().ok_or("no error output")?.write_all(b"err").await?;
    served.exit(&mut guest, code(3)).await?;
    let output = process.output().await?;
    assert_eq!((output.exit, &*output.stdout, &*output.stderr), (ProcessExit::Code(3), &b"out"[..], &b"err"[..]));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn ports_are_never_used_twice() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let mut ports = Vec::new();
    for _ in 0..3 {
        let (_process, served) = running(&played, &mut guest, &sleep()).await?;
        let stdio = served.asked.settings.vsock_stdio.unwrap_or_default();
        assert_eq!(stdio.stdin, None);
        ports.extend([stdio.stdout, stdio.stderr].into_iter().flatten().map(NonZeroU32::get));
    }
    assert_eq!(ports, (0x4000_0001..0x4000_0007).collect::<Vec<u32>>());
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_terminal_is_one_stream_with_a_size() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let spec = ProcessSpec::new(["sh"]).with_stdin().with_terminal(TerminalSize { rows: 30, columns: 90 });
    let (process, served) = running(&played, &mut guest, &spec).await?;
    let parameters = &served.asked.settings.parameters;
    assert!(parameters.emulate_console && !parameters.create_stderr_pipe);
    assert_eq!(parameters.console_size, Some(ConsoleSize { height: 30, width: 90 }));
    assert!(process.stderr.is_none());
    let size = TerminalSize { rows: 40, columns: 100 };
    let (resized, asked) = tokio::join!(process.resize(size), guest.answer::<ResizeConsole>(Done::default()));
    resized?;
    assert_eq!(asked?.request.call, ResizeConsole { process_id: 1000, height: 40, width: 100 }.into());
    drop(process);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d70_a_process_without_streams_has_none() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let mut spec = sleep();
    (spec.stdout, spec.stderr) = (false, false);
    let (mut process, served) = running(&played, &mut guest, &spec).await?;
    assert_eq!(served.asked.settings.vsock_stdio, Some(VsockStdio::default()));
    assert!(process.stdin.is_none() && process.stdout.is_none() && process.stderr.is_none());
    process.close_stdin().await?;
    served.exit(&mut guest, code(0)).await?;
    let output = process.output().await?;
    assert_eq!((output.exit, output.stdout.len() + output.stderr.len()), (ProcessExit::Code(0), 0));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_output_is_answered_with_the_end_of_the_other_direction() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (mut process, mut served) = running(&played, &mut guest, &sleep()).await?;
    for (ours, theirs) in [(&mut process.stdout, 1), (&mut process.stderr, 2)] {
        let theirs = served.streams[theirs].as_mut().ok_or("no stream")?;
        theirs.write_all(b"x").await?;
        theirs.shutdown().await?;
        let mut read = Vec::new();
        ours.as_mut().ok_or("no stream")?.read_to_end(&mut read).await?;
        assert_eq!(read, b"x");
        // The original's agent reads one byte and expects the end; it tells the exit only then.
        assert_eq!(theirs.read(&mut [0; 1]).await?, 0);
    }
    drop(process);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_output_that_is_dropped_early_is_cut() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (mut process, mut served) = running(&played, &mut guest, &sleep()).await?;
    drop(process.stdout.take());
    let output = served.streams[1].as_mut().ok_or("no stream")?;
    output.read_u8().await.expect_err("it was not half-closed but cut");
    output.write_all(b"x").await.expect_err("nobody reads it");
    drop(process);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_as_the_guest_tells_it() -> TestResult {
    for (reply, exit) in [
        (code(0), ProcessExit::Code(0)),
        (code(255), ProcessExit::Code(255)),
        (code(WaitForProcessReply::KILLED), ProcessExit::Signal(None)),
        (WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, signal: Some(9) }, ProcessExit::Signal(Some(9))),
    ] {
        let (played, mut guest) = Played::boot().await?;
        let (process, served) = running(&played, &mut guest, &sleep()).await?;
        let (first, second, told) = tokio::join!(process.wait(), process.wait(), served.exit(&mut guest, reply));
        told?;
        assert_eq!((first?, second?), (exit, exit));
        assert_eq!(process.wait().await?, exit, "again");
        silence(&mut guest).await?;
        drop(process);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_agent_of_the_original_can_neither_signal_nor_tell_the_signal() -> TestResult {
    let (played, mut guest) = Played::boot_original().await?;
    assert!(played.vm.signal_process_supported(), "of containers");
    let (process, served) = running(&played, &mut guest, &sleep()).await?;
    let no_container = || Err(Failure::code(Hresult::SYSTEM_NOT_FOUND));
    for step in 0..3 {
        let call = async {
            match step {
                0 => process.kill().await.map(drop),
                1 => process.signal(15).await.map(drop),
                _ => process.resize(SIZE).await,
            }
        };
        let answer = async {
            let received = guest.next().await?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            match step {
                2 => guest.reply::<ResizeConsole>(&received, no_container()).await,
                _ => guest.reply::<SignalProcess>(&received, no_container()).await,
            }
        };
        let (result, answered) = tokio::join!(call, answer);
        answered?;
        let error = result.expect_err("it cannot");
        assert!(matches!(error, UvmError::GuestUnsupported { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    silence(&mut guest).await?;
    served.exit(&mut guest, code(u32::MAX)).await?;
    assert_eq!(process.wait().await?, ProcessExit::Signal(None));
    drop(process);
    played.close().await
}

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

#[tokio::test(start_paused = true)]
async fn signals_are_sent_as_the_original_sends_them() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (process, _served) = running(&played, &mut guest, &sleep()).await?;
    let (sent, asked) = tokio::join!(process.signal(15), guest.answer::<SignalProcess>(Done::default()));
    sent?;
    assert_eq!(asked?.request.call, SignalProcess::linux(1000, 15).into());
    let (sent, asked) = tokio::join!(process.kill(), guest.answer::<SignalProcess>(Done::default()));
    sent?;
    assert_eq!(asked?.request.call, SignalProcess::kill(1000).into());
    let gone = Failure::code(Hresult::NOT_FOUND);
    let (sent, asked) = tokio::join!(process.signal(1), guest.refuse::<SignalProcess>(gone.clone()));
    sent?;
    asked?;
    let (resized, asked) = tokio::join!(process.resize(SIZE), guest.refuse::<ResizeConsole>(gone));
    resized?;
    asked?;
    drop(process);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_dropped_goes_on() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (process, served) = running(&played, &mut guest, &sleep()).await?;
    drop(process);
    silence(&mut guest).await?;
    served.exit(&mut guest, code(0)).await.ok();
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_vm_is_why_a_process_cannot_be_had_or_waited_for() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (process, _served) = running(&played, &mut guest, &sleep()).await?;
    let status = ExitStatus::HostProcessKilled(9);
    let spec = sleep();
    let end = async {
        guest.expect::<ExecuteProcess>().await?;
        played.end.exit(status.clone());
        TestResult::Ok(())
    };
    let (created, waited, ended) = tokio::join!(played.vm.create_process(&spec), process.wait(), end);
    ended?;
    let is_the_end = |error: UvmError| {
        assert_eq!(error.kind(), ErrorKind::Exited);
        assert!(matches!(&error, UvmError::Exited { status: told, .. } if *told == status), "{error}");
    };
    is_the_end(created.map(drop).expect_err("the VM is gone"));
    is_the_end(waited.map(drop).expect_err("the VM is gone"));
    is_the_end(process.kill().await.expect_err("the VM is gone"));
    is_the_end(played.vm.create_process(&spec).await.map(drop).expect_err("the VM is gone"));
    is_the_end(process.output().await.map(drop).expect_err("the VM is gone"));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_waited_for_does_not_keep_a_vm_that_nobody_has() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (process, _served) = running(&played, &mut guest, &sleep()).await?;
    drop(played.vm);
    settle().await;
    assert_eq!(played.host.leftovers().get("vms"), Some(&1), "a process is a handle");
    drop(process);
    let began = Instant::now();
    nothing_left(&played.host).await?;
    assert_eq!(began.elapsed(), Duration::ZERO);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_waits_for_does_not_keep_a_vm_that_nobody_has() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let spec = sleep();
    let mut creating = Box::pin(played.vm.create_process(&spec));
    poll_once(&mut creating).await;
    let mut dumping = Box::pin(played.vm.dump_stacks());
    poll_once(&mut dumping).await;
    let mut making = Box::pin(create_container(&played.vm, container("c")));
    poll_once(&mut making).await;
    for _ in 0..3 {
        guest.next().await?.ok_or("no request")?;
    }
    drop((creating, dumping, making));
    drop(played.vm);
    let began = Instant::now();
    nothing_left(&played.host).await?;
    assert_eq!(began.elapsed(), Duration::ZERO);
    Ok(())
}
