//! A file or directory of the host, to be seen at a path of the guest.

use std::fmt;
use std::path::{Path, PathBuf};

use uvm_platform::requests::{HostFile, ShareOwners};
use uvm_platform::{Feature, PlatformError};
use uvm_wire::modify::{Modification, Resource, WindowsMappedDirectory, WindowsResource};
use uvm_wire::negotiate::GuestOs;

use super::virtio_fs::DirectoryShare;
use super::{Held, Plan, Plan9ShareOptions, ResourceError, Wanted, plan9};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Something of the host to share with a guest.
///
/// ```no_run
/// use uvm::{ShareKind, ShareOptions, UtilityVm};
///
/// # async fn example(vm: UtilityVm) -> Result<(), uvm::UvmError> {
/// let share = vm.share_with(&ShareOptions::new("/srv/data", "/data").read_only()).await?;
/// println!("{} by {}", share.guest_path(), share.way());
/// share.release().await
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShareOptions {
    /// The directory or file of the host. A link counts as what it leads to, and has that name.
    pub host_path: PathBuf,
    /// Where it is to be in the guest. For a single file and a Linux guest, the directory that it is to be in, by its own
    /// name.
    pub guest_path: String,
    /// The guest cannot write. Default: it can.
    pub read_only: bool,
    /// How to share it. Default: in the way that fits.
    pub kind: ShareKind,
    /// Whose the files are. Default: the directory's owner's. Anything else goes by virtio-fs only.
    pub owners: ShareOwners,
}

impl ShareOptions {
    /// A writable share of the kind that fits.
    pub fn new(host_path: impl Into<PathBuf>, guest_path: impl Into<String>) -> Self {
        Self {
            host_path: host_path.into(),
            guest_path: guest_path.into(),
            read_only: false,
            kind: ShareKind::default(),
            owners: ShareOwners::default(),
        }
    }

    /// Not writable.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// Shared in this way.
    #[must_use]
    pub fn with_kind(self, kind: ShareKind) -> Self {
        Self { kind, ..self }
    }

    /// With files of these owners.
    #[must_use]
    pub fn with_owners(self, owners: ShareOwners) -> Self {
        Self { owners, ..self }
    }
}

/// How something of the host is to be shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShareKind {
    /// A whole directory with a Linux guest by virtio-fs, where host and guest have that; by 9P where not, and a single
    /// file; with a Windows guest by VSMB. [`Share::way`] tells.
    #[default]
    Auto,
    /// By virtio-fs: a whole directory, with a Linux guest. An error where that cannot be had. What the host changes by itself
    /// is seen by the guest after up to a second.
    VirtioFs,
    /// By 9P, with a Linux guest.
    Plan9,
}

/// How something of the host is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ShareWay {
    /// A device, served by a process of its own.
    VirtioFs,
    /// A server in this process, over the guest's transport.
    Plan9,
    /// The host's service.
    Vsmb,
}

impl fmt::Display for ShareWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtioFs => "virtio-fs",
            Self::Plan9 => "9P",
            Self::Vsmb => "VSMB",
        })
    }
}

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
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct Share {
    held: Held,
    guest_path: String,
    way: ShareWay,
}

impl Share {
    /// Where it is in the guest, as it was asked for: of a single file in a Linux guest, the directory that it is in by its
    /// own name, with no other; in a Windows guest, the file itself.
    pub fn guest_path(&self) -> &str {
        &self.guest_path
    }

    /// How it is shared.
    pub fn way(&self) -> ShareWay {
        self.way
    }

    /// Has the guest let go of it, and removes what it comes from if nobody else has that.
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
    /// Shows a directory of the host at `guest_path`, in the way that fits the guest; or a single file. To a Linux guest,
    /// `guest_path` is then the directory that the file is in by its own name, with no other: `/etc/hosts` shared at
    /// `/run/shared` is found at `/run/shared/hosts`. To a Windows guest, `guest_path` is the file. A link on the host counts
    /// as what it leads to, and has that name. Cancel-safe.
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
        let options = ShareOptions::new(host_path.as_ref(), guest_path);
        self.share_with(&if read_only { options.read_only() } else { options }).await
    }

    /// As [`share`](Self::share), with what is to be chosen. Cancel-safe.
    ///
    /// # Errors
    /// As there; and [`UvmError::Resource`] where it cannot be shared as asked for.
    pub async fn share_with(&self, options: &ShareOptions) -> Result<Share, UvmError> {
        match (self.os(), options.kind) {
            (GuestOs::Linux, _) => self.share_with_linux(options).await,
            (GuestOs::Windows, ShareKind::Auto) if options.owners == ShareOwners::Directory => {
                self.share_by_vsmb(&options.host_path, &options.guest_path, options.read_only).await
            }
            (GuestOs::Windows, _) => {
                let source = ResourceError::NotForThisGuest { what: "a share of this kind", os: "Windows" };
                Err(self.share_error(options, source))
            }
        }
    }

    fn share_error(&self, options: &ShareOptions, source: ResourceError) -> UvmError {
        self.inner.resource_error("share", &options.host_path.display().to_string(), source)
    }

    async fn share_with_linux(&self, options: &ShareOptions) -> Result<Share, UvmError> {
        let looked = self.inner.look_at(&options.host_path).await;
        let looked = looked.map_err(|source| self.share_error(options, source))?;
        let only_by_virtio_fs = options.kind == ShareKind::VirtioFs || options.owners != ShareOwners::Directory;
        let plan9 = match looked {
            HostFile::Directory => Plan9ShareOptions::new(&options.host_path, &options.guest_path),
            HostFile::File { directory, name, .. } => {
                Plan9ShareOptions::new(directory, &options.guest_path).restricted_to([name])
            }
        };
        let whole = plan9.allowed_names.is_none();
        if only_by_virtio_fs && (options.kind == ShareKind::Plan9 || !whole) {
            let source = ResourceError::BadInput {
                what: "share",
                value: options.host_path.display().to_string(),
                allowed: "by virtio-fs whole directories are shared, and other owners than the directory's in no other way",
            };
            return Err(self.share_error(options, source));
        }
        if options.kind == ShareKind::Plan9 || !whole || !(only_by_virtio_fs || self.can_mount_virtio_fs()) {
            return self.share_by_plan9(options, plan9).await;
        }
        match self.share_by_virtio_fs(options).await {
            // No place for another device, for one.
            Err(UvmError::Resource { source, .. }) if !only_by_virtio_fs && is_unsupported(&source) => {
                tracing::info!(vm = %self.inner.id, path = %options.host_path.display(), why = %source, "shared by 9P");
                self.share_by_plan9(options, plan9).await
            }
            shared => shared,
        }
    }

    /// Whether host and guest have shares that are devices.
    fn can_mount_virtio_fs(&self) -> bool {
        self.inner.virtio_fs && self.capabilities().is_some_and(|guest| guest.guest_defined.virtio_fs)
    }

    async fn share_by_virtio_fs(&self, options: &ShareOptions) -> Result<Share, UvmError> {
        let what = format!("virtio-fs share {}", options.host_path.display());
        plan9::require_path(&options.guest_path).map_err(|source| self.inner.resource_error("add", &what, source))?;
        if self.capabilities().is_some_and(|guest| !guest.guest_defined.virtio_fs) {
            let source = ResourceError::Host(PlatformError::Unsupported {
                feature: Feature::VirtioFsShares,
                platform: "the guest's agent",
                why: "it does not announce that it mounts such devices".into(),
            });
            return Err(self.inner.resource_error("add", &what, source));
        }
        let wanted = DirectoryShare {
            host_path: options.host_path.clone(),
            guest_path: options.guest_path.clone(),
            read_only: options.read_only,
            owners: options.owners,
        };
        let held = self.attach(what, Wanted::VirtioFs(wanted)).await?;
        Ok(Share { held, guest_path: options.guest_path.clone(), way: ShareWay::VirtioFs })
    }

    async fn share_by_plan9(&self, options: &ShareOptions, mut plan9: Plan9ShareOptions) -> Result<Share, UvmError> {
        plan9.read_only = options.read_only;
        let held = self.add_plan9(&plan9).await?.held;
        Ok(Share { held, guest_path: plan9.guest_path, way: ShareWay::Plan9 })
    }

    async fn share_by_vsmb(&self, host_path: &Path, guest_path: &str, read_only: bool) -> Result<Share, UvmError> {
        let vsmb = self.add_vsmb(host_path, self.default_vsmb_options(read_only)).await?;
        let mapped = Mapped { from: vsmb.guest_path().to_owned(), to: guest_path.to_owned(), read_only };
        let what = format!("{} at {guest_path}", host_path.display());
        let held = self.attach_on(what, Wanted::Mapped(mapped), Some(vsmb.held)).await?;
        Ok(Share { held, guest_path: guest_path.to_owned(), way: ShareWay::Vsmb })
    }
}

/// Whether the host says that it has no such thing, or no more of it.
fn is_unsupported(error: &ResourceError) -> bool {
    matches!(error, ResourceError::Host(PlatformError::Unsupported { .. }))
}
