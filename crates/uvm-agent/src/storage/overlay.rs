//! Directories over each other: how the kernel is asked for an overlay.
//!
//! Since Linux 6.7 it takes the layers one by one (`lowerdir+`). Before that they come in one string, which the older call
//! takes up to a page; the newer calls would cut it at 256 bytes. Names that are too long for either, or that have a
//! character in them which the kernel takes for its own, are given as links of short names.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount, mount_bind, mount_remount, move_mount, unmount,
};

use super::StorageError;
use crate::log;

/// The most layers of one overlay: the kernel's own limit (`OVL_MAX_STACK`).
pub(super) const MOST_LAYERS: usize = 500;
/// The longest string that fsconfig takes, without its final zero.
const STRING_MAX: usize = 255;
/// The longest options that mount takes: a page, without the final zero.
const OPTIONS_MAX: usize = 4095;
/// Where links of short names are for as long as it takes to mount. It is short itself, and nobody else's.
const LINKS: &str = "/run/.";

/// What is to be put over each other.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    /// The directories that are only read, the top one first.
    pub(super) layers: Vec<&'a Path>,
    /// What is written goes here.
    pub(super) scratch: Option<Scratch>,
}

/// Directories of one file system.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) upper: PathBuf,
    /// For the kernel alone.
    pub(super) work: PathBuf,
}

impl Overlay<'_> {
    /// Mounts it at a directory. Without a scratch the result is read-only.
    pub(super) fn mount_at(&self, at: &Path) -> Result<(), StorageError> {
        let failed = |said: String| {
            let step = format!("put {} layers over each other at {}{said}", self.layers.len(), at.display());
            StorageError::at(step)
        };
        match (self.layers.as_slice(), &self.scratch) {
            // The kernel wants two at least.
            ([layer], None) => bind(layer, at).map_err(failed(String::new())),
            _ if takes_one_by_one().map_err(failed(String::new()))? => {
                self.mount_one_by_one(at).map_err(|(e, said)| failed(said)(e))
            }
            _ => self.mount_as_one_string(at, failed),
        }
    }

    fn mount_one_by_one(&self, at: &Path) -> Result<(), (io::Error, String)> {
        let silent = |e: Errno| (e.into(), String::new());
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(silent)?;
        let refused = |e: Errno| (e.into(), said(context.as_fd()));
        let mut links = Links::default();
        for layer in &self.layers {
            let name = links.of(layer, |name| name.len() > STRING_MAX).map_err(|e| (e, String::new()))?;
            fsconfig_set_string(context.as_fd(), "lowerdir+", name).map_err(refused)?;
        }
        if let Some(Scratch { upper, work }) = &self.scratch {
            for (key, directory) in [("upperdir", upper), ("workdir", work)] {
                let is_odd = |name: &[u8]| name.len() > STRING_MAX || name.contains(&b'\\');
                let name = links.of(directory, is_odd).map_err(|e| (e, String::new()))?;
                fsconfig_set_string(context.as_fd(), key, name).map_err(refused)?;
            }
        }
        fsconfig_create(context.as_fd()).map_err(refused)?;
        let attributes =
            if self.scratch.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        let made = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(refused)?;
        move_mount(made, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(silent)
    }

    fn mount_as_one_string<F>(&self, at: &Path, failed: impl Fn(String) -> F) -> Result<(), StorageError>
    where
        F: FnOnce(io::Error) -> StorageError,
    {
        let mut links = Links::default();
        let mut options = self.options(|path| Ok(path.as_os_str().as_bytes().to_owned()));
        if options.as_ref().is_ok_and(|options| options.len() > OPTIONS_MAX) || self.has_odd_names() {
            options = self.options(|path| links.of(path, |_| true).map(|link| link.into_os_string().into_vec()));
        }
        let options = options.map_err(failed(String::new()))?;
        if options.len() > OPTIONS_MAX {
            return Err(StorageError::Bad(format!(
                "{} layers take {} bytes of mount options, and this kernel takes {OPTIONS_MAX} (since 6.7 it takes each by itself)",
                self.layers.len(),
                options.len()
            )));
        }
        let flags = if self.scratch.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
        let options = std::ffi::CString::new(options).map_err(|e| failed(String::new())(e.into()))?;
        let mounted = mount("overlay", at, "overlay", flags, Some(options.as_c_str()));
        mounted.map_err(|e| failed(String::new())(e.into()))
    }

    /// The options in one string, with each directory by the name it is given.
    fn options(&self, mut name: impl FnMut(&Path) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut options = b"lowerdir=".to_vec();
        for (index, layer) in self.layers.iter().enumerate() {
            if index > 0 {
                options.push(b':');
            }
            options.extend(name(layer)?);
        }
        if let Some(Scratch { upper, work }) = &self.scratch {
            for (key, directory) in [(&b",upperdir="[..], upper), (b",workdir=", work)] {
                options.extend(key);
                options.extend(name(directory)?);
            }
        }
        Ok(options)
    }

    /// Whether a name has what separates options, or layers, or hides either.
    fn has_odd_names(&self) -> bool {
        let scratch = self.scratch.iter().flat_map(|Scratch { upper, work }| [upper.as_path(), work]);
        let mut all = self.layers.iter().copied().chain(scratch);
        all.any(|path| path.as_os_str().as_bytes().iter().any(|byte| b",:\\".contains(byte)))
    }
}

/// Whether this kernel takes layers one by one: one that does looks for the directory at once, one that does not refuses the
/// key, now or later.
fn takes_one_by_one() -> io::Result<bool> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    Ok(fsconfig_set_string(context.as_fd(), "lowerdir+", "/proc/no-such-layer") == Err(Errno::NOENT))
}

/// What the kernel has to say about a mount that it refused, after a colon.
fn said(context: BorrowedFd<'_>) -> String {
    let mut said = String::new();
    let mut message = [0; 1024];
    // Each read takes one message; at the end there is none.
    while let Ok(length @ 1..) = rustix::io::read(context, &mut message) {
        let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default());
        // A letter before it says how grave it is.
        said.push_str(": ");
        said.push_str(text.get(2..).unwrap_or_default().trim_end());
    }
    said
}

/// One directory, seen at another place, and read-only there.
fn bind(directory: &Path, at: &Path) -> io::Result<()> {
    mount_bind(directory, at)?;
    mount_remount(at, MountFlags::BIND | MountFlags::RDONLY, c"").map_err(|e| {
        // As it was asked for, or not at all.
        let _ = unmount(at, UnmountFlags::NOFOLLOW);
        e.into()
    })
}

/// Links of short names to directories, in a directory of their own; removed when this is dropped.
#[derive(Debug, Default)]
struct Links {
    directory: Option<PathBuf>,
    count: usize,
}

impl Links {
    /// The directory's name, or that of a link to it if its own `is_odd`.
    fn of(&mut self, directory: &Path, is_odd: impl FnOnce(&[u8]) -> bool) -> io::Result<PathBuf> {
        if !is_odd(directory.as_os_str().as_bytes()) {
            return Ok(directory.to_owned());
        }
        let links = match &self.directory {
            Some(links) => links,
            None => self.directory.insert(private_directory()?),
        };
        let link = links.join(format!("{:x}", self.count));
        self.count += 1;
        std::os::unix::fs::symlink(directory, &link)?;
        Ok(link)
    }
}

fn private_directory() -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(LINKS);
    name.push(format!("{:x}", NEXT.fetch_add(1, Ordering::Relaxed)));
    let directory = PathBuf::from(name);
    fs::create_dir(&directory)?;
    Ok(directory)
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(directory) = &self.directory
            && let Err(e) = fs::remove_dir_all(directory)
        {
            log::console(format_args!("links to layers stay at {}: {e}", directory.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(at: &str) -> Scratch {
        Scratch { upper: format!("{at}/upper").into(), work: format!("{at}/work").into() }
    }

    fn options(overlay: &Overlay<'_>) -> String {
        let options = overlay.options(|path| Ok(path.as_os_str().as_bytes().to_owned())).expect("no links");
        String::from_utf8(options).expect("text")
    }

    #[test]
    fn the_top_layer_comes_first() {
        let layers = vec![Path::new("/run/layers/p1"), Path::new("/run/layers/p0")];
        let read_only = Overlay { layers: layers.clone(), scratch: None };
        assert_eq!(options(&read_only), "lowerdir=/run/layers/p1:/run/layers/p0");
        let written = Overlay { layers, scratch: Some(scratch("/s")) };
        let expected = "lowerdir=/run/layers/p1:/run/layers/p0,upperdir=/s/upper,workdir=/s/work";
        assert_eq!(options(&written), expected);
    }

    #[test]
    fn names_that_the_kernel_would_take_apart_are_found() {
        for (layer, scratch_at, odd) in
            [("/a", "/s", false), ("/a:b", "/s", true), ("/a,b", "/s", true), ("/a", "/s\\", true), ("/a", "/s,", true)]
        {
            let overlay = Overlay { layers: vec![Path::new(layer)], scratch: Some(scratch(scratch_at)) };
            assert_eq!(overlay.has_odd_names(), odd, "{layer} {scratch_at}");
        }
    }

    #[test]
    fn links_are_short_lead_to_the_directory_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("x".repeat(200)).join("y".repeat(200));
        fs::create_dir_all(&long).expect("made");
        fs::write(long.join("file"), "content").expect("written");
        let mut links = Links { directory: Some(dir.path().join("links")), count: 0 };
        fs::create_dir(dir.path().join("links")).expect("made");
        assert_eq!(links.of(&long, |_| false).expect("as it is"), long);
        for index in 0..20 {
            let link = links.of(&long, |name| name.len() > STRING_MAX).expect("linked");
            assert_eq!(link, dir.path().join("links").join(format!("{index:x}")));
            assert_eq!(fs::read_to_string(link.join("file")).expect("read"), "content");
        }
        drop(links);
        assert!(!dir.path().join("links").exists() && long.join("file").exists());
    }
}
