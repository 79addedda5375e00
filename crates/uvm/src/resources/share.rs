//! A file or directory of the host, to be seen at a path of the guest.

use std::path::Path;

use uvm_platform::requests::HostFile;
use uvm_wire::modify::{Modification, Resource, WindowsMappedDirectory, WindowsResource};
use uvm_wire::negotiate::GuestOs;

use super::{Held, Plan, Plan9ShareOptions, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Something that a Windows guest has at one path, to be seen at another.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    from: String,
    to: String,
    read_only: bool,
}

pub(super) fn plan(mapped: &Mapped) -> Plan {
    let guest = |read_only| {
        Resource::Windows(WindowsResource::MappedDirectory(WindowsMappedDirectory {
            host_path: mapped.from.clone(),
            container_path: mapped.to.clone(),
            read_only,
        }))
    };
    Plan {
        guest_add: Some(Modification::add(guest(mapped.read_only))),
        guest_remove: Some(Modification::remove(guest(false))),
        ..Plan::default()
    }
}

/// Something of the host that the guest sees. Dropping it removes it in the background.
#[derive(Debug)]
pub struct Share {
    held: Held,
    guest_path: String,
}

impl Share {
    /// Where it is in the guest. A single file is in there by its own name in a Linux guest, and just there in a Windows
    /// guest.
    pub fn guest_path(&self) -> &str {
        &self.guest_path
    }

    /// Has the guest let go of it, and removes what it comes from if nobody else has that. Cancel-safe: it goes on.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Shows a directory of the host at `guest_path`, in the way that fits the guest; or a single file: in `guest_path` to
    /// a Linux guest, at `guest_path` to a Windows guest. A link on the host counts as what it leads to, and has that name.
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
        match self.os() {
            GuestOs::Linux => self.share_by_plan9(host_path, guest_path, read_only).await,
            GuestOs::Windows => self.share_by_vsmb(host_path, guest_path, read_only).await,
        }
    }

    async fn share_by_plan9(&self, host_path: &Path, guest_path: &str, read_only: bool) -> Result<Share, UvmError> {
        let what = host_path.display().to_string();
        let looked =
            self.inner.look_at(host_path).await.map_err(|source| self.inner.resource_error("share", &what, source))?;
        let mut options = match looked {
            HostFile::Directory => Plan9ShareOptions::new(host_path, guest_path),
            HostFile::File { directory, name, .. } => {
                Plan9ShareOptions::new(directory, guest_path).restricted_to([name])
            }
        };
        options.read_only = read_only;
        let held = self.add_plan9(&options).await?.held;
        Ok(Share { held, guest_path: options.guest_path })
    }

    async fn share_by_vsmb(&self, host_path: &Path, guest_path: &str, read_only: bool) -> Result<Share, UvmError> {
        let vsmb = self.add_vsmb(host_path, self.default_vsmb_options(read_only)).await?;
        let mapped = Mapped { from: vsmb.guest_path().to_owned(), to: guest_path.to_owned(), read_only };
        let what = format!("{} at {guest_path}", host_path.display());
        let held = self.attach_on(what, Wanted::Mapped(mapped), Some(vsmb.held)).await?;
        Ok(Share { held, guest_path: guest_path.to_owned() })
    }
}
