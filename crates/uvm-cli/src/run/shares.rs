//! Directories and files of the host, shared with the command's VM.

use uvm::{Share, UtilityVm, UvmError};

use crate::args::SharedPath;

/// The shares, until they are dropped: they end with the VM.
pub(crate) struct Shares(#[expect(dead_code, reason = "dropping it ends the shares")] Vec<Share>);

impl Shares {
    /// Mounts them in their order, so that one may lie in another.
    pub(crate) async fn mount(vm: &UtilityVm, wanted: &[SharedPath]) -> Result<Self, UvmError> {
        let mut shares = Vec::new();
        for SharedPath { path, guest_path, read_only } in wanted {
            shares.push(vm.share(path, guest_path, *read_only).await?);
        }
        Ok(Self(shares))
    }
}
