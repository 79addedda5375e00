//! Random operations of four tasks on one running VM, things of every kind, with what goes wrong on the host and in the
//! guest; after each hundred of them the guest's own view (its devices and its mounts) is compared with the books.

mod books;
mod things;
mod view;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uvm::UtilityVm;
use uvm_testkit::{TestResult, TestVm};

use crate::campaign::{self, Random};
use crate::qemu::{self, descriptors};

use books::Books;
use things::Things;

const TASKS: usize = 4;
/// Operations between two looks at the guest, by all tasks.
const BETWEEN_LOOKS: usize = 100;
/// How many times as many in a normal run, and in a campaign.
const LOOKS: (u32, u32) = (3, 100);

struct Shared {
    vm: UtilityVm,
    things: Things,
    books: Mutex<Books>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_plugged_at_random_is_what_the_guest_sees() -> TestResult {
    let things = Things::make()?;
    let vm = TestVm::builder("plugging").with(|options| *options = options.clone().with_processors(2)).boot().await?;
    let qemu = qemu::pid(&vm).await?;
    let shared = Arc::new(Shared { vm: vm.clone(), things, books: Mutex::default() });
    // What QEMU and guest make once, they keep.
    for thing in shared.things.all() {
        shared.add(thing).await?;
    }
    shared.release_all().await?;
    let before = descriptors(qemu)?;
    let mut randoms: Vec<_> = (0..TASKS).map(|task| Random::seeded(&format!("plugging-{task}"))).collect();
    for look in 0..campaign::rounds(LOOKS.0, LOOKS.1) {
        let mut tasks = Vec::new();
        for (task, mut random) in randoms.drain(..).enumerate() {
            let shared = Arc::clone(&shared);
            tasks.push(tokio::spawn(async move {
                for _ in 0..BETWEEN_LOOKS / TASKS {
                    shared.operate(task, &mut random).await?;
                }
                TestResult::Ok(random)
            }));
        }
        for task in tasks {
            randoms.push(task.await?.map_err(|e| format!("look {look}: {e}"))?);
        }
        let wanted = shared.books().seen(&shared.things)?;
        view::agrees(&shared.vm, &wanted).await.map_err(|e| format!("look {look}: {e}"))?;
        campaign::note(&format!("look {look}: {}", shared.books().summary()));
    }
    shared.release_all().await?;
    view::agrees(&shared.vm, &BTreeSet::new()).await?;
    assert_eq!(descriptors(qemu)?, before, "of QEMU");
    drop(shared);
    vm.close().await
}

impl Shared {
    async fn operate(&self, task: usize, random: &mut Random) -> TestResult {
        match random.below(100) {
            0..47 => self.add(self.things.any(random)).await,
            47..80 => self.release(random).await,
            80..88 => {
                // In the background.
                drop(self.books().take(random.below(u64::MAX)));
                Ok(())
            }
            88..93 => self.things.host_refuses(&self.vm, random).await,
            93..97 => self.things.guest_refuses(&self.vm, task, random).await,
            _ => self.things.is_busy(&self.vm, task).await,
        }
    }

    async fn add(&self, thing: usize) -> TestResult {
        let path = self.books().next_path();
        match self.things.add(&self.vm, thing, path).await? {
            Some(handle) => self.books().enter(thing, handle),
            None => Ok(()),
        }
    }

    async fn release(&self, random: &mut Random) -> TestResult {
        let held = self.books().take(random.below(u64::MAX));
        match held {
            Some(held) => held.handle.release().await,
            None => Ok(()),
        }
    }

    async fn release_all(&self) -> TestResult {
        let held = self.books().take_all();
        for held in held {
            held.handle.release().await?;
        }
        Ok(())
    }
}
