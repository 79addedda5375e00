//! Which files the guest boots from.

use std::io;
use std::path::{Path, PathBuf};

use uvm_platform::spec::{GuestAgent, RootFs};

use super::{
    INITRD_FILE, KERNEL_FILE, KernelBoot, LcowOptions, OptionsError, RootFsType, UNCOMPRESSED_KERNEL_FILE, VHD_FILE,
};

/// What is known of a directory of boot files besides the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BootInfo {
    pub(crate) agent: GuestAgent,
    /// Timer ticks a second of the kernel.
    pub(crate) kernel_hz: Option<u32>,
}

/// The files the guest boots from, all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootPlan {
    pub(crate) kernel: PathBuf,
    pub(crate) root: RootFs,
    pub(crate) info: BootInfo,
}

impl BootPlan {
    /// Picks the files in `directory` that `options` ask for, or the defaults. Blocking: looks at the files.
    pub(crate) fn choose(options: &LcowOptions, directory: &Path, info: BootInfo) -> Result<Self, OptionsError> {
        let is_there = |name: &str| is_file(&directory.join(name)).is_ok();
        let kernel = match &options.kernel_file {
            Some(name) => directory.join(name),
            None if options.kernel_boot != KernelBoot::Uefi && is_there(UNCOMPRESSED_KERNEL_FILE) => {
                directory.join(UNCOMPRESSED_KERNEL_FILE)
            }
            None => directory.join(KERNEL_FILE),
        };
        let (root, found) = match &options.root_fs_file {
            Some(name) => (directory.join(name), RootFsType::Initrd),
            None if options.root_fs_type != Some(RootFsType::Initrd) && is_there(VHD_FILE) => {
                (directory.join(VHD_FILE), RootFsType::Vhd)
            }
            None => (directory.join(INITRD_FILE), RootFsType::Initrd),
        };
        let is_disk = options.root_fs_type.unwrap_or(found) == RootFsType::Vhd;
        if is_disk && options.vpmem_devices == 0 {
            return Err(OptionsError::VhdWithoutVpmem);
        }
        for (what, path) in [("kernel", &kernel), ("root file system", &root)] {
            is_file(path).map_err(|source| OptionsError::BootFile { what, path: path.clone(), source })?;
        }
        let root = if is_disk { RootFs::Disk(root) } else { RootFs::Initrd(root) };
        Ok(Self { kernel, root, info })
    }
}

fn is_file(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn choose(options: &LcowOptions, directory: &Path) -> Result<(PathBuf, RootFs), String> {
        let plan = BootPlan::choose(options, directory, BootInfo::default());
        plan.map(|plan| (plan.kernel, plan.root)).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_follow_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let options = LcowOptions::default();
        let error = choose(&options, dir.path()).expect_err("nothing there");
        assert_eq!(error, format!("kernel {}", path("kernel").display()));
        fs::write(path("kernel"), "").expect("written");
        fs::write(path("initrd.img"), "").expect("written");
        assert_eq!(choose(&options, dir.path()), Ok((path("kernel"), RootFs::Initrd(path("initrd.img")))));
        fs::write(path("vmlinux"), "").expect("written");
        fs::write(path("rootfs.vhd"), "").expect("written");
        assert_eq!(choose(&options, dir.path()), Ok((path("vmlinux"), RootFs::Disk(path("rootfs.vhd")))));
        let uefi = LcowOptions { kernel_boot: KernelBoot::Uefi, ..options.clone() };
        assert_eq!(choose(&uefi, dir.path()).expect("there").0, path("kernel"));
        let initrd = LcowOptions { root_fs_type: Some(RootFsType::Initrd), ..options.clone() };
        assert_eq!(choose(&initrd, dir.path()).expect("there").1, RootFs::Initrd(path("initrd.img")));
        let none = LcowOptions { vpmem_devices: 0, ..options };
        assert!(choose(&none, dir.path()).expect_err("no device for it").contains("at least one VPMem device"));
    }

    #[test]
    fn names_may_be_absolute() {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = dir.path().join("elsewhere");
        fs::write(&kernel, "").expect("written");
        fs::write(dir.path().join("initrd.img"), "").expect("written");
        let options = LcowOptions { kernel_file: Some(kernel.clone()), ..LcowOptions::default() };
        assert_eq!(choose(&options, dir.path()).expect("there").0, kernel);
    }

    #[test]
    fn d13_a_boot_file_that_is_no_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("kernel")).expect("made");
        fs::write(dir.path().join("initrd.img"), "").expect("written");
        let error =
            BootPlan::choose(&LcowOptions::default(), dir.path(), BootInfo::default()).expect_err("a directory");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert_eq!(cause, "it is not a regular file");
        // Any other failure of the look counts too: here a file where a directory should be.
        let options = LcowOptions { kernel_file: Some("initrd.img/kernel".into()), ..LcowOptions::default() };
        let error = BootPlan::choose(&options, dir.path(), BootInfo::default()).expect_err("no directory");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("Not a directory"), "{cause}");
    }
}
