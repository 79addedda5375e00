//! A running VM on a host in memory, whichever that is, with a guest that plays along, and what is asked of both.

use std::sync::Arc;

use uvm::platform::BoxFuture;
use uvm::{
    CombinedLayers, LcowOptions, PipeMount, Plan9Share, Plan9ShareOptions, ScsiDisk, ScsiMount, Share, UtilityVm,
    UvmError, VmAccess, VpciDevice, VpmemMount,
};
use uvm_testkit::guest::Guest;
use uvm_testkit::memory::{Fault, HostCall, Kind, MemoryHost};

use crate::obedient::Obedient;
use crate::support::{TestResult, within_a_day};

/// One of each kind of thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
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

pub(crate) const THINGS: [Thing; 9] = [
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

/// What somebody has.
pub(crate) trait Handle: Send + Sync {
    fn release(&self) -> BoxFuture<'_, Result<(), UvmError>>;

    /// Where the Host Compute Service has the device, as far as the handle tells.
    fn device(&self) -> Option<String>;

    /// Whether the guest was to mount it, as far as the handle tells.
    fn is_mounted(&self) -> bool;
}

macro_rules! handles {
    ($($handle:ty: $device:expr, $is_mounted:expr;)*) => {
        $(impl Handle for $handle {
            fn release(&self) -> BoxFuture<'_, Result<(), UvmError>> {
                Box::pin(<$handle>::release(self))
            }

            fn device(&self) -> Option<String> {
                let device: fn(&Self) -> Option<String> = $device;
                device(self)
            }

            fn is_mounted(&self) -> bool {
                let is_mounted: fn(&Self) -> bool = $is_mounted;
                is_mounted(self)
            }
        })*
    };
}

handles! {
    ScsiMount: |disk| Some(format!("Scsi/{}/Attachments/{}", disk.controller()?, disk.lun()?)), |disk| disk.guest_path().is_some();
    VpmemMount: |layer| Some(format!("VirtualPMem/Devices/{}", layer.slot()?)), |_| true;
    Plan9Share: |_| None, |_| true;
    Share: |_| None, |_| true;
    PipeMount: |pipe| Some(format!("MappedPipes/{}", pipe.host_path().display())), |_| false;
    CombinedLayers: |_| None, |_| true;
    VpciDevice: |device| Some(format!("VirtualPci/{}", device.vmbus_guid())), |_| false;
}

impl Thing {
    /// The one of this kind of the host's files, of which there may be several.
    pub(crate) async fn add(self, vm: &UtilityVm, host: &MemoryHost, which: &str) -> Result<Box<dyn Handle>, UvmError> {
        let file = host.path(which);
        let files = host.directory();
        Ok(match self {
            Self::MountedDisk => {
                let disk = ScsiDisk::new(file).with_guest_path("/mnt").with_access(VmAccess::Individual);
                Box::new(vm.add_scsi(&disk).await?)
            }
            Self::BareDisk => Box::new(vm.add_scsi(&ScsiDisk::new(file)).await?),
            Self::Layer => Box::new(vm.add_vpmem(file).await?),
            Self::Plan9 => Box::new(vm.add_plan9(&Plan9ShareOptions::new(files, "/mnt")).await?),
            Self::SharedDirectory => Box::new(vm.share(files, "/mnt", true).await?),
            Self::SharedFile => Box::new(vm.share(file, "/mnt", false).await?),
            Self::Pipe => Box::new(vm.add_pipe(format!(r"\\.\pipe\{which}")).await?),
            Self::Layers => Box::new(vm.combine_layers_lcow(&["/a".into()], "", "/root").await?),
            Self::Device => Box::new(vm.assign_device(&format!(r"PCIP\{which}")).await?),
        })
    }
}

/// What was asked of the host, in words, and of the guest.
pub(crate) type Asked = (Vec<String>, Vec<String>);

/// A running VM, and what was asked of both sides since the last look.
pub(crate) struct Scene {
    pub(crate) host: MemoryHost,
    pub(crate) vm: UtilityVm,
    pub(crate) guest: Obedient,
    seen: usize,
}

impl Scene {
    pub(crate) async fn new(kind: Kind) -> TestResult<Self> {
        Self::with(kind, |_| ()).await
    }

    /// As `new`, with these options changed.
    pub(crate) async fn with(kind: Kind, change: impl FnOnce(&mut LcowOptions) + Send) -> TestResult<Self> {
        let host = MemoryHost::new(kind).await?;
        let vm = host.create_lcow("scene", change).await?;
        let end = host.guest_end(&vm);
        let boot = async {
            let mut guest = Guest::boot_at(Arc::clone(&end)).await?;
            guest.negotiate().await?;
            TestResult::Ok(guest)
        };
        let (started, guest) = within_a_day(async { tokio::join!(vm.start(), boot) }).await?;
        started?;
        let guest = Obedient::new(guest?);
        let seen = host.calls().len();
        Ok(Self { host, vm, guest, seen })
    }

    pub(crate) async fn add(&self, thing: Thing) -> Result<Box<dyn Handle>, UvmError> {
        thing.add(&self.vm, &self.host, "file").await
    }

    /// What the host was asked since the last time.
    pub(crate) fn calls(&mut self) -> Vec<HostCall> {
        let calls = self.host.calls().split_off(self.seen);
        self.seen += calls.len();
        calls
    }

    /// What both were asked since the last time.
    pub(crate) fn asked(&mut self) -> Asked {
        (words(&self.calls()), self.guest.words())
    }

    /// Has the call at this place of `calls`, which all come again, go wrong.
    pub(crate) fn plant(&self, calls: &[HostCall], at: usize, fault: Fault) {
        let skip = calls[..at].iter().filter(|earlier| *earlier == &calls[at]).count();
        self.host.plant(&calls[at], skip, fault);
    }

    /// Closes the VM, and passes if nothing is left of it.
    pub(crate) async fn close(self) -> TestResult {
        self.vm.close().await?;
        let Self { host, vm, guest, .. } = self;
        drop((vm, guest));
        host.nothing_left().await
    }
}

pub(crate) fn words(calls: &[HostCall]) -> Vec<String> {
    calls.iter().map(|call| call.words.clone()).collect()
}
