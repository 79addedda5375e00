//! What is plugged in, and what cannot be.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use uvm::{
    PipeMount, Plan9Share, Plan9ShareOptions, ProcessSpec, ScsiDisk, ScsiMount, Share, ShareKind, ShareOptions,
    UtilityVm, UvmError, VpmemMount,
};
use uvm_testkit::TestResult;

use crate::campaign::Random;
use crate::disks::sh;
use crate::faults::chain;
use crate::images::Images;

use super::TASKS;

/// Where the guest has all that is mounted, by name.
pub(super) const MOUNTED: &str = "/run/plugged";
/// The file in each that says what it is.
pub(super) const NAME: &str = "hello";
/// Disks and directories of each sort.
const OF_EACH: usize = 5;

/// One thing of the host.
#[derive(Debug)]
pub(super) struct Thing {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With this file system, mounted.
    Disk { filesystem: &'static str, read_only: bool },
    /// Only attached.
    Blank,
    /// A layer, as memory.
    Layer,
    /// A directory, shared by 9P; each time anew.
    Share { read_only: bool },
    /// A directory, shared as a device; each time anew.
    Device { read_only: bool },
    /// A socket.
    Socket,
}

/// A thing that is plugged in; dropping it unplugs it in the background.
#[derive(Debug)]
pub(super) enum Handle {
    Disk(ScsiMount),
    Layer(VpmemMount),
    Share(Plan9Share),
    Device(Share),
    Socket(PipeMount),
}

impl Handle {
    pub(super) async fn release(&self) -> TestResult {
        match self {
            Self::Disk(disk) => disk.release().await,
            Self::Layer(layer) => layer.release().await,
            Self::Share(share) => share.release().await,
            Self::Device(share) => share.release().await,
            Self::Socket(socket) => socket.release().await,
        }
        .map_err(|e| format!("{self:?}: {}", chain(&e)).into())
    }

    /// Where the guest has it.
    pub(super) fn guest_path(&self) -> Option<String> {
        match self {
            Self::Disk(disk) => disk.guest_path().map(ToOwned::to_owned),
            Self::Layer(layer) => layer.guest_path(),
            Self::Share(share) => Some(share.guest_path().to_owned()),
            Self::Device(share) => Some(share.guest_path().to_owned()),
            Self::Socket(socket) => socket.guest_path().map(ToOwned::to_owned),
        }
    }

    /// Which disk it is.
    pub(super) fn place(&self) -> Option<(u8, u8)> {
        match self {
            Self::Disk(disk) => disk.controller().zip(disk.lun()),
            Self::Layer(_) | Self::Share(_) | Self::Device(_) | Self::Socket(_) => None,
        }
    }
}

/// All that tasks share, and what each has for itself.
pub(super) struct Things {
    images: Images,
    shared: Vec<Thing>,
    /// One for each task: with a file system, and without.
    own: Vec<(PathBuf, PathBuf)>,
    /// Nobody has to answer behind a socket that is offered.
    _sockets: Vec<UnixListener>,
}

const IMAGES: [Kind; 5] = [
    Kind::Disk { filesystem: "ext4", read_only: false },
    Kind::Disk { filesystem: "ext4", read_only: true },
    Kind::Disk { filesystem: "erofs", read_only: true },
    Kind::Blank,
    Kind::Layer,
];

impl Things {
    pub(super) fn make() -> TestResult<Self> {
        let images = Images::new()?;
        let mut shared = Vec::new();
        for kind in IMAGES {
            for _ in 0..OF_EACH {
                let name = format!("disk-{}", shared.len());
                let path = match kind {
                    Kind::Disk { filesystem, .. } => images.filesystem(&name, filesystem)?,
                    Kind::Layer => images.filesystem(&name, "ext4")?,
                    _ => images.raw(&name, 1)?,
                };
                label(&path, &name)?;
                shared.push(Thing { path, kind });
            }
        }
        for index in 0..2 * OF_EACH {
            let path = images.path(&format!("share-{index}"));
            std::fs::create_dir(&path)?;
            std::fs::write(path.join(NAME), format!("share-{index}\n"))?;
            let read_only = index % 2 == 0;
            let kinds = [Kind::Share { read_only }, Kind::Device { read_only }];
            shared.extend(kinds.map(|kind| Thing { path: path.clone(), kind }));
        }
        let mut sockets = Vec::new();
        for index in 0..OF_EACH {
            let path = images.path(&format!("socket-{index}"));
            sockets.push(UnixListener::bind(&path)?);
            shared.push(Thing { path, kind: Kind::Socket });
        }
        let mut own = Vec::new();
        for task in 0..TASKS {
            let blank = images.raw(&format!("blank-{task}.img"), 1)?;
            own.push((images.filesystem(&format!("own-{task}.img"), "ext4")?, blank));
        }
        for name in ["broken.vhdx", "broken.qcow2"] {
            std::fs::write(images.path(name), "not what its name says".repeat(100_000))?;
        }
        Ok(Self { images, shared, own, _sockets: sockets })
    }

    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.shared.len()
    }

    pub(super) fn any(&self, random: &mut Random) -> usize {
        let index = usize::try_from(random.below(self.shared.len() as u64));
        index.unwrap_or_default()
    }

    pub(super) fn get(&self, thing: usize) -> TestResult<&Thing> {
        Ok(self.shared.get(thing).ok_or("no such thing")?)
    }

    /// Plugs it in; `path` is where in the guest, if it is to be elsewhere each time. `None`: there are as many as can be.
    pub(super) async fn add(&self, vm: &UtilityVm, thing: usize, path: u64) -> TestResult<Option<Handle>> {
        let Thing { path: host_path, kind } = self.get(thing)?;
        let added = match *kind {
            Kind::Disk { read_only, .. } => {
                let disk = ScsiDisk::new(host_path).with_guest_path(format!("{MOUNTED}/disk-{thing}"));
                vm.add_scsi(&if read_only { disk.read_only() } else { disk }).await.map(Handle::Disk)
            }
            Kind::Blank => vm.add_scsi(&ScsiDisk::new(host_path)).await.map(Handle::Disk),
            Kind::Layer => vm.add_vpmem(host_path).await.map(Handle::Layer),
            Kind::Socket => vm.add_pipe_at(host_path, &format!("{MOUNTED}/socket-{thing}")).await.map(Handle::Socket),
            Kind::Device { read_only } => {
                let options = ShareOptions::new(host_path, format!("{MOUNTED}/share-{path}"));
                let options = options.with_kind(ShareKind::VirtioFs);
                vm.share_with(&if read_only { options.read_only() } else { options }).await.map(Handle::Device)
            }
            Kind::Share { read_only } => {
                let options = Plan9ShareOptions::new(host_path, format!("{MOUNTED}/share-{path}"));
                vm.add_plan9(&if read_only { options.read_only() } else { options }).await.map(Handle::Share)
            }
        };
        match added.map_err(|e| chain(&e)) {
            Ok(handle) => Ok(Some(handle)),
            Err(e) if NO_ROOM.iter().any(|why| e.contains(why)) => Ok(None),
            Err(e) => Err(format!("{}: {e}", host_path.display()).into()),
        }
    }

    /// Something that the host, or QEMU, cannot take.
    pub(super) async fn host_refuses(&self, vm: &UtilityVm, random: &mut Random) -> TestResult {
        let name = ["none.img", "broken.vhdx", "broken.qcow2", "none"][usize::try_from(random.below(4))?];
        let path = self.images.path(name);
        let refused = if name == "none" {
            vm.add_plan9(&Plan9ShareOptions::new(&path, format!("{MOUNTED}/none"))).await.err()
        } else {
            vm.add_scsi(&ScsiDisk::new(&path)).await.err()
        };
        names(refused, name)
    }

    /// A disk without a file system, or a place where nothing can be mounted.
    pub(super) async fn guest_refuses(&self, vm: &UtilityVm, task: usize, random: &mut Random) -> TestResult {
        let (own, blank) = self.own.get(task).ok_or("no such task")?;
        if random.below(2) == 0 {
            let refused = vm.add_scsi(&ScsiDisk::new(blank).with_guest_path(format!("{MOUNTED}/blank"))).await;
            return names(refused.err(), "holds no file system");
        }
        // A file is in its way.
        let refused = vm.add_scsi(&ScsiDisk::new(own).with_guest_path("/proc/version/own")).await;
        names(refused.err(), "/proc/version")
    }

    /// A disk that somebody in the guest uses cannot be removed, is still of use, and can be removed later, by whoever has it then.
    pub(super) async fn is_busy(&self, vm: &UtilityVm, task: usize) -> TestResult {
        let (own, _) = self.own.get(task).ok_or("no such task")?;
        let path = format!("{MOUNTED}/own-{task}");
        let wanted = ScsiDisk::new(own).with_guest_path(&path);
        let disk = vm.add_scsi(&wanted).await?;
        let spec = ProcessSpec::new(["sleep", "1000"]).with_cwd(&path);
        let user = vm.create_process(&spec).await?;
        let released = tokio::time::timeout(BOUND, disk.release()).await?;
        names(released.err(), "busy")?;
        // Nor in the background: whoever adds it then has it.
        drop(disk);
        let disk = vm.add_scsi(&wanted).await?;
        sh(vm, &format!("echo used > {path}/used && rm {path}/used")).await?;
        user.kill().await?;
        user.wait().await?;
        disk.release().await.map_err(|e| chain(&e))?;
        Ok(())
    }
}

/// What is said when there are as many as can be.
const NO_ROOM: [&str; 2] = ["the VM has 32 shares", "all slots for devices of a running VM are in use"];
/// How long a removal that cannot be may take; far more than it does.
const BOUND: Duration = Duration::from_secs(120);

/// What begins with its name can be told from others without being mounted: the file systems here begin later.
fn label(image: &std::path::Path, name: &str) -> TestResult {
    use std::os::unix::fs::FileExt;
    std::fs::File::options().write(true).open(image)?.write_all_at(format!("{name}\n").as_bytes(), 0)?;
    Ok(())
}

/// An error that says `what`.
fn names(error: Option<UvmError>, what: &str) -> TestResult {
    let said = error.map(|error| chain(&error));
    match said {
        Some(said) if said.contains(what) => Ok(()),
        said => Err(format!("{said:?} instead of an error that names {what:?}").into()),
    }
}
