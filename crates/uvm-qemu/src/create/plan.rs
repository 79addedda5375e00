//! What is known, and found possible, before anything is made.

use std::sync::Arc;

use uvm_platform::spec::{GuestAgent, MemoryBacking, MmioGaps, RootFs, StorageQos};
use uvm_platform::{Accelerator, Capabilities, Feature, PlatformError, VmSpec};

use crate::accel;
use crate::boot_file::{self, BootFile};
use crate::host::Shared;
use crate::kernel_line::{HostFacts, kernel_line};
use crate::root_disk::{self, RootDisk};
use crate::spawn::RunAs;
use crate::user;

/// The kernel's own limit for its command line on x86 (`COMMAND_LINE_SIZE`), the final zero included.
const KERNEL_LINE_MAX: usize = 2048;

/// Memory a guest needs besides its kernel and twice its initramfs (packed and unpacked), in bytes. Found by booting the
/// distribution's kernel with less and less.
const KERNEL_NEEDS: u64 = 40 << 20;

/// More than any machine has: 1 PiB, far below where sums in bytes would overflow.
const MOST_MIB: u64 = 1 << 30;

/// What is known before anything is made.
pub(super) struct Plan {
    pub(super) run_as: Option<RunAs>,
    pub(super) kernel: BootFile,
    pub(super) initrd: Option<BootFile>,
    pub(super) root: Option<RootDisk>,
    pub(super) kernel_line: String,
}

impl Plan {
    /// Away from the VM's thread: a root disk may have to be copied.
    pub(super) async fn make(host: Arc<Shared>, spec: VmSpec) -> Result<Self, PlatformError> {
        let checked = tokio::task::spawn_blocking(move || Self::check(&host, &spec)).await;
        checked.unwrap_or_else(|e| Err(PlatformError::host("look at the boot files", e)))
    }

    fn check(host: &Shared, spec: &VmSpec) -> Result<Self, PlatformError> {
        require(&host.capabilities, spec)?;
        let accelerator = host.accelerator.accelerator;
        let run_as = user::choose(&spec.id, accelerator == Accelerator::Kvm);
        let kernel = boot_file::open_kernel(&spec.boot.kernel, run_as.as_ref())?;
        let (initrd, root) = match &spec.boot.root {
            RootFs::Initrd(path) => (Some(boot_file::open_initrd(path, run_as.as_ref())?), None),
            RootFs::Disk(path) => (None, Some(root_disk::open(path, run_as.as_ref())?)),
        };
        check_memory(spec, kernel.bytes, initrd.as_ref().map_or(0, |file| file.bytes))?;
        let kernel_line = kernel_line(spec, HostFacts { accelerator, tsc_hz: accel::tsc_hz() });
        check_line(&kernel_line)?;
        Ok(Self { run_as, kernel, initrd, root, kernel_line })
    }
}

fn check_memory(spec: &VmSpec, kernel: u64, initrd: u64) -> Result<(), PlatformError> {
    let needed_mib = (kernel + 2 * initrd + KERNEL_NEEDS).div_ceil(1 << 20);
    let why = match spec.memory.size_mib {
        size if size > MOST_MIB => format!("at most {MOST_MIB} MiB are possible"),
        size if size < needed_mib => format!("this kernel and initramfs need at least {needed_mib} MiB"),
        _ => return Ok(()),
    };
    Err(PlatformError::BadInput { what: "memory size", value: format!("{} MiB", spec.memory.size_mib), why })
}

fn check_line(line: &str) -> Result<(), PlatformError> {
    if line.len() < KERNEL_LINE_MAX && !line.contains(['\n', '\0']) {
        return Ok(());
    }
    Err(PlatformError::BadInput {
        what: "kernel command line",
        value: line.to_owned(),
        why: format!(
            "it has {} bytes; at most {} are allowed, without line ends or zeros",
            line.len(),
            KERNEL_LINE_MAX - 1
        ),
    })
}

/// Refuses what this host cannot do, before anything is made.
fn require(capabilities: &Capabilities, spec: &VmSpec) -> Result<(), PlatformError> {
    let wanted = [
        (spec.graphics_console, Feature::GraphicsConsole),
        (matches!(spec.boot.root, RootFs::Disk(_)), Feature::RootFromDisk),
        (spec.boot.agent == GuestAgent::Original, Feature::OriginalAgent),
        (spec.virtual_sockets, Feature::VirtualSockets),
        (spec.storage_qos != StorageQos::default(), Feature::StorageQos),
        (spec.cpu_group.is_some(), Feature::CpuGroups),
        (spec.memory.mmio != MmioGaps::default(), Feature::MmioGaps),
        (spec.memory.backing == MemoryBacking::Physical, Feature::PhysicallyBackedMemory),
        (spec.additional_document.is_some(), Feature::AdditionalDocument),
        (spec.boot.uefi, Feature::UefiBoot),
        (spec.cold_discard_hint, Feature::ColdDiscardHint),
        (spec.processors.limit.is_some(), Feature::ProcessorLimit),
        (spec.processors.weight.is_some(), Feature::ProcessorWeight),
    ];
    wanted.into_iter().filter(|(wanted, _)| *wanted).try_for_each(|(_, feature)| capabilities.require(feature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_spec::spec;

    #[test]
    fn too_little_memory_is_told_with_both_numbers() {
        let mut spec = spec(1);
        spec.memory.size_mib = 16;
        let error = check_memory(&spec, 24 << 20, (10 << 20) + 1).expect_err("too little").to_string();
        assert_eq!(error, "memory size \"16 MiB\" cannot be used: this kernel and initramfs need at least 85 MiB");
        spec.memory.size_mib = 86;
        check_memory(&spec, 24 << 20, (10 << 20) + 1).expect("enough");
    }

    #[test]
    fn a_kernel_line_the_kernel_would_cut_is_refused_with_both_numbers() {
        check_line(&"x".repeat(2047)).expect("fits");
        let error = check_line(&"x".repeat(2048)).expect_err("too long").to_string();
        assert!(error.contains("2048 bytes") && error.contains("at most 2047"), "{error}");
        check_line("a\nb").expect_err("a line end");
    }
}
