//! Every call to the guest, and everything a guest can do instead of answering it.

use std::time::Duration;

use tokio::time::Instant;
use uvm::wire::call::Done;
use uvm::wire::create::{Create, CreateReply};
use uvm::wire::header::Header;
use uvm::wire::modify::{CombinedLayers, Modification, Resource};
use uvm::wire::system::{DumpStacks, DumpStacksReply, Start};
use uvm::wire::{Call, Failure, Hresult, MessageType};
use uvm::{
    BridgeError, Container, ContainerStdio, Deadlines, ErrorKind, ExitStatus, Process, ProcessSpec, TerminalSize,
    UtilityVm, UvmError,
};
use uvm_testkit::guest::{Guest, Received};

use crate::support::{GuestProcess, Played, TestResult, bridge_error, container, create_container, within_a_day};

/// What the library calls the guest for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    DumpStacks,
    CreateProcess,
    Signal,
    Kill,
    Resize,
    CreateContainer,
    /// The second call of making a container.
    StartContainer,
    RunInit,
    Exec,
    EndContainer,
    TerminateContainer,
    DeleteState,
    Statistics,
    Processes,
    Update,
    GuestRequest,
    Shutdown,
}

const OPERATIONS: [(Operation, MessageType); 17] = [
    (Operation::DumpStacks, MessageType::DUMP_STACKS),
    (Operation::CreateProcess, MessageType::EXECUTE_PROCESS),
    (Operation::Signal, MessageType::SIGNAL_PROCESS),
    (Operation::Kill, MessageType::SIGNAL_PROCESS),
    (Operation::Resize, MessageType::RESIZE_CONSOLE),
    (Operation::CreateContainer, MessageType::CREATE),
    (Operation::StartContainer, MessageType::START),
    (Operation::RunInit, MessageType::EXECUTE_PROCESS),
    (Operation::Exec, MessageType::EXECUTE_PROCESS),
    (Operation::EndContainer, MessageType::SHUTDOWN_GRACEFUL),
    (Operation::TerminateContainer, MessageType::SHUTDOWN_FORCED),
    (Operation::DeleteState, MessageType::DELETE_CONTAINER_STATE),
    (Operation::Statistics, MessageType::GET_PROPERTIES),
    (Operation::Processes, MessageType::GET_PROPERTIES),
    (Operation::Update, MessageType::MODIFY_SETTINGS),
    (Operation::GuestRequest, MessageType::MODIFY_SETTINGS),
    (Operation::Shutdown, MessageType::SHUTDOWN_GRACEFUL),
];

/// How a failure of it is told, without its cause.
fn sentence(operation: Operation) -> &'static str {
    match operation {
        Operation::DumpStacks => "cannot dump the stacks of utility VM ID",
        Operation::CreateProcess => "cannot run \"true\" in utility VM ID",
        Operation::Signal | Operation::Kill => "cannot signal a process of utility VM ID",
        Operation::Resize => "cannot resize a terminal of utility VM ID",
        Operation::CreateContainer | Operation::StartContainer => "cannot create container \"new\" of utility VM ID",
        Operation::RunInit => "cannot run the init process of container \"c\" in utility VM ID",
        Operation::Exec => "cannot run a process of container \"c\" in utility VM ID",
        Operation::EndContainer => "cannot shut down container \"c\" of utility VM ID",
        Operation::TerminateContainer => "cannot terminate container \"c\" of utility VM ID",
        Operation::DeleteState => "cannot delete the state of container \"c\" of utility VM ID",
        Operation::Statistics => "cannot read the statistics of container \"c\" of utility VM ID",
        Operation::Processes => "cannot list the processes of container \"c\" of utility VM ID",
        Operation::Update => "cannot update container \"c\" of utility VM ID",
        Operation::GuestRequest => "cannot modify utility VM ID",
        Operation::Shutdown => "cannot shut down utility VM ID",
    }
}

/// What there is to operate on.
struct Things {
    vm: UtilityVm,
    process: Process,
    container: Container,
}

impl Things {
    async fn operate(&self, operation: Operation) -> Result<(), UvmError> {
        let stdio = ContainerStdio { stdin: true, stdout: true, stderr: true };
        match operation {
            Operation::DumpStacks => self.vm.dump_stacks().await.map(drop),
            Operation::CreateProcess => self.vm.create_process(&ProcessSpec::new(["true"])).await.map(drop),
            Operation::Signal => self.process.signal(15).await.map(drop),
            Operation::Kill => self.process.kill().await.map(drop),
            Operation::Resize => self.process.resize(TerminalSize { rows: 1, columns: 1 }).await,
            Operation::CreateContainer | Operation::StartContainer => {
                create_container(&self.vm, container("new")).await.map(drop)
            }
            Operation::RunInit => self.container.start(stdio).await.map(drop),
            Operation::Exec => self.container.exec("{}", stdio).await.map(drop),
            Operation::EndContainer => self.container.shutdown().await,
            Operation::TerminateContainer => self.container.terminate().await,
            Operation::DeleteState => self.container.delete_state().await,
            Operation::Statistics => self.container.statistics().await.map(drop),
            Operation::Processes => self.container.processes().await.map(drop),
            Operation::Update => self.container.update("{}").await,
            Operation::GuestRequest => {
                let layers = Resource::CombinedLayers(CombinedLayers::default());
                self.vm.guest_request(Modification::remove(layers)).await
            }
            Operation::Shutdown => self.vm.shutdown().await,
        }
    }
}

/// A VM with a process and a container in it.
async fn furnished() -> TestResult<(Played, Guest, Things, GuestProcess)> {
    let (played, mut guest) = Played::boot().await?;
    let spec = ProcessSpec::new(["sleep"]);
    let (process, served) = tokio::join!(played.vm.create_process(&spec), GuestProcess::begin(&mut guest, 7));
    let serve = async {
        guest.answer::<Create>(CreateReply::default()).await?;
        guest.answer::<Start>(Done::default()).await
    };
    let (container, made) = tokio::join!(create_container(&played.vm, container("c")), serve);
    made?;
    let things = Things { vm: played.vm.clone(), process: process?, container: container? };
    Ok((played, guest, things, served?))
}

/// The request of an operation, at the guest.
async fn request(guest: &mut Guest, operation: Operation, message_type: MessageType) -> TestResult<Received> {
    if operation == Operation::StartContainer {
        guest.answer::<Create>(CreateReply::default()).await?;
    }
    let received = guest.next().await?.ok_or("the bridge is closed")?;
    assert_eq!(received.message_type, message_type, "{operation:?}");
    Ok(received)
}

/// Passes if the VM can be used. What else the guest is asked for meanwhile, it refuses.
async fn goes_on(vm: &UtilityVm, guest: &mut Guest) -> TestResult {
    let serve = async {
        loop {
            let received = guest.next().await?.ok_or("the bridge is closed")?;
            if matches!(received.request.call, Call::DumpStacks(_)) {
                return TestResult::Ok(guest.reply::<DumpStacks>(&received, Ok(DumpStacksReply::default())).await?);
            }
            guest.fail(&received, Failure::plain("not now")).await?;
        }
    };
    let (dumped, served) = within_a_day(async { tokio::join!(vm.dump_stacks(), serve) }).await?;
    dumped?;
    served?;
    Ok(())
}

async fn close(played: Played, things: Things) -> TestResult {
    drop(things);
    assert_eq!(played.host.leftovers().get("ports"), None);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_fails_the_call_with_its_words() -> TestResult {
    for (operation, message_type) in OPERATIONS {
        for (result, kind) in [(Hresult::FAIL, ErrorKind::Guest), (Hresult::NOT_IMPLEMENTED, ErrorKind::Unsupported)] {
            let (played, mut guest, things, _process) = furnished().await?;
            let refuse = async {
                let received = request(&mut guest, operation, message_type).await?;
                guest.fail(&received, Failure::code(result)).await?;
                // A container that was half made is undone before its caller is told.
                if operation == Operation::StartContainer {
                    for _ in 0..2 {
                        let received = guest.next().await?.ok_or("closed")?;
                        guest.fail(&received, Failure::code(result)).await?;
                    }
                }
                TestResult::Ok(())
            };
            let (done, refused) = within_a_day(async { tokio::join!(things.operate(operation), refuse) }).await?;
            refused?;
            let error = done.expect_err("refused");
            assert_eq!(error.kind(), kind, "{operation:?}: {error}");
            let text = error.to_string().replace(things.vm.id().as_str(), "ID");
            assert_eq!(text, sentence(operation));
            assert!(
                bridge_error(&error).and_then(BridgeError::failure).is_some_and(|f| f.result == result),
                "{error:?}"
            );
            goes_on(&things.vm, &mut guest).await?;
            close(played, things).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_talks_nonsense_fails_the_call() -> TestResult {
    for (operation, message_type) in OPERATIONS {
        let (played, mut guest, things, _process) = furnished().await?;
        let garble = async {
            let received = request(&mut guest, operation, message_type).await?;
            let header = Header { message_type: message_type.response(), size: 18, id: received.id };
            guest.write(&[&header.to_bytes()[..], b"[]"].concat()).await?;
            if operation == Operation::StartContainer {
                for _ in 0..2 {
                    let received = guest.next().await?.ok_or("closed")?;
                    guest.fail(&received, Failure::plain("no")).await?;
                }
            }
            TestResult::Ok(())
        };
        let (done, garbled) = within_a_day(async { tokio::join!(things.operate(operation), garble) }).await?;
        garbled?;
        let error = done.expect_err("nonsense");
        assert_eq!(error.kind(), ErrorKind::Guest, "{operation:?}: {error}");
        assert!(matches!(bridge_error(&error), Some(BridgeError::Answer { .. })), "{error:?}");
        goes_on(&things.vm, &mut guest).await?;
        close(played, things).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_answer_fails_the_call_in_time() -> TestResult {
    for (operation, message_type) in OPERATIONS {
        let (played, mut guest, things, _process) = furnished().await?;
        let began = Instant::now();
        let (done, asked) = within_a_day(async {
            tokio::join!(things.operate(operation), request(&mut guest, operation, message_type))
        })
        .await?;
        asked?;
        let error = done.expect_err("no answer");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{operation:?}: {error}");
        let state = format!("fake VM {} is running", things.vm.id());
        assert!(error.to_string().contains(&state), "{operation:?} does not tell what the VM does: {error}");
        let deadlines = Deadlines::default();
        let limit = match operation {
            Operation::Shutdown => deadlines.shutdown,
            // What is undone then is not answered either.
            Operation::StartContainer => deadlines.rpc * 3,
            _ => deadlines.rpc,
        };
        assert_eq!(began.elapsed(), limit, "{operation:?}");
        goes_on(&things.vm, &mut guest).await?;
        close(played, things).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_hangs_up_fails_the_call_with_that() -> TestResult {
    for (operation, message_type) in OPERATIONS {
        let (played, mut guest, things, _process) = furnished().await?;
        let hang_up = async {
            request(&mut guest, operation, message_type).await?;
            Ok(guest.hang_up().await?)
        };
        let (done, cut): (_, TestResult) =
            within_a_day(async { tokio::join!(things.operate(operation), hang_up) }).await?;
        cut?;
        let error = done.expect_err("it hung up");
        if operation == Operation::Shutdown {
            assert_eq!(error.kind(), ErrorKind::Timeout, "the VM may still end: {error}");
        } else {
            assert_eq!(error.kind(), ErrorKind::Guest, "{operation:?}: {error}");
            assert!(matches!(bridge_error(&error), Some(BridgeError::Closed { .. })), "{error:?}");
        }
        close(played, things).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_vm_that_ends_fails_the_call_with_how_it_ended() -> TestResult {
    for (operation, message_type) in OPERATIONS {
        let (played, mut guest, things, _process) = furnished().await?;
        let began = Instant::now();
        let end = async {
            request(&mut guest, operation, message_type).await?;
            played.end.exit(ExitStatus::Panicked);
            TestResult::Ok(())
        };
        let (done, ended) = within_a_day(async { tokio::join!(things.operate(operation), end) }).await?;
        ended?;
        match done {
            Ok(()) => assert_eq!(operation, Operation::Shutdown),
            Err(error) => assert!(
                matches!(error, UvmError::Exited { status: ExitStatus::Panicked, .. }),
                "{operation:?}: {error:?}"
            ),
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "{operation:?}");
        close(played, things).await?;
    }
    Ok(())
}
