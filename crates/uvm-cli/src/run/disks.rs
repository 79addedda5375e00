//! Disks of the host, given to the command's VM.

use std::path::PathBuf;

use uvm::{ScsiDisk, ScsiMount, UtilityVm, UvmError};

use super::layers::seen_at;
use crate::paths::Disk;
use crate::report;

/// Disks of one controller.
const PER_CONTROLLER: usize = 64;

/// How many controllers it takes to attach so many disks; every VM has one.
pub(crate) fn controllers(disks: usize) -> u32 {
    u32::try_from(disks.div_ceil(PER_CONTROLLER)).unwrap_or(u32::MAX).max(1)
}

/// The disks that are attached.
pub(crate) struct Disks(Vec<ScsiMount>);

impl Disks {
    /// Attaches them in their order, so that the first is the guest's first.
    pub(crate) async fn attach(vm: &UtilityVm, wanted: &[Disk], layers: &[PathBuf]) -> Result<Self, UvmError> {
        let mut disks = Vec::new();
        for Disk { path, guest_path, read_only } in wanted {
            let mut disk = ScsiDisk::new(path);
            disk.guest_path = guest_path.as_ref().map(|path| seen_at(layers, path));
            disk.read_only = *read_only;
            disks.push(vm.add_scsi(&disk).await?);
        }
        Ok(Self(disks))
    }

    /// The command has ended: what it wrote is brought to the disks. Where others in the guest still use one, all of the
    /// guest is shut down for it. Whether the disks have everything.
    pub(crate) async fn settled(self, vm: &UtilityVm) -> bool {
        let mut all = true;
        // One may be mounted in another that was attached before it.
        for disk in self.0.iter().rev() {
            if let Err(e) = disk.release().await {
                tracing::debug!(error = report::chain(&e), "a disk is still in use");
                all = false;
            }
        }
        if all {
            return true;
        }
        let ended = vm.shutdown().await;
        if let Err(e) = &ended {
            report::error(e);
        }
        ended.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_has_sixty_four_disks() {
        assert_eq!([0, 1, 64, 65, 256, 257].map(controllers), [1, 1, 1, 2, 4, 5]);
    }
}
