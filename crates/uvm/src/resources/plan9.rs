//! 9P shares of Linux guests: a directory of the host, or some names in one.

use std::path::PathBuf;

use uvm_platform::Port;
use uvm_platform::requests::{Device, Plan9Export};
use uvm_wire::modify::{MappedDirectory, Modification, Resource};
use uvm_wire::negotiate::GuestOs;
use uvm_wire::ports::PLAN9_PORT;

use super::{Held, Limits, Plan, ResourceError, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// A 9P share to add.
///
/// ```no_run
/// use uvm::{Plan9ShareOptions, UtilityVm};
///
/// # async fn example(vm: UtilityVm) -> Result<(), uvm::UvmError> {
/// let options = Plan9ShareOptions::new("/srv/config", "/etc/app").read_only().restricted_to(["app.toml"]);
/// let share = vm.add_plan9(&options).await?;
/// share.release().await
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Plan9ShareOptions {
    /// The directory of the host.
    pub host_path: PathBuf,
    /// Where the guest mounts it, as of [`ScsiDisk::guest_path`](crate::ScsiDisk::guest_path).
    pub guest_path: String,
    /// The guest cannot write.
    pub read_only: bool,
    /// The only names in the directory that the guest sees; `None` for all.
    pub allowed_names: Option<Vec<String>>,
}

impl Plan9ShareOptions {
    /// A whole directory, writable.
    pub fn new(host_path: impl Into<PathBuf>, guest_path: impl Into<String>) -> Self {
        Self { host_path: host_path.into(), guest_path: guest_path.into(), read_only: false, allowed_names: None }
    }

    /// Not writable.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// Only these names of the directory.
    #[must_use]
    pub fn restricted_to(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { allowed_names: Some(names.into_iter().map(Into::into).collect()), ..self }
    }
}

pub(super) fn check(limits: &Limits) -> Result<(), ResourceError> {
    if limits.os == GuestOs::Linux {
        return Ok(());
    }
    Err(ResourceError::NotForThisGuest { what: "9P shares", os: "Windows" })
}

/// Passes a path to mount a share at.
pub(super) fn require_path(guest_path: &str) -> Result<(), ResourceError> {
    if guest_path.is_empty() {
        let allowed = "one is needed to mount the share at";
        return Err(ResourceError::BadInput { what: "path in the guest", value: String::new(), allowed });
    }
    Ok(())
}

pub(super) fn plan(share: &Plan9ShareOptions, number: u64) -> Plan {
    let name = number.to_string();
    let guest = |read_only| {
        Resource::MappedDirectory(MappedDirectory {
            mount_path: share.guest_path.clone(),
            port: PLAN9_PORT.cast_signed(),
            share_name: name.clone(),
            read_only,
            ..MappedDirectory::default()
        })
    };
    Plan {
        guest_add: Some(Modification::add(guest(share.read_only))),
        guest_remove: Some(Modification::remove(guest(false))),
        device: Some(Device::Plan9(Plan9Export {
            name,
            path: share.host_path.clone(),
            port: Port(PLAN9_PORT),
            read_only: share.read_only,
            allowed_files: share.allowed_names.clone(),
        })),
        ..Plan::default()
    }
}

/// A 9P share that is mounted in the guest. Dropping it removes it in the background.
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct Plan9Share {
    pub(super) held: Held,
    guest_path: String,
}

impl Plan9Share {
    /// Where the guest has mounted it.
    pub fn guest_path(&self) -> &str {
        &self.guest_path
    }

    /// Has the guest unmount it, and removes it.
    ///
    /// Cancel-safe, as [`ScsiMount::release`](crate::ScsiMount::release).
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Shares a directory with a Linux guest. Each call is a share of its own. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: no path in the guest, or the host or the guest refused, and nothing is left.
    /// [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_plan9(&self, share: &Plan9ShareOptions) -> Result<Plan9Share, UvmError> {
        let what = format!("9P share {}", share.host_path.display());
        require_path(&share.guest_path).map_err(|source| self.inner.resource_error("add", &what, source))?;
        let held = self.attach(what, Wanted::Plan9(share.clone())).await?;
        Ok(Plan9Share { held, guest_path: share.guest_path.clone() })
    }

    /// The same as [`Plan9Share::release`].
    ///
    /// # Errors
    /// As there.
    pub async fn remove_plan9(&self, share: &Plan9Share) -> Result<(), UvmError> {
        share.release().await
    }
}
