//! Random operations of several tasks at once, with faults of the host and of the guest, against a simple model: who has how
//! much of what, and what host and guest are told by that.
//!
//! The operations are drawn from a fixed seed, so that every run is the same; what fails is made as small as it gets, and
//! shown with the seed.

mod books;
mod model;
mod plan;

use std::sync::Arc;
use std::time::Duration;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use uvm::{ResourceError, UvmError};
use uvm_testkit::memory::{KINDS, Kind};

use crate::scene::{Scene, Thing};
use crate::support::{TestResult, chain};

use books::Books;
use model::{Item, Model};
use plan::{Operation, Plan};

/// Any other will do.
const SEED: [u8; 32] = *b"utility VMs plugged in at random";
/// How many plans are run on each host.
const PLANS: u32 = 75;
/// How often a plan that fails is tried to be made smaller.
const SMALLER: u32 = 1000;
/// Operations of all plans on all hosts: half as many again as are to be done, since some find nothing to do, or only pause.
const OPERATIONS: usize = 15_000;

#[test]
fn whatever_several_tasks_do_counts_and_books_agree() {
    let mut ran = 0;
    for kind in KINDS {
        let config = Config { cases: PLANS, max_shrink_iters: SMALLER, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED));
        let count = std::cell::Cell::new(0);
        let result = runner.run(&plan::plans(), |plan| {
            count.set(count.get() + plan.operations());
            run(kind, &plan).map_err(proptest::test_runner::TestCaseError::fail)
        });
        if let Err(error) = result {
            panic!("{kind:?}, seed {:?}: {error}", String::from_utf8_lossy(&SEED));
        }
        ran += count.get();
    }
    assert_eq!(ran, OPERATIONS);
}

/// Runs a plan to its end on a host of its own. What panics is told as what fails, so that it is made smaller.
fn run(kind: Kind, plan: &Plan) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    runtime.block_on(Run::of(kind, plan)).map_err(|e| e.to_string())
}

/// What the tasks share.
struct Shared {
    scene: Scene,
    model: Model,
    has_faults: bool,
}

struct Run {
    shared: Arc<Shared>,
    plan: Plan,
}

impl Run {
    async fn of(kind: Kind, plan: &Plan) -> TestResult {
        let scene = Scene::with(kind, |options| options.vpmem_devices = 2).await?;
        for which in plan::FILES {
            scene.host.put_file(which)?;
        }
        scene.guest.told().pace = Duration::from_millis(2);
        let shared = Arc::new(Shared { scene, model: Model::default(), has_faults: plan.has_faults });
        let run = Self { shared, plan: plan.clone() };
        run.tasks().await?;
        run.agree()?;
        run.end().await
    }

    async fn tasks(&self) -> TestResult {
        let tasks: Vec<_> = self
            .plan
            .tasks
            .iter()
            .map(|operations| {
                let (shared, operations) = (Arc::clone(&self.shared), operations.clone());
                tokio::spawn(async move {
                    for operation in operations {
                        shared.make(operation).await?;
                    }
                    TestResult::Ok(())
                })
            })
            .collect();
        for task in tasks {
            task.await??;
        }
        // What is given back in the background, too, and what is waited for without an answer.
        tokio::time::sleep(Duration::from_secs(300)).await;
        Ok(())
    }

    /// Nobody does anything: what people have is there, once, and what nobody has is not.
    fn agree(&self) -> TestResult {
        let Shared { scene, model, .. } = &*self.shared;
        Books::of(scene, model.hangs(), model.ignored())?.agree_with(model)
    }

    /// Everything is released, which leaves both sides as they were.
    async fn end(self) -> TestResult {
        let shared = self.shared;
        for item in shared.model.take_all() {
            shared.release_at_last(item).await?;
        }
        shared.model.counts_agree()?;
        shared.give_back_what_is_left().await?;
        let books = Books::of(&shared.scene, shared.model.hangs(), shared.model.ignored())?;
        books.are_empty()?;
        // The lowest places are free again. Faults may still lie in wait.
        for _ in 0..=shared.model.planted() {
            let Ok(mount) = shared.scene.vm.add_scsi(&uvm::ScsiDisk::new(shared.scene.host.path("z"))).await else {
                continue;
            };
            assert_eq!((mount.controller(), mount.lun()), (Some(0), Some(0)));
            mount.release().await.ok();
            break;
        }
        let scene = Arc::into_inner(shared).ok_or("a task still runs")?.scene;
        scene.close().await
    }
}

impl Shared {
    async fn make(&self, operation: Operation) -> TestResult {
        let Self { scene, model, has_faults } = self;
        match operation {
            Operation::Add(thing, which) => match thing.add(&scene.vm, &scene.host, which).await {
                Ok(handle) => model.has(Item { thing, which, handle, is_sound: true }),
                Err(error) => {
                    model.could_not_have(thing, which);
                    self.may_fail(&error)?;
                }
            },
            Operation::Release(at) => {
                if let Some(item) = model.take(at) {
                    self.release(item).await?;
                }
            }
            Operation::GiveUp(at, milliseconds) => {
                if let Some(item) = model.take(at) {
                    let limit = Duration::from_millis(milliseconds);
                    self.given_up(item, limit).await?;
                }
            }
            Operation::Drop(at) => {
                if let Some(item) = model.take(at) {
                    model.dropped(item);
                }
            }
            Operation::Remove(thing, which) => match model::remove(scene, thing, which).await {
                Some(Ok(())) => model.removed(thing, which),
                Some(Err(error)) if is_not_attached(&error) => {}
                Some(Err(error)) => {
                    model.could_not_remove(thing, which);
                    self.may_fail(&error)?;
                }
                None => {}
            },
            Operation::HostFault(number, fault) if *has_faults => {
                scene.host.plant_next(plan::fault(scene.host.kind(), number), fault);
                model.planted_on_host(fault);
            }
            Operation::GuestFault(after, oddity) if *has_faults => {
                scene.guest.plant(after, oddity);
                model.planted_in_guest(oddity);
            }
            Operation::HostFault(..) | Operation::GuestFault(..) => tokio::task::yield_now().await,
            Operation::Pause(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        }
        Ok(())
    }

    async fn release(&self, item: Item) -> TestResult {
        let outcome = item.handle.release().await;
        self.released(item, outcome).await
    }

    /// Whoever waits no longer still has the handle: the outcome is told to the next who releases it.
    async fn given_up(&self, mut item: Item, limit: Duration) -> TestResult {
        if let Ok(outcome) = tokio::time::timeout(limit, item.handle.release()).await {
            return self.released(item, outcome).await;
        }
        item.is_sound = false;
        self.model.has(item);
        Ok(())
    }

    async fn released(&self, mut item: Item, outcome: Result<(), UvmError>) -> TestResult {
        match outcome {
            Ok(()) => {
                let again = item.handle.release().await.err().ok_or("it was released twice")?;
                assert!(is_not_attached(&again), "{again:?}");
                self.model.released(&item);
            }
            Err(error) if is_not_attached(&error) => self.model.found_gone(&item)?,
            Err(error) => {
                self.may_fail(&error)?;
                item.is_sound = false;
                self.model.has(item);
            }
        }
        Ok(())
    }

    /// Without faults nothing fails, but for what does not fit.
    fn may_fail(&self, error: &UvmError) -> TestResult {
        let UvmError::Resource { source, .. } = error else { return Err(chain(error).into()) };
        match &**source {
            ResourceError::NoAvailableLocation { .. } => Ok(()),
            _ if self.has_faults => Ok(()),
            _ => Err(format!("nothing was to go wrong: {}", chain(error)).into()),
        }
    }

    /// As often as there are faults that may lie in wait.
    async fn release_at_last(&self, item: Item) -> TestResult {
        for _ in 0..=self.model.planted() {
            match item.handle.release().await {
                Ok(()) => {
                    self.model.released(&item);
                    return Ok(());
                }
                Err(error) if is_not_attached(&error) => return self.model.found_gone(&item),
                Err(error) => self.may_fail(&error)?,
            }
        }
        Err(format!("{:?} cannot be released", item.thing).into())
    }

    /// What nobody has, because something went wrong in the background, is tried again whenever something is added: as often as
    /// there are faults that may lie in wait.
    async fn give_back_what_is_left(&self) -> TestResult {
        for _ in 0..=self.model.planted() {
            match Thing::BareDisk.add(&self.scene.vm, &self.scene.host, "z").await {
                Ok(disk) => drop(disk),
                Err(error) => self.may_fail(&error)?,
            }
            tokio::time::sleep(Duration::from_secs(300)).await;
        }
        Ok(())
    }
}

fn is_not_attached(error: &UvmError) -> bool {
    matches!(error, UvmError::Resource { source, .. } if matches!(**source, ResourceError::NotAttached))
}
