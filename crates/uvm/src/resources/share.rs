//! A file or directory of the host, to be seen at a path of the guest.

use std::path::Path;

use uvm_platform::requests::HostFile;

use super::{Plan9Share, Plan9ShareOptions, ResourceError};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Something of the host that the guest sees. Dropping it removes it in the background.
#[derive(Debug)]
pub struct Share {
    plan9: Plan9Share,
}

impl Share {
    /// Where it is in the guest. A single file is in there, by its own name.
    pub fn guest_path(&self) -> &str {
        self.plan9.guest_path()
    }

    /// Removes it. Cancel-safe: it goes on.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.plan9.release().await
    }
}

impl UtilityVm {
    /// Shows a directory of the host at `guest_path`, or a single file in `guest_path`, in the way that fits the guest.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: it is not there, or the host or the guest refused, and nothing is left.
    /// [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn share(
        &self,
        host_path: impl AsRef<Path>,
        guest_path: &str,
        read_only: bool,
    ) -> Result<Share, UvmError> {
        let host_path = host_path.as_ref();
        let looked = self.inner.vm.look_at(host_path).await.map_err(ResourceError::Host);
        let what = host_path.display().to_string();
        let looked = looked.map_err(|source| self.inner.resource_error("share", &what, source))?;
        let mut options = match looked {
            HostFile::Directory => Plan9ShareOptions::new(host_path, guest_path),
            HostFile::File { directory, name, .. } => {
                Plan9ShareOptions::new(directory, guest_path).restricted_to([name])
            }
        };
        options.read_only = read_only;
        Ok(Share { plan9: self.add_plan9(&options).await? })
    }
}
