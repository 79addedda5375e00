//! Every call that an addition or a removal makes of the host or of the guest fails once. Afterwards all is as it was
//! before, or what is left can be released.

use std::path::Path;

use uvm::platform::fake::Fault;
use uvm::{
    CombinedLayers, PipeMount, Plan9Share, Plan9ShareOptions, ScsiDisk, ScsiMount, Share, UtilityVm, UvmError,
    VmAccess, VpciDevice, VpmemMount,
};

use crate::obedient::{Obedient, boot};
use crate::support::{Played, TestResult, chain, settle};

/// One of each kind of thing.
#[derive(Clone, Copy, Debug)]
enum Thing {
    MountedDisk,
    BareDisk,
    Layer,
    Plan9,
    SharedDirectory,
    SharedFile,
    Pipe,
    Layers,
    Device,
}

const THINGS: [Thing; 9] = [
    Thing::MountedDisk,
    Thing::BareDisk,
    Thing::Layer,
    Thing::Plan9,
    Thing::SharedDirectory,
    Thing::SharedFile,
    Thing::Pipe,
    Thing::Layers,
    Thing::Device,
];

enum Handle {
    Disk(ScsiMount),
    Layer(VpmemMount),
    Plan9(Plan9Share),
    Share(Share),
    Pipe(PipeMount),
    Layers(CombinedLayers),
    Device(VpciDevice),
}

impl Handle {
    async fn release(&self) -> Result<(), UvmError> {
        match self {
            Self::Disk(disk) => disk.release().await,
            Self::Layer(layer) => layer.release().await,
            Self::Plan9(share) => share.release().await,
            Self::Share(share) => share.release().await,
            Self::Pipe(pipe) => pipe.release().await,
            Self::Layers(layers) => layers.release().await,
            Self::Device(device) => device.release().await,
        }
    }
}

impl Thing {
    async fn add(self, vm: &UtilityVm, files: &Path) -> Result<Handle, UvmError> {
        let file = files.join("file");
        Ok(match self {
            Self::MountedDisk => {
                let disk = ScsiDisk::new(file).with_guest_path("/mnt").with_access(VmAccess::Individual);
                Handle::Disk(vm.add_scsi(&disk).await?)
            }
            Self::BareDisk => Handle::Disk(vm.add_scsi(&ScsiDisk::new(file)).await?),
            Self::Layer => Handle::Layer(vm.add_vpmem(file).await?),
            Self::Plan9 => Handle::Plan9(vm.add_plan9(&Plan9ShareOptions::new(files, "/mnt")).await?),
            Self::SharedDirectory => Handle::Share(vm.share(files, "/mnt", true).await?),
            Self::SharedFile => Handle::Share(vm.share(file, "/mnt", false).await?),
            Self::Pipe => Handle::Pipe(vm.add_pipe(r"\\.\pipe\x").await?),
            Self::Layers => Handle::Layers(vm.combine_layers_lcow(&["/a".into()], "", "/root").await?),
            Self::Device => Handle::Device(vm.assign_device("PCIP\\0").await?),
        })
    }
}

/// A running VM, and what was asked of both sides since the last look.
struct Scene {
    played: Played,
    guest: Obedient,
    files: tempfile::TempDir,
    seen: usize,
}

impl Scene {
    async fn new() -> TestResult<Self> {
        let files = tempfile::tempdir()?;
        std::fs::write(files.path().join("file"), "data")?;
        let (played, guest) = boot().await?;
        let seen = played.host.calls().len();
        Ok(Self { played, guest, files, seen })
    }

    async fn add(&self, thing: Thing) -> Result<Handle, UvmError> {
        thing.add(&self.played.vm, self.files.path()).await
    }

    fn host(&mut self) -> Vec<String> {
        let calls = self.played.host.calls().split_off(self.seen);
        self.seen += calls.len();
        let files = self.files.path().display().to_string();
        calls.iter().map(|call| call.replace(&files, "files")).collect()
    }

    /// Has the call at this place of `calls`, which all come again, go wrong.
    fn plant(&self, calls: &[String], at: usize, fault: Fault) {
        let call = &calls[at];
        let skip = calls[..at].iter().filter(|earlier| *earlier == call).count();
        let files = self.files.path().display().to_string();
        self.played.host.plant(&call.replace("files", &files), skip, fault);
    }
}

/// What an addition and a removal ask when nothing goes wrong.
struct Normal {
    added: (Vec<String>, Vec<String>),
    removed: (Vec<String>, Vec<String>),
}

impl Normal {
    async fn of(thing: Thing) -> TestResult<Self> {
        let mut scene = Scene::new().await?;
        let handle = scene.add(thing).await?;
        let added = (scene.host(), scene.guest.words());
        handle.release().await?;
        let removed = (scene.host(), scene.guest.words());
        scene.played.close().await?;
        Ok(Self { added, removed })
    }

    /// Adds the thing and removes it, which asks what it always asks, but for the number that tells shares apart.
    async fn holds(&self, scene: &mut Scene, thing: Thing) -> TestResult {
        let handle = scene.add(thing).await.map_err(|e| format!("{thing:?}: {}", chain(&e)))?;
        same(thing, (scene.host(), scene.guest.words()), &self.added);
        handle.release().await?;
        same(thing, (scene.host(), scene.guest.words()), &self.removed);
        Ok(())
    }

    /// What undoes the first `count` of the host's calls of an addition.
    fn undone(&self, count: usize) -> Vec<String> {
        let done = &self.added.0[..count];
        let device = done.iter().filter_map(|call| Some(format!("undo {}", call.strip_prefix("add ")?)));
        let access = done.iter().filter_map(|call| Some(format!("revoke {}", call.strip_prefix("grant Individual ")?)));
        device.chain(access).collect()
    }
}

fn same(
    thing: Thing,
    (host, guest): (Vec<String>, Vec<String>),
    (host_before, guest_before): &(Vec<String>, Vec<String>),
) {
    let without_number = |words: &[String]| {
        let words = words.iter().map(|word| word.split(' ').filter(|part| part.parse::<u64>().is_err()));
        words.map(|parts| parts.collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(&host, host_before, "{thing:?}");
    assert_eq!(without_number(&guest), without_number(guest_before), "{thing:?}");
}

#[tokio::test(start_paused = true)]
async fn an_addition_that_fails_at_any_call_of_the_host_is_undone() -> TestResult {
    let mut cases = 0;
    for thing in THINGS {
        let normal = Normal::of(thing).await?;
        for (at, fault) in (0..normal.added.0.len()).flat_map(|at| [(at, Fault::Fail), (at, Fault::Hang)]) {
            let mut scene = Scene::new().await?;
            scene.plant(&normal.added.0, at, fault);
            assert!(scene.add(thing).await.is_err(), "{thing:?} {at} {fault:?}");
            settle().await;
            let mut expected = normal.added.0[..=at].to_vec();
            // What was not answered may have been done.
            let is_unclear = fault == Fault::Hang && normal.added.0[at].starts_with("add ");
            expected.extend(normal.undone(if is_unclear { at + 1 } else { at }));
            assert_eq!(scene.host(), expected, "{thing:?} {at} {fault:?}");
            assert_eq!(scene.guest.words(), Vec::<String>::new(), "{thing:?} {at}: the host comes first");
            normal.holds(&mut scene, thing).await?;
            scene.played.close().await?;
            cases += 1;
        }
    }
    assert_eq!(cases, HOST_CALLS_OF_ADDITIONS * 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_addition_that_the_guest_refuses_or_does_not_answer_is_undone() -> TestResult {
    let mut cases = 0;
    for thing in THINGS {
        let normal = Normal::of(thing).await?;
        for silent in [false, true] {
            for _ in 0..normal.added.1.len() {
                let mut scene = Scene::new().await?;
                if silent {
                    scene.guest.told().silent = true;
                } else {
                    scene.guest.refuse(0);
                }
                assert!(scene.add(thing).await.is_err(), "{thing:?} {silent}");
                scene.guest.told().silent = false;
                let mut expected = normal.added.0.clone();
                expected.extend(normal.undone(normal.added.0.len()));
                assert_eq!(scene.host(), expected, "{thing:?} {silent}");
                let words = scene.guest.words();
                assert_eq!(words[..1], normal.added.1[..1], "{thing:?}");
                // One that says nothing may have done it: it is told to take it back, where it can.
                assert_eq!(words.len(), 1 + usize::from(silent && !normal.removed.1.is_empty()), "{thing:?} {words:?}");
                normal.holds(&mut scene, thing).await?;
                scene.played.close().await?;
                cases += 1;
            }
        }
    }
    assert_eq!(cases, GUEST_CALLS_OF_ADDITIONS * 2);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_at_any_call_can_be_made_again() -> TestResult {
    let mut cases = 0;
    for thing in THINGS {
        let normal = Normal::of(thing).await?;
        let host = (0..normal.removed.0.len()).flat_map(|at| [(Some((at, Fault::Fail))), (Some((at, Fault::Hang)))]);
        let guest = (0..normal.removed.1.len()).map(|_| None);
        for failing in host.chain(guest) {
            let mut scene = Scene::new().await?;
            let handle = scene.add(thing).await?;
            // What the addition asked.
            drop((scene.host(), scene.guest.words()));
            match failing {
                Some((at, fault)) => scene.plant(&normal.removed.0, at, fault),
                None => scene.guest.refuse(0),
            }
            let released = handle.release().await;
            match failing {
                // Access that cannot be taken back is told to the log, and keeps nothing.
                Some((at, _)) if normal.removed.0[at].starts_with("revoke") => {
                    released?;
                    same(thing, (scene.host(), scene.guest.words()), &normal.removed);
                }
                _ => {
                    assert!(released.is_err(), "{thing:?} {failing:?}");
                    let asked = (scene.host(), scene.guest.words());
                    handle.release().await.map_err(|e| format!("{thing:?}: {}", chain(&e)))?;
                    let again = (scene.host(), scene.guest.words());
                    if let Some((at, _)) = failing {
                        assert_eq!(asked.0, normal.removed.0[..=at], "{thing:?}");
                        assert_eq!(again.0, normal.removed.0[at..], "{thing:?}");
                        // What the guest has let go of is not asked of it again.
                        same(
                            thing,
                            (again.0, [asked.1, again.1].concat()),
                            &(normal.removed.0[at..].to_vec(), normal.removed.1.clone()),
                        );
                    } else {
                        assert_eq!(
                            asked,
                            (Vec::new(), normal.removed.1[..1].to_vec()),
                            "{thing:?}: the guest comes first"
                        );
                        same(thing, again, &normal.removed);
                    }
                }
            }
            assert!(handle.release().await.is_err(), "{thing:?}: it is gone");
            normal.holds(&mut scene, thing).await?;
            scene.played.close().await?;
            cases += 1;
        }
    }
    assert_eq!(cases, HOST_CALLS_OF_REMOVALS * 2 + GUEST_CALLS_OF_REMOVALS);
    Ok(())
}

// How many calls there are to fail, over all things: a path that is not taken any more shows here.
const HOST_CALLS_OF_ADDITIONS: usize = 12;
const GUEST_CALLS_OF_ADDITIONS: usize = 7;
const HOST_CALLS_OF_REMOVALS: usize = 9;
const GUEST_CALLS_OF_REMOVALS: usize = 7;
