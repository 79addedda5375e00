//! VSMB shares of Windows guests: a directory of the host, or single files in one.
//!
//! A single file is shared as its directory, restricted to the files that somebody has: the share is the thing, and each
//! file is a part of it. The first file adds the share, others are let into it, one that nobody has any more is taken out,
//! and the last one removes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uvm_platform::PlatformVm;
use uvm_platform::requests::{Change, Device, HostFile, Setting, VsmbExport, VsmbOptions};
use uvm_wire::negotiate::GuestOs;

use super::table::Fit;
use super::{Held, Key, Plan, ResourceError, Step, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Under which a guest reaches what is shared with it.
pub(super) const GUEST_PREFIX: &str = r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}\";

/// A directory, or one file of it, and how it is to be shared.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    directory: PathBuf,
    /// The file, by its whole path.
    file: Option<PathBuf>,
    options: VsmbOptions,
}

impl Part {
    /// The share it is in.
    pub(super) fn share_key(&self, path: impl Fn(&Path) -> String) -> Key {
        let make = if self.file.is_some() { Key::VsmbFiles } else { Key::Vsmb };
        make(path(&self.directory), self.options.read_only)
    }

    /// What is counted.
    pub(super) fn key(&self, path: impl Fn(&Path) -> String) -> Key {
        Key::Vsmb(path(self.file.as_ref().unwrap_or(&self.directory)), self.options.read_only)
    }
}

pub(super) fn plan(part: &Part, number: u64) -> Plan {
    whole(VsmbExport {
        name: format!("s{number:x}"),
        path: part.directory.clone(),
        options: part.options,
        allowed_files: part.file.iter().cloned().collect(),
    })
}

fn whole(export: VsmbExport) -> Plan {
    Plan { device: Some(Device::Vsmb(export)), ..Plan::default() }
}

/// Whether what is there is what is asked for, or can become it: another file can be let into a share of single files.
pub(super) fn fit(part: &Part, plan: &Plan, path: impl Fn(&Path) -> String) -> Result<Fit, ResourceError> {
    let Some(Device::Vsmb(there)) = &plan.device else { return Ok(Fit::AsIs) };
    if there.options != part.options {
        let how = format!("{}, asked for {}", switched_on(there.options), switched_on(part.options));
        return Err(ResourceError::AttachedOtherwise { how });
    }
    let Some(file) = &part.file else { return Ok(Fit::AsIs) };
    let wanted = path(file);
    if there.allowed_files.iter().any(|allowed| path(allowed) == wanted) {
        return Ok(Fit::AsIs);
    }
    let files = there.allowed_files.iter().chain([file]).cloned().collect();
    Ok(Fit::After(Box::new(change(there, files))))
}

/// The share without this file; `None` if it is no share of single files.
pub(super) fn without(file: &Key, plan: &Plan, path: impl Fn(&Path) -> String) -> Option<Step> {
    let (Key::Vsmb(file, _), Some(Device::Vsmb(there))) = (file, &plan.device) else { return None };
    let left = there.allowed_files.iter().filter(|allowed| path(allowed) != *file).cloned().collect();
    there.options.restrict_file_access.then(|| change(there, left))
}

fn change(there: &VsmbExport, allowed_files: Vec<PathBuf>) -> Step {
    let to = VsmbExport { allowed_files, ..there.clone() };
    let update = |export: &VsmbExport| Change::Update(Setting::VsmbFiles(export.clone()));
    Step { host: Some((update(&to), Some(update(there)))), to: whole(to), guest: None }
}

/// The options by name, as far as they are on.
fn switched_on(options: VsmbOptions) -> String {
    let switches = [
        (options.read_only, "read_only"),
        (options.share_read, "share_read"),
        (options.cache_io, "cache_io"),
        (options.non_cache_io, "non_cache_io"),
        (options.no_oplocks, "no_oplocks"),
        (options.take_backup_privilege, "take_backup_privilege"),
        (options.use_share_root_identity, "use_share_root_identity"),
        (options.no_direct_map, "no_direct_map"),
        (options.no_locks, "no_locks"),
        (options.no_dir_notify, "no_dir_notify"),
        (options.vm_shared_memory, "vm_shared_memory"),
        (options.restrict_file_access, "restrict_file_access"),
        (options.force_level_ii_oplocks, "force_level_ii_oplocks"),
        (options.reparse_base_layer, "reparse_base_layer"),
        (options.pseudo_oplocks, "pseudo_oplocks"),
        (options.pseudo_dir_notify, "pseudo_dir_notify"),
        (options.single_file_mapping, "single_file_mapping"),
    ];
    let on: Vec<&str> = switches.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect();
    if on.is_empty() { "with no options".to_owned() } else { format!("with {}", on.join(", ")) }
}

/// Where the guest has what is shared of this path.
fn guest_path(plan: &Plan, host_path: &Path) -> Option<String> {
    let Some(Device::Vsmb(export)) = &plan.device else { return None };
    let share = format!("{GUEST_PREFIX}{}", export.name);
    if !export.options.restrict_file_access {
        return Some(share);
    }
    // By the separators of either host, whichever this runs on.
    let host_path = host_path.to_string_lossy();
    host_path.rsplit(['\\', '/']).next().map(|file| format!(r"{share}\{file}"))
}

/// The directory as a share wants it: without a separator at its end, but for that of a drive.
fn without_separator(directory: PathBuf) -> PathBuf {
    match directory.to_str().map(|text| text.trim_end_matches('\\')) {
        Some(short) if !short.is_empty() && !short.ends_with(':') => short.into(),
        _ => directory,
    }
}

/// A directory or file that is shared with a Windows guest. Dropping it gives it back in the background; the last one
/// removes it.
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct VsmbShare {
    pub(super) held: Held,
    host_path: PathBuf,
    guest_path: String,
}

impl VsmbShare {
    /// The directory or file of the host.
    pub fn host_path(&self) -> &Path {
        &self.host_path
    }

    /// Where the guest has it.
    pub fn guest_path(&self) -> &str {
        &self.guest_path
    }

    /// Gives it back: the last one of a file hides the file from the guest, the last one of a share removes that.
    /// Cancel-safe, as [`ScsiMount::release`](crate::ScsiMount::release).
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the host did not do it; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

/// What it is called in errors.
fn name(host_path: &Path) -> String {
    format!("VSMB share {}", host_path.display())
}

impl UtilityVm {
    /// How something is shared with a Windows guest if nothing else is asked for. Files of a VM whose devices are backed
    /// physically are never mapped into its memory.
    pub fn default_vsmb_options(&self, read_only: bool) -> VsmbOptions {
        VsmbOptions {
            no_direct_map: self.devices_physically_backed(),
            read_only,
            share_read: read_only,
            cache_io: read_only,
            pseudo_oplocks: read_only,
            ..VsmbOptions::default()
        }
    }

    /// Shares a directory or a single file of the host with a Windows guest, or has a part in the share that is there.
    /// Cancel-safe.
    ///
    /// What is read-only and what is not are shared apart. Of a single file the guest sees nothing else of the directory.
    /// Where the host cannot map files of the directory into the guest's memory, they are not, whatever the options say.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: nothing is there, it is shared with other options, a directory is to be restricted to files,
    /// or the host refused, and nothing is left; of a Linux guest. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_vsmb(&self, host_path: impl Into<PathBuf>, options: VsmbOptions) -> Result<VsmbShare, UvmError> {
        let host_path = host_path.into();
        let what = name(&host_path);
        let part = self.vsmb_part(&host_path, options).await;
        let part = part.map_err(|source| self.inner.resource_error("add", &what, source))?;
        let held = self.attach(what, Wanted::Vsmb(part)).await?;
        let guest_path = guest_path(&held.plan, &host_path).unwrap_or_default();
        Ok(VsmbShare { held, host_path, guest_path })
    }

    async fn vsmb_part(&self, host_path: &Path, mut options: VsmbOptions) -> Result<Part, ResourceError> {
        if self.os() != GuestOs::Windows {
            return Err(ResourceError::NotForThisGuest { what: "VSMB shares", os: "Linux" });
        }
        let looked = self.inner.look_at(host_path).await?;
        let (directory, file) = match looked {
            HostFile::Directory if options.restrict_file_access => {
                return Err(ResourceError::BadInput {
                    what: "option of a shared directory",
                    value: "restrict_file_access".into(),
                    allowed: "only a file can be shared so, by its own path",
                });
            }
            HostFile::Directory => (host_path.to_owned(), None),
            HostFile::File { directory, .. } => {
                options.restrict_file_access = true;
                options.single_file_mapping = true;
                (without_separator(directory), Some(host_path.to_owned()))
            }
        };
        let asked = directory.clone();
        let look = move |vm: Arc<dyn PlatformVm>| async move { vm.can_map_files_of(&asked).await };
        let can_map = self.inner.look("look at a directory for", look).await?;
        options.no_direct_map |= !can_map;
        Ok(Part { directory, file, options })
    }

    /// Gives one count of what is shared of this path back, whoever has it, as [`VsmbShare::release`] does. The path need
    /// not exist any more.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not shared, or as there.
    pub async fn remove_vsmb(&self, host_path: impl AsRef<Path>, read_only: bool) -> Result<(), UvmError> {
        let host_path = host_path.as_ref();
        self.detach(name(host_path), Key::Vsmb(self.path_key(host_path), read_only)).await
    }

    /// Where the guest has what is shared of this path. The path need not exist any more.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not shared.
    pub async fn vsmb_guest_path(&self, host_path: impl AsRef<Path>, read_only: bool) -> Result<String, UvmError> {
        let host_path = host_path.as_ref();
        let plan = self.find(name(host_path), Key::Vsmb(self.path_key(host_path), read_only)).await?;
        Ok(guest_path(&plan, host_path).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_shared_without_a_separator_at_its_end() {
        for (given, shared) in
            [(r"C:\a\", r"C:\a"), (r"C:\a", r"C:\a"), (r"C:\", r"C:\"), (r"\", r"\"), ("/a", "/a"), ("/", "/")]
        {
            assert_eq!(without_separator(given.into()), Path::new(shared), "{given}");
        }
    }

    #[test]
    fn names_count_in_hexadecimal_and_a_file_is_in_its_share() {
        let mut part = Part { directory: r"C:\a".into(), file: None, options: VsmbOptions::default() };
        let in_share =
            |plan: &Plan| guest_path(plan, Path::new(r"C:\a\one.txt")).map(|path| path.replace(GUEST_PREFIX, ""));
        assert_eq!(in_share(&plan(&part, 26)).as_deref(), Some("s1a"));
        part.file = Some(r"C:\a\one.txt".into());
        part.options.restrict_file_access = true;
        assert_eq!(in_share(&plan(&part, 1)).as_deref(), Some(r"s1\one.txt"));
    }
}
