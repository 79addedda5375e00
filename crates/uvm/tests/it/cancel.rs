//! Every public future given up at every point where it waits: what was begun goes on or is undone, nothing is left.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::sync::Notify;
use uvm::platform::fake::FakePlatform;
use uvm::wire::modify::{CombinedLayers, Modification, Resource};
use uvm::{Container, ContainerStdio, Process, ProcessSpec, TerminalSize, UtilityVm, UvmError};

use crate::model::{Account, Books};
use crate::support::{TestResult, container, create_container, create_on, nothing_left, options, settle, within_a_day};

/// A future that is given up at its `chance`-th chance. There are two for each time it waits: at once, and when it could
/// go on, so that what it was about to get is lost. `None`: it was given up.
async fn given_up_at<T>(chance: usize, future: impl Future<Output = T>) -> Option<T> {
    #[derive(Default)]
    struct Woken {
        notify: Notify,
        is: AtomicBool,
    }
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.is.store(true, Ordering::SeqCst);
            self.notify.notify_one();
        }
    }
    let mut future = pin!(future);
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    for chances_before in (0..).step_by(2) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        if chances_before == chance {
            return None;
        }
        while !woken.is.swap(false, Ordering::SeqCst) {
            woken.notify.notified().await;
        }
        if chances_before + 1 == chance {
            return None;
        }
    }
    None
}

/// A running VM whose guest keeps account, with a process and a container in it.
struct Cancelled {
    host: FakePlatform,
    account: Account,
    vm: UtilityVm,
    process: Process,
    container: Container,
    furnished: Books,
}

impl Cancelled {
    async fn new() -> TestResult<Self> {
        let account = Account::default();
        let host = account.host();
        let vm = create_on(&host, &options(|_| ())).await?;
        vm.start().await?;
        let spec = ProcessSpec::new(["sleep"]).with_stdin();
        let (process, container) = (vm.create_process(&spec).await?, create_container(&vm, container("c")).await?);
        let furnished = account.books();
        assert_eq!((furnished.processes.len(), furnished.containers.len()), (1, 1));
        Ok(Self { host, account, vm, process, container, furnished })
    }

    /// The guest has what it had, the VM can be used, and nothing of it is left once it is closed.
    async fn stays_as_it_was(self) -> TestResult {
        self.account.settles_at(&self.furnished).await?;
        within_a_day(self.vm.dump_stacks()).await??;
        drop(create_container(&self.vm, container("new")).await?);
        self.process.kill().await?;
        within_a_day(self.process.wait()).await??;
        self.ends().await
    }

    async fn ends(self) -> TestResult {
        let Self { host, vm, process, container, .. } = self;
        within_a_day(vm.close()).await??;
        drop((vm, process, container));
        nothing_left(&host).await
    }
}

/// Gives the operation up at each of its chances, each time in a new VM, and checks what is left.
async fn at_each_chance<T>(
    operation: impl AsyncFn(&mut Cancelled) -> Result<T, UvmError>,
    then: impl AsyncFn(Cancelled) -> TestResult,
) -> TestResult {
    for chance in 0.. {
        let mut cancelled = Box::pin(Cancelled::new()).await?;
        let outcome = within_a_day(given_up_at(chance, operation(&mut cancelled))).await?;
        if let Some(done) = outcome {
            done?;
            assert!(chance >= 2, "it never waited");
            return cancelled.ends().await;
        }
        Box::pin(then(cancelled)).await?;
    }
    unreachable!("chances do not end")
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_given_up_leaves_no_vm() -> TestResult {
    for chance in 0.. {
        let host = FakePlatform::new();
        let created = given_up_at(chance, create_on(&host, &options(|_| ()))).await;
        let is_done = created.is_some();
        drop(created);
        settle().await;
        nothing_left(&host).await?;
        if is_done {
            assert!(chance >= 2, "it never waited");
            return Ok(());
        }
    }
    unreachable!("chances do not end")
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_given_up_goes_on() -> TestResult {
    for chance in 0.. {
        let host = Account::default().host();
        let vm = create_on(&host, &options(|_| ())).await?;
        let is_done = within_a_day(given_up_at(chance, vm.start())).await?.is_some();
        settle().await;
        vm.dump_stacks().await?;
        vm.close().await?;
        drop(vm);
        nothing_left(&host).await?;
        if is_done {
            assert!(chance >= 2, "it never waited");
            return Ok(());
        }
    }
    unreachable!("chances do not end")
}

#[tokio::test(start_paused = true)]
async fn processes_that_are_given_up_are_killed() -> TestResult {
    let spec = ProcessSpec::new(["sleep"]).with_stdin();
    at_each_chance(async |c| c.vm.create_process(&spec).await, async |c| c.stays_as_it_was().await).await?;
    let stdio = ContainerStdio { stdin: true, stdout: true, stderr: true };
    at_each_chance(async |c| c.container.start(stdio).await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.container.exec("{}", stdio).await, async |c| c.stays_as_it_was().await).await
}

#[tokio::test(start_paused = true)]
async fn containers_that_are_given_up_are_undone() -> TestResult {
    at_each_chance(async |c| create_container(&c.vm, container("new")).await, async |c| c.stays_as_it_was().await).await
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_do_no_harm() -> TestResult {
    let size = TerminalSize { rows: 1, columns: 1 };
    at_each_chance(async |c| c.vm.dump_stacks().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.vm.properties().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.vm.pause().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.vm.resume().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.process.resize(size).await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.container.shutdown().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.container.terminate().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.container.statistics().await, async |c| c.stays_as_it_was().await).await?;
    at_each_chance(async |c| c.container.processes().await, async |c| c.stays_as_it_was().await).await
}

#[tokio::test(start_paused = true)]
async fn changes_that_are_given_up_are_made() -> TestResult {
    let changed = async |c: Cancelled| {
        let books = Books { changes: 1, ..c.furnished.clone() };
        c.account.settles_at(&books).await?;
        c.ends().await
    };
    at_each_chance(async |c| c.container.update("{}").await, changed).await?;
    let layers = Modification::remove(Resource::CombinedLayers(CombinedLayers::default()));
    at_each_chance(async |c| c.vm.guest_request(layers.clone()).await, changed).await
}

#[tokio::test(start_paused = true)]
async fn what_takes_things_away_goes_on_when_it_is_given_up() -> TestResult {
    let no_process = async |c: Cancelled| {
        let books = Books { processes: [].into(), ..c.furnished.clone() };
        c.account.settles_at(&books).await?;
        within_a_day(c.process.wait()).await??;
        c.ends().await
    };
    at_each_chance(async |c| c.process.kill().await, no_process).await?;
    at_each_chance(async |c| c.process.signal(15).await, no_process).await?;
    let no_container = async |c: Cancelled| {
        let books = Books { containers: [].into(), ..c.furnished.clone() };
        c.account.settles_at(&books).await?;
        c.ends().await
    };
    at_each_chance(async |c| c.container.delete_state().await, no_container).await
}

#[tokio::test(start_paused = true)]
async fn ends_that_are_given_up_go_on() -> TestResult {
    let ended = async |c: Cancelled| {
        within_a_day(c.vm.wait()).await??;
        c.ends().await
    };
    at_each_chance(async |c| c.vm.shutdown().await, ended).await?;
    at_each_chance(async |c| c.vm.terminate().await, ended).await?;
    at_each_chance(async |c| c.vm.close().await, ended).await
}

#[tokio::test(start_paused = true)]
async fn waits_that_are_given_up_can_be_made_again() -> TestResult {
    let vm_end = async |c: &mut Cancelled| {
        let (ended, waited) = tokio::join!(c.vm.terminate(), c.vm.wait());
        ended.and(waited)
    };
    at_each_chance(vm_end, async |c| {
        within_a_day(c.vm.wait()).await??;
        c.ends().await
    })
    .await?;
    let process_end = async |c: &mut Cancelled| {
        let (killed, waited) = tokio::join!(c.process.kill(), c.process.wait());
        killed.and(waited)
    };
    at_each_chance(process_end, async |c| {
        within_a_day(c.process.wait()).await??;
        c.ends().await
    })
    .await?;
    let container_end = async |c: &mut Cancelled| {
        let (ended, _) = tokio::join!(c.vm.terminate(), c.container.wait());
        ended
    };
    at_each_chance(container_end, async |c| {
        within_a_day(c.container.wait()).await?;
        c.ends().await
    })
    .await
}
