//! A guest that keeps account of what runs in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;
use uvm::platform::fake::{FakeGuestEnd, FakePlatform, FakeStream};
use uvm::wire::call::Done;
use uvm::wire::create::{Create, CreateReply};
use uvm::wire::execute::{ExecuteProcess, ExecuteProcessReply};
use uvm::wire::modify::ModifySettings;
use uvm::wire::negotiate::NegotiateProtocol;
use uvm::wire::process::{ResizeConsole, SignalProcess, WaitForProcess, WaitForProcessReply};
use uvm::wire::properties::{GetProperties, GetPropertiesReply, LinuxProperties};
use uvm::wire::system::{DeleteContainerState, DumpStacks, DumpStacksReply, ShutdownForced, ShutdownGraceful, Start};
use uvm::wire::{Call, Failure};
use uvm_testkit::guest::{Guest, Received};

use crate::support::{TestResult, executes, within_a_day};

/// What there is in the guest: a process until it is killed, a container until its state is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) processes: BTreeSet<u32>,
    pub(crate) containers: BTreeSet<String>,
    /// How often something was modified.
    pub(crate) changes: u32,
}

/// The books of a guest. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Account(Arc<watch::Sender<Books>>);

impl Account {
    /// A host whose guests keep these books.
    pub(crate) fn host(&self) -> FakePlatform {
        let account = self.clone();
        FakePlatform::new().with_guest(move |end| {
            let account = account.clone();
            // A guest that is cut off has nothing more to do.
            async move { drop(Model { account, processes: BTreeMap::new(), next_id: 1000 }.live(end).await) }
        })
    }

    /// Waits until there is no more in the guest than this.
    pub(crate) async fn settles_at(&self, books: &Books) -> TestResult {
        let mut current = self.0.subscribe();
        match within_a_day(current.wait_for(|current| current == books)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("left in the guest: {:?}", *self.0.borrow()).into()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Books) -> bool) {
        self.0.send_if_modified(change);
    }

    /// What there is now.
    pub(crate) fn books(&self) -> Books {
        self.0.borrow().clone()
    }
}

struct Model {
    account: Account,
    processes: BTreeMap<u32, Running>,
    next_id: u32,
}

struct Running {
    _streams: [Option<FakeStream>; 3],
    waits: Vec<Received>,
}

impl Model {
    async fn live(mut self, end: FakeGuestEnd) -> TestResult {
        let mut guest = Guest::boot(&end).await?;
        while let Some(received) = guest.next().await? {
            if matches!(&received.request.call, Call::ShutdownGraceful(_))
                && received.request.base.container_id.is_uvm()
            {
                break;
            }
            self.serve(&mut guest, received).await?;
        }
        Ok(())
    }

    async fn serve(&mut self, guest: &mut Guest, received: Received) -> TestResult {
        let container = received.request.base.container_id.as_str().to_owned();
        match &received.request.call {
            Call::NegotiateProtocol(_) => {
                guest.reply::<NegotiateProtocol>(&received, Ok(Guest::capabilities())).await?;
            }
            Call::DumpStacks(_) => guest.reply::<DumpStacks>(&received, Ok(DumpStacksReply::default())).await?,
            Call::ResizeConsole(_) => guest.reply::<ResizeConsole>(&received, Ok(Done::default())).await?,
            Call::ExecuteProcess(_) => {
                let stdio = executes(&received).settings.vsock_stdio.unwrap_or_default();
                let Ok(streams) = guest.dial_stdio(&stdio).await else {
                    return Ok(guest.fail(&received, Failure::plain("nobody listens")).await?);
                };
                self.next_id += 1;
                let process_id = self.next_id;
                self.processes.insert(process_id, Running { _streams: streams, waits: Vec::new() });
                self.account.change(|books| books.processes.insert(process_id));
                guest.reply::<ExecuteProcess>(&received, Ok(ExecuteProcessReply { process_id })).await?;
            }
            Call::WaitForProcess(call) => match self.processes.get_mut(&call.process_id) {
                Some(process) => process.waits.push(received),
                None => guest.fail(&received, Failure::plain("no such process")).await?,
            },
            Call::SignalProcess(call) => {
                let process = self.processes.remove(&call.process_id);
                self.account.change(|books| books.processes.remove(&call.process_id));
                guest.reply::<SignalProcess>(&received, Ok(Done::default())).await?;
                for wait in process.into_iter().flat_map(|process| process.waits) {
                    let reply = WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, signal: Some(9) };
                    guest.reply::<WaitForProcess>(&wait, Ok(reply)).await?;
                }
            }
            Call::Create(_) => {
                self.account.change(|books| books.containers.insert(container));
                guest.reply::<Create>(&received, Ok(CreateReply::default())).await?;
            }
            Call::Start(_) => guest.reply::<Start>(&received, Ok(Done::default())).await?,
            Call::ShutdownGraceful(_) => guest.reply::<ShutdownGraceful>(&received, Ok(Done::default())).await?,
            Call::ShutdownForced(_) => guest.reply::<ShutdownForced>(&received, Ok(Done::default())).await?,
            Call::DeleteContainerState(_) => {
                self.account.change(|books| books.containers.remove(&container));
                guest.reply::<DeleteContainerState>(&received, Ok(Done::default())).await?;
            }
            Call::GetProperties(_) => {
                let reply = GetPropertiesReply::Linux(Box::<LinuxProperties>::default());
                guest.reply::<GetProperties>(&received, Ok(reply)).await?;
            }
            Call::ModifySettings(_) => {
                self.account.change(|books| {
                    books.changes += 1;
                    true
                });
                guest.reply::<ModifySettings>(&received, Ok(Done::default())).await?;
            }
            other @ Call::UpdateContainer(_) => return Err(format!("nobody asks for {other:?}").into()),
        }
        Ok(())
    }
}
