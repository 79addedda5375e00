//! A QEMU that does not answer while something is plugged in or unplugged: an error in time that says so, and nothing is left
//! of it when QEMU goes on.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use uvm::{
    ErrorKind, LcowOptions, PipeMount, Plan9Share, Plan9ShareOptions, ScsiDisk, ScsiMount, Share, ShareKind,
    ShareOptions, UtilityVm, UvmError, VpmemMount,
};
use uvm_testkit::{TestResult, TestVm};

use crate::disks::{disks_in, sh};
use crate::faults::{Stopped, chain};
use crate::images::Images;
use crate::qemu;

/// How long a change may take that nobody answers: much longer than the limits below, which come after each other.
const BOUNDED: Duration = Duration::from_secs(60);

/// A VM that waits less than users do.
async fn boot(name: &str) -> TestResult<TestVm> {
    let change = |options: &mut LcowOptions| {
        options.deadlines.host_call = Duration::from_secs(2);
        options.deadlines.rpc = Duration::from_secs(3);
        options.vpmem_devices = 1;
    };
    TestVm::builder(name).with(change).boot().await
}

/// One thing of the host of each kind.
struct Things {
    images: Images,
    disk: PathBuf,
    layer: PathBuf,
    socket: PathBuf,
    _listener: UnixListener,
}

/// What is plugged in.
struct Plugged {
    disk: ScsiMount,
    layer: VpmemMount,
    by_9p: Plan9Share,
    device: Share,
    socket: PipeMount,
}

/// What came of it for each kind.
type Outcomes = [(&'static str, Result<(), UvmError>); 5];

impl Things {
    fn make() -> TestResult<Self> {
        let images = Images::new()?;
        let (disk, layer) = (images.filesystem("disk.img", "ext4")?, images.filesystem("layer.img", "ext4")?);
        std::fs::create_dir(images.path("shared"))?;
        std::fs::write(images.path("shared/hello"), "from a share\n")?;
        let socket = images.path("socket");
        let listener = UnixListener::bind(&socket)?;
        Ok(Self { images, disk, layer, socket, _listener: listener })
    }

    fn shared(&self) -> PathBuf {
        self.images.path("shared")
    }

    /// Plugs all in, at the same time.
    async fn plug(&self, vm: &UtilityVm) -> Result<Plugged, Outcomes> {
        let disk = ScsiDisk::new(&self.disk).with_guest_path("/run/t/disk");
        let by_9p = Plan9ShareOptions::new(self.shared(), "/run/t/9p");
        let device = ShareOptions::new(self.shared(), "/run/t/device").with_kind(ShareKind::VirtioFs);
        match tokio::join!(
            vm.add_scsi(&disk),
            vm.add_vpmem(&self.layer),
            vm.add_plan9(&by_9p),
            vm.share_with(&device),
            vm.add_pipe_at(&self.socket, "/run/t/socket"),
        ) {
            (Ok(disk), Ok(layer), Ok(by_9p), Ok(device), Ok(socket)) => {
                Ok(Plugged { disk, layer, by_9p, device, socket })
            }
            (disk, layer, by_9p, device, socket) => Err([
                ("disk", disk.map(drop)),
                ("layer", layer.map(drop)),
                ("share by 9P", by_9p.map(drop)),
                ("share", device.map(drop)),
                ("socket", socket.map(drop)),
            ]),
        }
    }

    /// Releases what has no handle.
    async fn release(&self, vm: &UtilityVm) -> TestResult {
        let (disk, layer, socket) =
            tokio::join!(vm.remove_scsi(&self.disk), vm.remove_vpmem(&self.layer), vm.remove_pipe(&self.socket));
        for outcome in [disk, layer, socket] {
            match outcome {
                // It was undone.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                outcome => outcome.map_err(|e| chain(&e))?,
            }
        }
        Ok(())
    }
}

impl Plugged {
    /// Unplugs all, at the same time.
    async fn release(&self) -> Outcomes {
        let Self { disk, layer, by_9p, device, socket } = self;
        let (disk, layer, by_9p, device, socket) =
            tokio::join!(disk.release(), layer.release(), by_9p.release(), device.release(), socket.release());
        [("disk", disk), ("layer", layer), ("share by 9P", by_9p), ("share", device), ("socket", socket)]
    }

    /// The guest can use all of it.
    async fn works(&self, vm: &UtilityVm) -> TestResult {
        let layer = self.layer.guest_path().ok_or("no path")?;
        let said = sh(vm, &format!("cat /run/t/disk/hello {layer}/hello /run/t/9p/hello /run/t/device/hello")).await?;
        assert_eq!(said, "from ext4\nfrom ext4\nfrom a share\nfrom a share\n");
        sh(vm, "test -S /run/t/socket").await.map(drop)
    }
}

/// Each is an error that says what QEMU does, and was waited for in vain.
fn all_told(outcomes: Outcomes, pid: u32) -> TestResult {
    for (what, outcome) in outcomes {
        let error = outcome.err().ok_or_else(|| format!("{what}: QEMU is stopped, and it was done"))?;
        let text = chain(&error);
        let is_said = text.contains(&format!("QEMU (pid {pid}) does not run: it is stopped"));
        if error.kind() != ErrorKind::Timeout || !is_said {
            return Err(format!("{what}: {text}").into());
        }
    }
    Ok(())
}

fn all_done(outcomes: Outcomes) -> TestResult {
    for (what, outcome) in outcomes {
        outcome.map_err(|e| format!("{what}: {}", chain(&e)))?;
    }
    Ok(())
}

/// [`Things::plug`] where nothing is in its way.
async fn plug(things: &Things, vm: &UtilityVm) -> TestResult<Plugged> {
    match things.plug(vm).await {
        Ok(plugged) => Ok(plugged),
        Err(outcomes) => all_done(outcomes).and(Err("all was done, and something was not".into())),
    }
}

/// What there is of all these, in the guest and in QEMU.
async fn view(vm: &UtilityVm, pid: u32) -> TestResult<String> {
    let mounts = sh(vm, "grep /run/ /proc/mounts; ls -d /run/t/* 2>/dev/null; ls /sys/bus/pci/devices").await?;
    Ok(format!("{:?} {mounts:?} {}", disks_in(vm).await?, qemu::sockets(pid)?))
}

#[tokio::test]
async fn what_is_plugged_in_too_late_leaves_nothing_and_can_be_plugged_in_again() -> TestResult {
    let things = Things::make()?;
    let vm = boot("late-add").await?;
    let pid = qemu::pid(&vm).await?;
    // What QEMU opens for the first of them it keeps.
    all_done(plug(&things, &vm).await?.release().await)?;
    let before = view(&vm, pid).await?;
    for round in 0..3 {
        let stopped = Stopped::new(pid)?;
        let plugged = tokio::time::timeout(BOUNDED, things.plug(&vm)).await?;
        all_told(plugged.err().ok_or("QEMU is stopped, and all was done")?, pid)?;
        drop(stopped);
        things.release(&vm).await?;
        let plugged = plug(&things, &vm).await?;
        plugged.works(&vm).await?;
        all_done(plugged.release().await)?;
        assert_eq!(view(&vm, pid).await?, before, "round {round}");
        assert!(!qemu::has_open(pid, &things.disk)?, "round {round}");
    }
    vm.close().await
}

#[tokio::test]
async fn what_cannot_be_unplugged_yet_can_be_later() -> TestResult {
    let things = Things::make()?;
    let vm = boot("late-remove").await?;
    let pid = qemu::pid(&vm).await?;
    all_done(plug(&things, &vm).await?.release().await)?;
    let before = view(&vm, pid).await?;
    for round in 0..3 {
        let plugged = plug(&things, &vm).await?;
        let stopped = Stopped::new(pid)?;
        all_told(tokio::time::timeout(BOUNDED, plugged.release()).await?, pid)?;
        drop(stopped);
        all_done(plugged.release().await)?;
        assert_eq!(view(&vm, pid).await?, before, "round {round}");
        assert!(!qemu::has_open(pid, &things.disk)?, "round {round}");
    }
    vm.close().await
}
