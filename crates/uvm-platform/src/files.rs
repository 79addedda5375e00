//! Files of a host, as far as guests boot from them: each host spells and looks at paths in its own way.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::BoxFuture;

/// What is at a path of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// Files of a host.
pub trait PlatformFiles: Send + Sync {
    /// The name of the file of the program that runs: whom a VM is for if nobody says.
    fn program_name(&self) -> String;

    /// The directory that guests boot from: the one that is `named`, or this host's own. `None`: this host knows nothing of
    /// boot files, and the library sees to them.
    fn boot_files<'a>(&'a self, named: Option<&'a Path>) -> BoxFuture<'a, io::Result<Option<PathBuf>>>;

    /// The path of `name` in `directory`, or `name` itself if it is absolute.
    fn join(&self, directory: &Path, name: &Path) -> PathBuf;

    /// What is at a path; `None` if nothing is. Links are followed.
    fn kind<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Option<FileKind>>>;
}

/// The files of this machine, by the ways of its system.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalFiles;

impl PlatformFiles for LocalFiles {
    fn program_name(&self) -> String {
        let path = std::env::args_os().next().unwrap_or_default();
        Path::new(&path).file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn boot_files<'a>(&'a self, _named: Option<&'a Path>) -> BoxFuture<'a, io::Result<Option<PathBuf>>> {
        Box::pin(async { Ok(None) })
    }

    fn join(&self, directory: &Path, name: &Path) -> PathBuf {
        directory.join(name)
    }

    /// On a thread of its own: a file system may take its time, and no runtime is needed.
    fn kind<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Option<FileKind>>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let path = path.to_owned();
            let look = move || {
                // A caller that gave up does not want the answer.
                let _ = reply.send(local_kind(&path));
            };
            drop(std::thread::Builder::new().name("uvm-look".into()).spawn(look)?);
            answer.await.unwrap_or_else(|_| Err(io::Error::other("an internal error (panic)")))
        })
    }
}

fn local_kind(path: &Path) -> io::Result<Option<FileKind>> {
    match path.metadata() {
        Ok(meta) if meta.is_file() => Ok(Some(FileKind::File)),
        Ok(meta) if meta.is_dir() => Ok(Some(FileKind::Directory)),
        Ok(_) => Ok(Some(FileKind::Other)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn local_files_are_told_apart() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kind = async |name: &str| LocalFiles.kind(&LocalFiles.join(manifest, Path::new(name))).await;
        assert_eq!(kind("Cargo.toml").await.expect("looked at"), Some(FileKind::File));
        assert_eq!(kind("src").await.expect("looked at"), Some(FileKind::Directory));
        assert_eq!(kind("absent").await.expect("looked at"), None);
        // For Windows nothing is there.
        let below_a_file = kind("Cargo.toml/below").await;
        assert!(below_a_file.is_err() || cfg!(windows), "a file is no directory: {below_a_file:?}");
    }
}
