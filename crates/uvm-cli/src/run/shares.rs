//! Directories and files of the host, shared with the command's VM.

use uvm::{Share, UtilityVm, UvmError};

use crate::args::SharedPath;

/// Mounts them in their order, so that one may lie in another. A share ends when it is dropped, or with the VM.
pub(crate) async fn mount(vm: &UtilityVm, wanted: &[SharedPath]) -> Result<Vec<Share>, UvmError> {
    let mut shares = Vec::new();
    for SharedPath { path, guest_path, read_only } in wanted {
        shares.push(vm.share(path, guest_path, *read_only).await?);
    }
    Ok(shares)
}
