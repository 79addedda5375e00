//! Directories and files of the host, shared with the command's VM.

use std::path::PathBuf;

use uvm::{Share, UtilityVm, UvmError};

use super::layers::seen_at;
use crate::args::SharedPath;

/// Mounts them in their order, so that one may lie in another. A share ends when it is dropped, or with the VM.
pub(crate) async fn mount(vm: &UtilityVm, wanted: &[SharedPath], layers: &[PathBuf]) -> Result<Vec<Share>, UvmError> {
    let mut shares = Vec::new();
    for SharedPath { path, guest_path, read_only } in wanted {
        shares.push(vm.share(path, &seen_at(layers, guest_path), *read_only).await?);
    }
    Ok(shares)
}
