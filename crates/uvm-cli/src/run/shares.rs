//! Directories and files of the host, shared with the command's VM.

use uvm::{Share, ShareKind, ShareOptions, UtilityVm, UvmError};

use super::layers::seen_at;
use crate::args::{RunArgs, ShareBy};
use crate::paths::SharedPath;

/// Mounts them in their order, so that one may lie in another. A share ends when it is dropped, or with the VM.
pub(crate) async fn mount(vm: &UtilityVm, args: &RunArgs) -> Result<Vec<Share>, UvmError> {
    let mut shares = Vec::new();
    for SharedPath { path, guest_path, read_only } in &args.shares {
        let kind = match args.share_by {
            ShareBy::VirtioFs if path.is_dir() => ShareKind::VirtioFs,
            ShareBy::Auto | ShareBy::VirtioFs => ShareKind::Auto,
            ShareBy::Plan9 => ShareKind::Plan9,
        };
        let options = ShareOptions::new(path, seen_at(&args.layers, guest_path)).with_kind(kind);
        let options = if *read_only { options.read_only() } else { options };
        shares.push(vm.share_with(&options).await?);
    }
    Ok(shares)
}
