//! Disk images for tests, made by the tools that set-up installs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use uvm_testkit::TestResult;

/// A directory of images, removed with it.
pub(crate) struct Images(TempDir);

impl Images {
    pub(crate) fn new() -> TestResult<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A raw image of `mib` MiB of zeros.
    pub(crate) fn raw(&self, name: &str, mib: u64) -> TestResult<PathBuf> {
        let path = self.path(name);
        std::fs::File::create(&path)?.set_len(mib << 20)?;
        Ok(path)
    }

    /// An image in a format of `qemu-img`, with these options.
    pub(crate) fn create(&self, name: &str, format: &str, options: &str) -> TestResult<PathBuf> {
        let path = self.path(name);
        let mut words = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            words.extend(["-o", options]);
        }
        tool("qemu-img", words.iter().map(OsStr::new).chain([path.as_os_str(), OsStr::new("16M")]))?;
        Ok(path)
    }

    /// An image with a file system that has the file `hello` in it.
    pub(crate) fn filesystem(&self, name: &str, kind: &str) -> TestResult<PathBuf> {
        let content = self.path(&format!("{name}-content"));
        std::fs::create_dir(&content)?;
        std::fs::write(content.join("hello"), format!("from {kind}\n"))?;
        let image = self.path(name);
        let (content, path) = (content.as_os_str(), image.as_os_str());
        let word = OsStr::new;
        match kind {
            "ext4" => {
                self.raw(name, 16)?;
                // The block size of larger ones, and the only one that is read without copies.
                tool("mkfs.ext4", [word("-q"), word("-b"), word("4096"), word("-d"), content, path])?;
            }
            "xfs" => {
                // Its least size. What is to be in it is told by a file.
                self.raw(name, 300)?;
                let files = self.path(&format!("{name}-files"));
                let hello = Path::new(content).join("hello");
                let list = format!("/\n0 0\nd--755 0 0\nhello ---644 0 0 {}\n$\n", hello.display());
                std::fs::write(&files, list)?;
                tool("mkfs.xfs", [word("-q"), word("-p"), files.as_os_str(), path])?;
            }
            "erofs" => tool("mkfs.erofs", [path, content])?,
            "squashfs" => tool("mksquashfs", [content, path, word("-quiet"), word("-no-progress")])?,
            other => return Err(format!("no images of {other} are made here").into()),
        }
        Ok(image)
    }
}

/// Runs a tool that says nothing if all is well.
pub(crate) fn tool<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> TestResult {
    // Some are off the path of users.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.map_err(|e| format!("{program}: {e}; `cargo xtask ci` installs it"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!("{program}: {}: {}", output.status, String::from_utf8_lossy(&said)).into())
}
