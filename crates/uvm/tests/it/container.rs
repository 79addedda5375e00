//! Containers: made whole or not at all, ends told once, ids free when they should be.

use std::time::Duration;

use tokio::time::Instant;
use uvm::wire::call::Done;
use uvm::wire::create::{Create, CreateReply};
use uvm::wire::execute::ExecuteProcess;
use uvm::wire::notification::ExitType;
use uvm::wire::process::SignalProcess;
use uvm::wire::system::{DeleteContainerState, ShutdownForced, ShutdownGraceful, Start};
use uvm::wire::{Call, ContainerNotification, Failure, Hresult, RawJson};
use uvm::{
    Container, ContainerEnd, ContainerError, ContainerOptions, ContainerStdio, Deadlines, ErrorKind, ExitStatus,
    ProcessExit, UvmError,
};
use uvm_testkit::guest::Guest;

use crate::support::{
    GuestProcess, Played, TestResult, chain, code, create_container, nothing_left, poll_once, settle, silence,
    within_a_day,
};

pub(crate) const SPEC: &str =
    r#"{"ociVersion":"1.0.2","process":{"args":["sh"]},"root":{"path":"/run/gcs/c/c/rootfs"},"linux":{}}"#;

pub(crate) fn options(id: &str) -> ContainerOptions {
    ContainerOptions::new(id, SPEC)
}

/// Serves the making of a container.
pub(crate) async fn serve_create(guest: &mut Guest) -> TestResult<Create> {
    let created = guest.answer::<Create>(CreateReply::default()).await?;
    let started = guest.answer::<Start>(Done::default()).await?;
    assert_eq!(created.request.base.container_id, started.request.base.container_id);
    match created.request.call {
        Call::Create(create) => Ok(*create),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn made(played: &Played, guest: &mut Guest, id: &str) -> TestResult<Container> {
    let (container, served) = tokio::join!(create_container(&played.vm, options(id)), serve_create(guest));
    served?;
    Ok(container?)
}

/// Serves the undoing of a container that nobody wants.
async fn serve_undo(guest: &mut Guest) -> TestResult {
    let killed = guest.answer::<ShutdownForced>(Done::default()).await?;
    let deleted = guest.answer::<DeleteContainerState>(Done::default()).await?;
    for received in [killed, deleted] {
        assert_eq!(received.request.base.container_id.as_str(), "c");
    }
    Ok(())
}

pub(crate) fn ended(id: &str, exit_type: ExitType) -> ContainerNotification {
    ContainerNotification::new(id.into(), None, exit_type)
}

/// Why something about a container failed.
pub(crate) fn container_error(error: UvmError) -> ContainerError {
    match error {
        UvmError::Container { source, .. } => source,
        other => panic!("no error of a container: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_from_its_creation_to_the_end_of_its_state() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (container, create) = tokio::join!(create_container(&played.vm, options("c")), serve_create(&mut guest));
    let (container, create) = (container?, create?);
    assert_eq!(container.id(), "c");
    let linux = create.config.to_linux()?;
    assert_eq!((linux.bundle_path, linux.specification.get()), ("/run/gcs/c/c", SPEC));

    let stdio = ContainerStdio { stdout: true, ..ContainerStdio::default() };
    let (init, served) = tokio::join!(container.start(stdio), GuestProcess::begin(&mut guest, 100));
    let (init, init_served) = (init?, served?);
    assert_eq!(init_served.container.as_str(), "c");
    assert_eq!(init_served.asked.settings.parameters.oci_process, None);
    let process = r#"{"args":["id"],"cwd":"/"}"#;
    let (exec, served) = tokio::join!(container.exec(process, stdio), GuestProcess::begin(&mut guest, 101));
    let (exec, exec_served) = (exec?, served?);
    assert_eq!(exec_served.asked.settings.parameters.oci_process.as_ref().map(RawJson::get), Some(process));
    exec_served.exit(&mut guest, code(5)).await?;
    assert_eq!(exec.output().await?.exit, ProcessExit::Code(5));

    let (sent, asked) = tokio::join!(container.shutdown(), guest.answer::<ShutdownGraceful>(Done::default()));
    sent?;
    asked?;
    init_served.exit(&mut guest, code(143)).await?;
    guest.notify(&ended("c", ExitType::GracefulExit)).await?;
    assert_eq!(container.wait().await, ContainerEnd::Notified(ExitType::GracefulExit));
    assert_eq!(init.wait().await?, ProcessExit::Code(143));
    let (deleted, asked) =
        tokio::join!(container.delete_state(), guest.answer::<DeleteContainerState>(Done::default()));
    deleted?;
    asked?;
    drop((container, init));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d68_the_id_of_a_container_that_could_not_be_made_is_free() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for (result, kind) in
        [(Hresult::FAIL, ErrorKind::Guest), (Hresult::SYSTEM_ALREADY_EXISTS, ErrorKind::AlreadyExists)]
    {
        let (container, served) =
            tokio::join!(create_container(&played.vm, options("c")), guest.refuse::<Create>(Failure::code(result)));
        served?;
        let error = container.expect_err("refused");
        assert_eq!(error.kind(), kind);
        assert!(
            matches!(container_error(error), ContainerError::Guest(e) if e.failure().is_some_and(|f| f.result == result))
        );
    }
    let container = made(&played, &mut guest, "c").await?;
    let error = create_container(&played.vm, options("c")).await.expect_err("it is there");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(matches!(container_error(error), ContainerError::Exists));
    silence(&mut guest).await?;
    drop(container);
    drop(made(&played, &mut guest, "c").await?);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d69_closing_a_container_wakes_whoever_waits() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let mut waiting = Box::pin(container.wait());
    poll_once(&mut waiting).await;
    container.close();
    assert_eq!(within_a_day(waiting).await?, ContainerEnd::Closed);
    assert_eq!(container.wait().await, ContainerEnd::Closed);
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_old_handle_does_not_take_the_end_from_a_new_one() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let old = made(&played, &mut guest, "c").await?;
    old.close();
    let new = made(&played, &mut guest, "c").await?;
    drop(old);
    guest.notify(&ended("c", ExitType::UnexpectedExit)).await?;
    assert_eq!(within_a_day(new.wait()).await?, ContainerEnd::Notified(ExitType::UnexpectedExit));
    drop(new);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_to_its_container_and_the_first_word_counts() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (a, b) = (made(&played, &mut guest, "a").await?, made(&played, &mut guest, "b").await?);
    guest.notify(&ended("b", ExitType::ForcedExit)).await?;
    guest.notify(&ended("b", ExitType::GracefulExit)).await?;
    assert_eq!(within_a_day(b.wait()).await?, ContainerEnd::Notified(ExitType::ForcedExit));
    settle().await;
    assert_eq!(b.wait().await, ContainerEnd::Notified(ExitType::ForcedExit));
    let mut waiting = Box::pin(a.wait());
    poll_once(&mut waiting).await;
    played.end.exit(ExitStatus::Panicked);
    assert_eq!(within_a_day(waiting).await?, ContainerEnd::BridgeClosed);
    drop((a, b));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_end_may_be_told_before_the_container_is_said_to_be_made() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let serve = async {
        let asked = guest.expect::<Create>().await?;
        guest.notify(&ended("c", ExitType::UnexpectedExit)).await?;
        guest.reply::<Create>(&asked, Ok(CreateReply::default())).await?;
        guest.answer::<Start>(Done::default()).await?;
        TestResult::Ok(())
    };
    let (container, served) = tokio::join!(create_container(&played.vm, options("c")), serve);
    served?;
    let container = container?;
    assert_eq!(within_a_day(container.wait()).await?, ContainerEnd::Notified(ExitType::UnexpectedExit));
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn ending_what_has_ended_is_success() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    for gone in [Hresult::SYSTEM_NOT_FOUND, Hresult::SYSTEM_ALREADY_STOPPED] {
        let failure = Failure::code(gone);
        let (sent, asked) = tokio::join!(container.shutdown(), guest.refuse::<ShutdownGraceful>(failure.clone()));
        sent?;
        asked?;
        let (sent, asked) = tokio::join!(container.terminate(), guest.refuse::<ShutdownForced>(failure));
        sent?;
        asked?;
    }
    let failure = Failure::code(Hresult::FAIL);
    let (sent, asked) = tokio::join!(container.terminate(), guest.refuse::<ShutdownForced>(failure));
    asked?;
    assert_eq!(sent.expect_err("refused").kind(), ErrorKind::Guest);
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn state_is_deleted_only_by_agents_that_can() -> TestResult {
    let played = Played::create().await?;
    let mut reply = Guest::capabilities();
    reply.capabilities.guest_defined.delete_container_state = false;
    let mut guest = played.start(reply).await?;
    let container = made(&played, &mut guest, "c").await?;
    let error = container.delete_state().await.expect_err("it cannot");
    assert!(matches!(error, UvmError::GuestUnsupported { .. }), "{error}");
    silence(&mut guest).await?;
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_a_container_is_refused_before_the_guest_is_asked() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for id in ["", ".", "..", "a/b", "a b", "00000000-0000-0000-0000-000000000000"] {
        let error = create_container(&played.vm, options(id)).await.expect_err(id);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(container_error(error), ContainerError::Id(_)), "{id:?}");
    }
    for specification in ["", "{", "{}{}", "null", "[]", "\"\""] {
        let error =
            create_container(&played.vm, ContainerOptions::new("c", specification)).await.expect_err(specification);
        assert!(matches!(container_error(error), ContainerError::Document { what: "specification", .. }));
    }
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_container_that_does_not_start_is_undone() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let serve = async {
        guest.answer::<Create>(CreateReply::default()).await?;
        guest.refuse::<Start>(Failure::plain("no")).await?;
        serve_undo(&mut guest).await
    };
    let (container, served) =
        within_a_day(async { tokio::join!(create_container(&played.vm, options("c")), serve) }).await?;
    served?;
    let error = container.expect_err("refused");
    assert!(chain(&error).ends_with("guest RPC failure: no"), "{}", chain(&error));
    drop(made(&played, &mut guest, "c").await?);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_made_after_its_caller_was_told_it_is_not_is_undone() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let began = Instant::now();
    let (container, asked) =
        within_a_day(async { tokio::join!(create_container(&played.vm, options("c")), guest.expect::<Create>()) })
            .await?;
    assert_eq!(container.expect_err("no answer").kind(), ErrorKind::Timeout);
    assert_eq!(began.elapsed(), Deadlines::default().rpc);
    // The next one of that name would be undone instead.
    let error = create_container(&played.vm, options("c")).await.expect_err("that is not settled yet");
    assert!(matches!(container_error(error), ContainerError::Exists));
    guest.reply::<Create>(&asked?, Ok(CreateReply::default())).await?;
    within_a_day(serve_undo(&mut guest)).await??;
    silence(&mut guest).await?;
    drop(made(&played, &mut guest, "c").await?);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_refused_after_its_caller_was_told_of_a_timeout_leaves_its_id_free() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let (container, asked) =
        within_a_day(async { tokio::join!(create_container(&played.vm, options("c")), guest.expect::<Create>()) })
            .await?;
    container.expect_err("no answer");
    guest.fail(&asked?, Failure::plain("no")).await?;
    silence(&mut guest).await?;
    drop(made(&played, &mut guest, "c").await?);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_caller_gave_up_is_undone_whenever_that_was() -> TestResult {
    for give_up_after in 0..3 {
        let (played, mut guest) = Played::boot().await?;
        let mut creating = Some(Box::pin(create_container(&played.vm, options("c"))));
        poll_once(creating.as_mut().ok_or("given up")?).await;
        if give_up_after == 0 {
            creating = None;
        }
        guest.answer::<Create>(CreateReply::default()).await?;
        settle().await;
        if give_up_after == 1 {
            creating = None;
        }
        guest.answer::<Start>(Done::default()).await?;
        settle().await;
        // At last it is there for the taking.
        drop(creating);
        within_a_day(serve_undo(&mut guest)).await??;
        silence(&mut guest).await?;
        drop(made(&played, &mut guest, "c").await?);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn undoing_goes_on_with_an_agent_that_refuses_or_cannot_delete() -> TestResult {
    let played = Played::create().await?;
    let mut reply = Guest::capabilities();
    reply.capabilities.guest_defined.delete_container_state = false;
    let mut guest = played.start(reply).await?;
    let serve = async {
        guest.answer::<Create>(CreateReply::default()).await?;
        guest.refuse::<Start>(Failure::plain("no")).await?;
        guest.refuse::<ShutdownForced>(Failure::plain("no")).await
    };
    let (container, served) =
        within_a_day(async { tokio::join!(create_container(&played.vm, options("c")), serve) }).await?;
    container.expect_err("refused");
    served?;
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_init_process_whose_caller_gave_up_is_killed() -> TestResult {
    let (played, mut guest) = Played::boot_original().await?;
    let container = made(&played, &mut guest, "c").await?;
    let mut starting = Box::pin(container.start(ContainerStdio::default()));
    poll_once(&mut starting).await;
    let _served = GuestProcess::begin(&mut guest, 100).await?;
    settle().await;
    drop(starting);
    // Processes of containers can be killed with agents of the original, too.
    let asked = within_a_day(guest.answer::<SignalProcess>(Done::default())).await??;
    assert_eq!(asked.request.base.container_id.as_str(), "c");
    assert_eq!(asked.request.call, SignalProcess::kill(100).into());
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_vm_is_why_a_container_cannot_be_had_or_ended() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let end = async {
        guest.expect::<Create>().await?;
        guest.expect::<ShutdownForced>().await?;
        guest.expect::<ExecuteProcess>().await?;
        played.end.exit(ExitStatus::Reset);
        TestResult::Ok(())
    };
    let (other, ended, started, served) = tokio::join!(
        create_container(&played.vm, options("d")),
        container.terminate(),
        container.start(ContainerStdio::default()),
        end
    );
    served?;
    let errors = [
        other.map(drop).expect_err("the VM is gone"),
        ended.expect_err("the VM is gone"),
        started.map(drop).expect_err("the VM is gone"),
        container.delete_state().await.expect_err("the VM is gone"),
        create_container(&played.vm, options("d")).await.map(drop).expect_err("the VM is gone"),
    ];
    for error in errors {
        assert!(matches!(error, UvmError::Exited { status: ExitStatus::Reset, .. }), "{error:?}");
    }
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_container_is_a_handle_of_its_vm() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    drop(played.vm);
    settle().await;
    assert_eq!(played.host.leftovers().get("vms"), Some(&1));
    drop(container);
    let began = Instant::now();
    nothing_left(&played.host).await?;
    assert_eq!(began.elapsed(), Duration::ZERO);
    Ok(())
}
