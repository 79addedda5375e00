//! From the command line to boot files.

use std::path::PathBuf;

use anyhow::Context;
use uvm::image::{BootFiles, BootFilesOptions, ImageStore, KernelSource};

use crate::args::BootArgs;
use crate::progress;

/// What to boot. The files stay as long as this lives.
pub(crate) struct Boot {
    pub(crate) directory: PathBuf,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    _files: Option<BootFiles>,
}

impl Boot {
    /// Finds or makes what `args` ask for. May take minutes the first time.
    pub(crate) fn find(args: &BootArgs) -> anyhow::Result<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| path.display().to_string());
        let initrd = args.initrd.as_ref().map(absolute).transpose()?;
        if let Some(directory) = &args.boot_files {
            return Ok(Self { directory: absolute(directory)?, kernel: None, initrd, _files: None });
        }
        let source = args.kernel.as_deref().map_or(KernelSource::Distribution, kernel_source);
        if let (KernelSource::Paths { kernel, .. }, Some(_)) = (&source, &initrd) {
            // Both are given: nothing has to be made.
            let kernel = absolute(kernel)?;
            return Ok(Self { directory: "/".into(), kernel: Some(kernel), initrd, _files: None });
        }
        let store = ImageStore::from_env()?.with_progress(progress::sink(false));
        let files = BootFiles::ensure(&BootFilesOptions::new(store).with_kernel(source))?;
        Ok(Self { directory: files.dir().to_owned(), kernel: None, initrd, _files: Some(files) })
    }

    /// Puts it into options.
    pub(crate) fn apply(&self, options: &mut uvm::LcowOptions) {
        options.boot_files = Some(self.directory.clone());
        options.kernel_file.clone_from(&self.kernel);
        options.root_fs_file.clone_from(&self.initrd);
    }
}

/// What a user may call a kernel.
pub(crate) fn kernel_source(text: &str) -> KernelSource {
    match text {
        "distribution" => KernelSource::Distribution,
        "trimmed" => KernelSource::Trimmed,
        "installed" => KernelSource::Installed { release: None },
        _ if text.contains('/') || std::path::Path::new(text).is_file() => {
            KernelSource::Paths { kernel: text.into(), modules: None, config: None }
        }
        _ => KernelSource::Named(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_words_names_or_files() {
        assert_eq!(kernel_source("trimmed"), KernelSource::Trimmed);
        assert_eq!(kernel_source("trimmed-6.12"), KernelSource::Named("trimmed-6.12".into()));
        let paths = |kernel: &str| KernelSource::Paths { kernel: kernel.into(), modules: None, config: None };
        assert_eq!(kernel_source("./vmlinux"), paths("./vmlinux"));
        assert_eq!(kernel_source("/boot/vmlinuz"), paths("/boot/vmlinuz"));
    }
}
