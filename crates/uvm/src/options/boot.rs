//! Which files the guest boots from.

use std::io;
use std::path::{Path, PathBuf};

use uvm_platform::spec::{GuestAgent, RootFs};
use uvm_platform::{FileKind, PlatformFiles};

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
    /// Where they are, spelt as it was given.
    pub(crate) directory: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) root: RootFs,
    pub(crate) info: BootInfo,
}

/// The names of boot files, in their directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootNames {
    pub(crate) kernel: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) root_type: RootFsType,
}

impl BootNames {
    /// Those that `options` ask for, or the defaults, which depend on what is in `directory`.
    pub(crate) async fn pick(options: &LcowOptions, files: &dyn PlatformFiles, directory: &Path) -> Self {
        let is_there = async |name: &str| {
            let kind = files.kind(&files.join(directory, name.as_ref())).await;
            matches!(kind, Ok(Some(FileKind::File)))
        };
        let kernel = match &options.kernel_file {
            Some(name) => name.clone(),
            None if options.kernel_boot != KernelBoot::Uefi && is_there(UNCOMPRESSED_KERNEL_FILE).await => {
                UNCOMPRESSED_KERNEL_FILE.into()
            }
            None => KERNEL_FILE.into(),
        };
        let (root, found) = match &options.root_fs_file {
            Some(name) => (name.clone(), RootFsType::Initrd),
            None if options.root_fs_type != Some(RootFsType::Initrd) && is_there(VHD_FILE).await => {
                (VHD_FILE.into(), RootFsType::Vhd)
            }
            None => (INITRD_FILE.into(), RootFsType::Initrd),
        };
        Self { kernel, root, root_type: options.root_fs_type.unwrap_or(found) }
    }
}

impl BootPlan {
    /// The files in `directory` that `options` ask for, or the defaults, if they are there.
    pub(crate) async fn choose(
        options: &LcowOptions,
        files: &dyn PlatformFiles,
        directory: &Path,
        info: BootInfo,
    ) -> Result<Self, OptionsError> {
        let BootNames { kernel, root, root_type } = BootNames::pick(options, files, directory).await;
        let is_disk = root_type == RootFsType::Vhd;
        if is_disk && options.vpmem_devices == 0 {
            return Err(OptionsError::VhdWithoutVpmem);
        }
        let kernel = require_file(files, "kernel", files.join(directory, &kernel)).await?;
        let root = require_file(files, "root file system", files.join(directory, &root)).await?;
        let root = if is_disk { RootFs::Disk(root) } else { RootFs::Initrd(root) };
        Ok(Self { directory: directory.to_owned(), kernel, root, info })
    }
}

async fn require_file(files: &dyn PlatformFiles, what: &'static str, path: PathBuf) -> Result<PathBuf, OptionsError> {
    let source = match files.kind(&path).await {
        Ok(Some(FileKind::File)) => return Ok(path),
        Ok(Some(_)) => io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"),
        Ok(None) => io::Error::new(io::ErrorKind::NotFound, "No such file or directory"),
        Err(error) => error,
    };
    Err(OptionsError::BootFile { what, path, source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use uvm_platform::LocalFiles;

    use super::*;

    async fn plan(options: &LcowOptions, directory: &Path) -> Result<BootPlan, OptionsError> {
        BootPlan::choose(options, &LocalFiles, directory, BootInfo::default()).await
    }

    async fn choose(options: &LcowOptions, directory: &Path) -> Result<(PathBuf, RootFs), String> {
        let plan = plan(options, directory).await;
        plan.map(|plan| (plan.kernel, plan.root)).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn defaults_follow_what_is_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let options = LcowOptions::default();
        let error = choose(&options, dir.path()).await.expect_err("nothing there");
        assert_eq!(error, format!("kernel {}", path("kernel").display()));
        fs::write(path("kernel"), "").expect("written");
        fs::write(path("initrd.img"), "").expect("written");
        assert_eq!(choose(&options, dir.path()).await, Ok((path("kernel"), RootFs::Initrd(path("initrd.img")))));
        fs::write(path("vmlinux"), "").expect("written");
        fs::write(path("rootfs.vhd"), "").expect("written");
        assert_eq!(choose(&options, dir.path()).await, Ok((path("vmlinux"), RootFs::Disk(path("rootfs.vhd")))));
        let uefi = LcowOptions { kernel_boot: KernelBoot::Uefi, ..options.clone() };
        assert_eq!(choose(&uefi, dir.path()).await.expect("there").0, path("kernel"));
        let initrd = LcowOptions { root_fs_type: Some(RootFsType::Initrd), ..options.clone() };
        assert_eq!(choose(&initrd, dir.path()).await.expect("there").1, RootFs::Initrd(path("initrd.img")));
        let none = LcowOptions { vpmem_devices: 0, ..options };
        assert!(choose(&none, dir.path()).await.expect_err("no device for it").contains("at least one VPMem device"));
    }

    #[tokio::test]
    async fn names_may_be_absolute() {
        let dir = tempfile::tempdir().expect("a directory");
        let kernel = dir.path().join("elsewhere");
        fs::write(&kernel, "").expect("written");
        fs::write(dir.path().join("initrd.img"), "").expect("written");
        let options = LcowOptions { kernel_file: Some(kernel.clone()), ..LcowOptions::default() };
        assert_eq!(choose(&options, dir.path()).await.expect("there").0, kernel);
    }

    #[tokio::test]
    async fn d13_a_boot_file_that_is_no_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("kernel")).expect("made");
        fs::write(dir.path().join("initrd.img"), "").expect("written");
        let error = plan(&LcowOptions::default(), dir.path()).await.expect_err("a directory");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert_eq!(cause, "it is not a regular file");
        // Any other failure of the look counts too: here a file where a directory should be. (For Windows nothing is there.)
        if cfg!(windows) {
            return;
        }
        let options = LcowOptions { kernel_file: Some("initrd.img/kernel".into()), ..LcowOptions::default() };
        let error = plan(&options, dir.path()).await.expect_err("no directory");
        let cause = std::error::Error::source(&error).expect("a cause").to_string();
        assert!(cause.contains("Not a directory"), "{cause}");
    }
}
