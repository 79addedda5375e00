//! Disks of the host, given to the command's VM.

use std::path::PathBuf;

use uvm::{ScsiDisk, ScsiMount, UtilityVm, UvmError};

use super::layers::seen_at;
use crate::paths::Disk;

/// Disks of one controller.
const PER_CONTROLLER: usize = 64;

/// How many controllers it takes to attach so many disks; every VM has one.
pub(crate) fn controllers(disks: usize) -> u32 {
    u32::try_from(disks.div_ceil(PER_CONTROLLER)).unwrap_or(u32::MAX).max(1)
}

/// Attaches one of them.
pub(crate) async fn attach(vm: &UtilityVm, layers: &[PathBuf], wanted: &Disk) -> Result<ScsiMount, UvmError> {
    let Disk { path, guest_path, read_only } = wanted;
    let mut disk = ScsiDisk::new(path);
    disk.guest_path = guest_path.as_ref().map(|path| seen_at(layers, path));
    disk.read_only = *read_only;
    vm.add_scsi(&disk).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_controller_has_sixty_four_disks() {
        assert_eq!([0, 1, 64, 65, 256, 257].map(controllers), [1, 1, 1, 2, 4, 5]);
    }
}
