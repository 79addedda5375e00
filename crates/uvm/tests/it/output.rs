//! The guest's output: how long its handler is waited for, and where it ends.

use std::time::Duration;

use tokio::time::Instant;
use uvm::platform::vm::VmEvent;
use uvm::{ExitStatus, LcowOptions, OutputHandler};

use crate::support::{LONG, Played, TestResult, nothing_left, settle, within_a_day};

#[tokio::test(start_paused = true)]
async fn close_waits_until_the_output_was_handled() -> TestResult {
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let handler = OutputHandler::new(move |id, mut stream| {
        let sender = sender.clone();
        async move {
            let mut bytes = Vec::new();
            // The VM's end cuts it.
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = sender.send((id, bytes));
        }
    });
    let (played, mut guest) = Played::boot_with(|options| options.output_handler = Some(handler)).await?;
    let log = guest.log.as_mut().ok_or("no log")?;
    tokio::io::AsyncWriteExt::write_all(log, b"{\"msg\":\"hi\"}").await?;
    let (closed, waited) = tokio::join!(played.vm.close(), played.vm.wait());
    closed?;
    waited?;
    let (id, bytes) = received.try_recv()?;
    assert_eq!((&id, bytes.as_slice()), (played.vm.id(), &b"{\"msg\":\"hi\"}"[..]));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_output_handler_that_never_returns_does_not_hold_up_close() -> TestResult {
    let handler = OutputHandler::new(|_, stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    });
    let (played, _guest) = Played::boot_with(|options| options.output_handler = Some(handler)).await?;
    let began = Instant::now();
    played.vm.close().await?;
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    // Whoever waits for the output waits for the handler.
    assert!(tokio::time::timeout(LONG, played.vm.wait()).await.is_err());
    let Played { host, vm, end, .. } = played;
    drop((vm, end));
    nothing_left(&host).await
}

#[tokio::test(start_paused = true)]
async fn an_output_handler_that_never_returns_does_not_fail_a_short_close() -> TestResult {
    let handler = OutputHandler::new(|_, _| std::future::pending());
    let change = |options: &mut LcowOptions| {
        options.output_handler = Some(handler);
        options.deadlines.close = Duration::from_millis(500);
    };
    let (played, _guest) = Played::boot_with(change).await?;
    let began = Instant::now();
    played.vm.close().await?;
    assert_eq!(began.elapsed(), Duration::from_millis(500));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn the_output_of_a_guest_that_outlives_its_host_ends_with_the_vm() -> TestResult {
    let (sender, received) = tokio::sync::oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let handler = OutputHandler::new(move |_, mut stream| {
        let sender = sender.lock().ok().and_then(|mut sender| sender.take());
        async move {
            let mut bytes = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await;
            if let Some(sender) = sender {
                let _ = sender.send(read.map(|_| bytes));
            }
        }
    });
    let (played, mut guest) = Played::boot_with(|options| options.output_handler = Some(handler)).await?;
    let log = guest.log.as_mut().ok_or("no log")?;
    let lost = ExitStatus::Abnormal("lost communication".into());
    // Its streams stay as they are.
    played.end.tell(VmEvent::Exited(lost.clone()));
    settle().await;
    tokio::io::AsyncWriteExt::write_all(log, b"still here").await?;
    assert_eq!(within_a_day(played.vm.wait()).await??, lost);
    assert_eq!(received.await??, b"still here");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_output_handler_that_panics_is_done() -> TestResult {
    let while_it_runs = OutputHandler::new(|_, _| async { panic!("planted") });
    let when_it_is_called = OutputHandler::new(|_, _| -> std::future::Ready<()> { panic!("planted") });
    for handler in [while_it_runs, when_it_is_called] {
        let (played, _guest) = Played::boot_with(|options| options.output_handler = Some(handler)).await?;
        played.end.exit(ExitStatus::PoweredOff);
        assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::PoweredOff);
        played.close().await?;
    }
    Ok(())
}
