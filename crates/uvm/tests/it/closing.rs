//! Closing: at once, once, together, after it failed.

use std::time::Duration;

use tokio::time::Instant;
use uvm::platform::fake::Fault;
use uvm::{Deadlines, ErrorKind, ExitStatus, Refusal};

use crate::lifecycle::refused;
use crate::support::{Played, TestResult, chain, poll_once, settle, within_a_day};

#[tokio::test(start_paused = true)]
async fn d7_a_vm_that_was_never_started_closes_at_once() -> TestResult {
    let played = Played::create().await?;
    let began = Instant::now();
    played.vm.close().await?;
    // Nor does anybody else wait for output that will never come.
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
    assert_eq!(began.elapsed(), Duration::ZERO);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d26_a_second_close_is_success_and_asks_the_host_nothing() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.vm.close().await?;
    played.vm.close().await?;
    let closes = played.host.calls().iter().filter(|call| *call == "close").count();
    assert_eq!((closes, played.host.calls().iter().any(|call| call == "terminate")), (1, false));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d76_a_close_that_fails_is_told_and_can_be_tried_again() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.host.plant("close", 0, Fault::Fail);
    let error = played.vm.close().await.expect_err("the host failed");
    assert_eq!(error.kind(), ErrorKind::Host);
    assert!(chain(&error).ends_with("cannot close: a planted fault"), "{}", chain(&error));
    assert_eq!(played.vm.exit_status(), None, "it runs");
    played.vm.close().await?;
    assert_eq!(within_a_day(played.vm.wait()).await??, ExitStatus::Terminated);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d76_a_close_that_hangs_ends_in_time() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.host.plant("close", 0, Fault::Hang);
    let began = Instant::now();
    let error = played.vm.close().await.expect_err("the host hangs");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), Deadlines::default().close);
    let text = chain(&error);
    assert!(text.contains("to close the VM: no answer within 15s") && text.contains("is running"), "{text}");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn two_who_close_at_the_same_time_share_the_outcome() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    for fault in [Fault::Fail, Fault::Hang] {
        played.host.plant("close", 0, fault);
        let (first, second) = tokio::join!(played.vm.close(), played.vm.close());
        let (first, second) = (first.expect_err("planted"), second.expect_err("planted"));
        assert_eq!((first.kind(), chain(&first)), (second.kind(), chain(&second)));
        assert!(first.kind() != ErrorKind::WrongState, "{first}");
    }
    let (first, second) = tokio::join!(played.vm.close(), played.vm.close());
    first?;
    second?;
    assert_eq!(played.host.calls().iter().filter(|call| *call == "close").count(), 3);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_close_whose_caller_gave_up_goes_on() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    played.host.plant("close", 0, Fault::Slow(Duration::from_secs(3)));
    let mut closing = Box::pin(played.vm.close());
    poll_once(&mut closing).await;
    drop(closing);
    settle().await;
    assert_eq!(refused(played.vm.dump_stacks().await), Some(Refusal::Closed));
    let began = Instant::now();
    played.vm.close().await?;
    assert!(began.elapsed() > Duration::from_secs(2), "it is the same close");
    assert_eq!(played.host.calls().iter().filter(|call| *call == "close").count(), 1);
    played.close().await
}
