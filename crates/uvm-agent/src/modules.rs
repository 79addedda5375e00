//! Kernel modules, by the index that the initramfs brings along.
//!
//! The index (`/lib/modules/uvm.index`) lists for each feature which files to load in which order, so nothing has to be
//! resolved here. A kernel with everything built in has empty lists.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

/// Where the initramfs has the index.
pub const INDEX: &str = "/lib/modules/uvm.index";

/// The index, read.
#[derive(Debug, Default)]
pub struct Modules {
    release: String,
    groups: HashMap<String, Vec<Load>>,
    /// Those that are loaded, and optional ones that this machine's processor cannot use: no later try changes that, and to ask
    /// the kernel of all of them took 2 ms of the 20 in which a disk is added. Whoever unloads one by hand loads it by hand.
    settled: Mutex<HashSet<PathBuf>>,
}

/// By what the index says; what has been loaded since is the machine's matter.
impl PartialEq for Modules {
    fn eq(&self, other: &Self) -> bool {
        self.release == other.release && self.groups == other.groups
    }
}

impl Eq for Modules {}

#[derive(Debug, PartialEq, Eq)]
struct Load {
    path: PathBuf,
    optional: bool,
}

/// A feature's modules cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The index cannot be read.
    #[error("cannot read the module index {path}")]
    Index {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The index is in a format this agent does not know.
    #[error("module index: format {found:?}, but this agent reads format 1 only")]
    Format {
        /// The first line.
        found: String,
    },
    /// The kernel refused a module.
    #[error("cannot load module {}", path.display())]
    Load {
        /// The module's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Modules {
    /// Reads the index at `path`. Where there is none, there are no modules: a root file system of somebody else's, for a
    /// kernel that has everything built in.
    ///
    /// # Errors
    /// It cannot be read, or is of another format.
    pub fn read(path: &Path) -> Result<Self, ModuleError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ModuleError::Index { path: path.to_owned(), source }),
        }
    }

    fn parse(text: &str) -> Result<Self, ModuleError> {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        if first != "format: 1" {
            return Err(ModuleError::Format { found: first.to_owned() });
        }
        let mut modules = Self::default();
        for line in lines {
            let Some((head, tail)) = line.split_once(':') else { continue };
            match head.split_once(' ') {
                None if head == "release" => tail.trim().clone_into(&mut modules.release),
                Some(("group", name)) => {
                    let loads = tail.split_whitespace().map(|word| match word.strip_prefix('?') {
                        Some(path) => Load { path: path.into(), optional: true },
                        None => Load { path: word.into(), optional: false },
                    });
                    modules.groups.insert(name.to_owned(), loads.collect());
                }
                _ => {}
            }
        }
        Ok(modules)
    }

    /// Loads what the feature `group` needs. Nothing to do for a group the index does not name.
    ///
    /// # Errors
    /// The first module that the kernel refuses.
    pub fn load(&self, group: &str) -> Result<(), ModuleError> {
        let root = Path::new("/lib/modules").join(&self.release);
        for load in self.groups.get(group).into_iter().flatten() {
            if self.settled().contains(&load.path) {
                continue;
            }
            let path = root.join(&load.path);
            let loaded = if is_live(Path::new("/sys/module"), &load.path) { Ok(()) } else { insert(&path) };
            match loaded {
                Err(source) if !load.optional => return Err(ModuleError::Load { path, source }),
                Err(source) if !is_for_good(&source) => {}
                _ => drop(self.settled().insert(load.path.clone())),
            }
        }
        Ok(())
    }

    fn settled(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a module is refused because this machine lacks what it is for.
fn is_for_good(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// Whether the module of that file is loaded, and ready. To offer it to the kernel again is no error, but costs as much as
/// the first time: the file is read and laid out before its name is looked at.
fn is_live(loaded: &Path, file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
    // The kernel's names have no hyphens, whatever the file is called.
    let state = name.map(|name| fs::read_to_string(loaded.join(name.replace('-', "_")).join("initstate")));
    matches!(state, Some(Ok(state)) if state.trim_end() == "live")
}

fn insert(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_read_and_unknown_lines_are_skipped() {
        let text = "format: 1\nrelease: 6.1.0-1-amd64\nmodular: yes\nnovel thing: x\n\
                    group boot: kernel/a.ko kernel/b.ko\ngroup xfs: ?kernel/crc.ko kernel/xfs.ko\ngroup rng:\n\
                    module a: kernel/a.ko\njunk\n";
        let modules = Modules::parse(text).expect("valid");
        assert_eq!(modules.release, "6.1.0-1-amd64");
        let paths = |group: &str| -> Vec<(String, bool)> {
            modules.groups[group].iter().map(|load| (load.path.display().to_string(), load.optional)).collect()
        };
        assert_eq!(paths("boot"), [("kernel/a.ko".into(), false), ("kernel/b.ko".into(), false)]);
        assert_eq!(paths("xfs"), [("kernel/crc.ko".into(), true), ("kernel/xfs.ko".into(), false)]);
        assert_eq!(paths("rng"), []);
        modules.load("rng").expect("nothing to load");
        modules.load("unheard-of").expect("nothing to load");
        let error = modules.load("boot").expect_err("no such file").to_string();
        assert_eq!(error, "cannot load module /lib/modules/6.1.0-1-amd64/kernel/a.ko");
        modules.groups.get("xfs").expect("there");
        modules.settled().insert("kernel/a.ko".into());
        let error = modules.load("boot").expect_err("no such file either").to_string();
        assert!(error.ends_with("/kernel/b.ko"), "what is loaded is not loaded again: {error}");
    }

    #[test]
    fn a_module_is_loaded_once_it_is_ready() {
        let loaded = tempfile::tempdir().expect("a directory");
        let file = Path::new("kernel/lib/crc32-pclmul.ko.xz");
        assert!(!is_live(loaded.path(), file), "not loaded");
        let directory = loaded.path().join("crc32_pclmul");
        fs::create_dir(&directory).expect("made");
        assert!(!is_live(loaded.path(), file), "built in, and with parameters");
        for (state, expected) in [("coming\n", false), ("live\n", true), ("going\n", false)] {
            fs::write(directory.join("initstate"), state).expect("written");
            assert_eq!(is_live(loaded.path(), file), expected, "{state}");
        }
    }

    #[test]
    fn an_optional_module_is_tried_again_unless_the_machine_cannot_use_it() {
        let modules =
            Modules::parse("format: 1\nrelease: x\ngroup a: ?kernel/none.ko\ngroup b: kernel/none-either.ko\n");
        let modules = modules.expect("valid");
        for _ in 0..2 {
            modules.load("a").expect("it is optional");
            modules.load("b").expect_err("it is not");
        }
        assert_eq!(*modules.settled(), HashSet::new(), "a file that is not there may come");
        assert!(is_for_good(&Errno::NODEV.into()));
        assert!(!is_for_good(&Errno::NOMEM.into()) && !is_for_good(&Errno::NOENT.into()));
    }

    #[test]
    fn another_format_is_refused() {
        for text in ["", "format: 2\n", "release: x\n"] {
            assert!(matches!(Modules::parse(text), Err(ModuleError::Format { .. })), "{text}");
        }
        let error = Modules::read(Path::new("/")).expect_err("no index").to_string();
        assert_eq!(error, "cannot read the module index /");
        assert_eq!(
            Modules::read(Path::new("/nonexistent")).expect("none").load("boot").map_err(|e| e.to_string()),
            Ok(())
        );
    }
}
