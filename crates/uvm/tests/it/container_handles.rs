//! Handles of containers that somebody else made, what they hear, and containers whose end no guest tells.

use uvm::wire::call::Done;
use uvm::wire::create::Create;
use uvm::wire::execute::ExecuteProcess;
use uvm::wire::notification::ExitType;
use uvm::wire::properties::GetProperties;
use uvm::wire::system::{DeleteContainerState, ShutdownForced, ShutdownGraceful};
use uvm::wire::{Failure, Hresult};
use uvm::{Container, ContainerEnd, ContainerError, ContainerStdio, ErrorKind, ExitStatus, Refusal, UvmError};
use uvm_testkit::guest::Guest;

use crate::container::{container_error, ended, made, options};
use crate::support::{
    GuestProcess, Played, TestResult, code, create_container, nothing_left, poll_once, settle, silence, within_a_day,
};

#[tokio::test(start_paused = true)]
async fn a_container_can_be_opened_as_often_as_one_likes() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let made = made(&played, &mut guest, "c").await?;
    let opened = [played.vm.open_container("c")?, played.vm.open_container("c")?];
    silence(&mut guest).await?;
    let stdio = ContainerStdio { stdout: true, ..ContainerStdio::default() };
    let (init, served) = tokio::join!(opened[0].start(stdio), GuestProcess::begin(&mut guest, 100));
    let (init, served) = (init?, served?);
    assert_eq!((opened[0].id(), served.container.as_str()), ("c", "c"));
    served.exit(&mut guest, code(7)).await?;
    init.output().await?;
    guest.notify(&ended("c", ExitType::UnexpectedExit)).await?;
    for handle in [&made, &opened[0], &opened[1]] {
        assert_eq!(within_a_day(handle.wait()).await?, ContainerEnd::Notified(ExitType::UnexpectedExit));
    }
    // Who opens it now hears it from the one who made it.
    let late = played.vm.open_container("c")?;
    assert_eq!(within_a_day(late.wait()).await?, ContainerEnd::Notified(ExitType::UnexpectedExit));
    drop((made, opened, late));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn closing_one_handle_closes_no_other() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let made = made(&played, &mut guest, "c").await?;
    let (first, second) = (played.vm.open_container("c")?, played.vm.open_container("c")?);
    let mut waiting = Box::pin(second.wait());
    poll_once(&mut waiting).await;
    first.close();
    drop(made);
    assert_eq!(first.wait().await, ContainerEnd::Closed);
    settle().await;
    poll_once(&mut waiting).await;
    guest.notify(&ended("c", ExitType::ForcedExit)).await?;
    assert_eq!(within_a_day(waiting).await?, ContainerEnd::Notified(ExitType::ForcedExit));
    drop((first, second));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_nothing_keeps_no_id_and_hears_of_what_is_made_later() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let opened = played.vm.open_container("c")?;
    let container = made(&played, &mut guest, "c").await?;
    guest.notify(&ended("c", ExitType::GracefulExit)).await?;
    assert_eq!(within_a_day(opened.wait()).await?, ContainerEnd::Notified(ExitType::GracefulExit));
    drop((opened, container));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_container_that_the_guest_does_not_know_is_not_found() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let unknown = played.vm.open_container("no-such-container")?;
    let gone = || Failure::code(Hresult::SYSTEM_NOT_FOUND);
    let (told, asked) = tokio::join!(unknown.processes(), guest.refuse::<GetProperties>(gone()));
    asked?;
    assert_eq!(told.expect_err("unknown").kind(), ErrorKind::NotFound);
    let (started, asked) =
        tokio::join!(unknown.start(ContainerStdio::default()), guest.refuse::<ExecuteProcess>(gone()));
    asked?;
    assert_eq!(started.expect_err("unknown").kind(), ErrorKind::NotFound);
    let (deleted, asked) = tokio::join!(unknown.delete_state(), guest.refuse::<DeleteContainerState>(gone()));
    asked?;
    assert_eq!(deleted.expect_err("unknown").kind(), ErrorKind::NotFound);
    // What is not there need not be ended.
    let (ended, asked) = tokio::join!(unknown.shutdown(), guest.refuse::<ShutdownGraceful>(gone()));
    asked?;
    ended?;
    drop(unknown);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_handle_never_means_the_vm_itself() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for id in ["00000000-0000-0000-0000-000000000000", "", "..", "a/b"] {
        let error = played.vm.open_container(id).expect_err(id);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(container_error(error), ContainerError::Id(_)), "{id:?}");
    }
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn only_a_container_of_a_running_vm_can_be_opened() -> TestResult {
    let played = Played::create().await?;
    assert!(!played.vm.delete_container_state_supported(), "nobody asked the agent yet");
    let error = played.vm.open_container("c").expect_err("it was not started");
    assert!(matches!(error, UvmError::Refused { why: Refusal::NotStarted, .. }), "{error:?}");
    let _guest = played.start(Guest::capabilities()).await?;
    assert!(played.vm.delete_container_state_supported());
    let opened = played.vm.open_container("c")?;
    played.end.exit(ExitStatus::Panicked);
    assert_eq!(within_a_day(opened.wait()).await?, ContainerEnd::BridgeClosed);
    within_a_day(played.vm.wait()).await??;
    let errors = [
        played.vm.open_container("c").map(drop).expect_err("it has ended"),
        opened.update("{}").await.expect_err("it has ended"),
        opened.processes().await.map(drop).expect_err("it has ended"),
    ];
    for error in errors {
        assert!(matches!(error, UvmError::Exited { status: ExitStatus::Panicked, .. }), "{error:?}");
    }
    drop(opened);
    played.close().await
}

async fn deleted(container: &Container, guest: &mut Guest) -> TestResult {
    let (deleted, asked) =
        tokio::join!(container.delete_state(), guest.answer::<DeleteContainerState>(Done::default()));
    asked?;
    Ok(deleted?)
}

/// Guests do not tell its end, as nobody waited for its init process.
#[tokio::test(start_paused = true)]
async fn a_container_that_was_never_started_has_ended_once_its_state_is_deleted() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let other = played.vm.open_container("c")?;
    let mut waiting = Box::pin(container.wait());
    let (sent, asked) = tokio::join!(container.terminate(), guest.answer::<ShutdownForced>(Done::default()));
    asked?;
    sent?;
    poll_once(&mut waiting).await;
    deleted(&other, &mut guest).await?;
    assert_eq!(within_a_day(waiting).await?, ContainerEnd::Deleted);
    assert_eq!(within_a_day(other.wait()).await?, ContainerEnd::Deleted);
    drop((container, other));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn state_that_is_not_deleted_ends_nothing() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let running = Failure::wrapping(Hresult::INVALID_STATE, "container not stopped");
    let (deleted_early, asked) = tokio::join!(container.delete_state(), guest.refuse::<DeleteContainerState>(running));
    asked?;
    assert_eq!(deleted_early.expect_err("it runs").kind(), ErrorKind::WrongState);
    let mut waiting = Box::pin(container.wait());
    poll_once(&mut waiting).await;
    guest.notify(&ended("c", ExitType::UnexpectedExit)).await?;
    assert_eq!(within_a_day(waiting).await?, ContainerEnd::Notified(ExitType::UnexpectedExit));
    deleted(&container, &mut guest).await?;
    assert_eq!(container.wait().await, ContainerEnd::Notified(ExitType::UnexpectedExit), "the first word counts");
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_to_a_shutdown_that_was_given_up_does_no_harm() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let mut asking = Box::pin(container.shutdown());
    poll_once(&mut asking).await;
    let given_up = guest.expect::<ShutdownGraceful>().await?;
    drop(asking);
    let (done, expired) =
        within_a_day(async { tokio::join!(container.shutdown(), guest.expect::<ShutdownGraceful>()) }).await?;
    assert_eq!(done.expect_err("no answer").kind(), ErrorKind::Timeout);
    for late in [given_up, expired?] {
        guest.reply::<ShutdownGraceful>(&late, Ok(Done::default())).await?;
    }
    let (done, asked) = tokio::join!(container.terminate(), guest.answer::<ShutdownForced>(Done::default()));
    asked?;
    done?;
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_opened_container_is_a_handle_of_its_vm() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let opened = played.vm.open_container("c")?;
    drop(played.vm);
    settle().await;
    assert_eq!(played.host.leftovers().get("vms"), Some(&1));
    drop(opened);
    nothing_left(&played.host).await
}

/// An id that the guest has taken, by a container of which no handle is open, is the guest's to refuse.
#[tokio::test(start_paused = true)]
async fn d68_an_id_that_the_guest_refused_can_be_opened_and_made_again() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let failure = Failure::code(Hresult::SYSTEM_ALREADY_EXISTS);
    let (container, asked) = tokio::join!(create_container(&played.vm, options("c")), guest.refuse::<Create>(failure));
    asked?;
    assert_eq!(container.expect_err("the guest has it").kind(), ErrorKind::AlreadyExists);
    let opened = played.vm.open_container("c")?;
    deleted(&opened, &mut guest).await?;
    drop(made(&played, &mut guest, "c").await?);
    drop(opened);
    played.close().await
}
