//! Kernel modules, by the index that the initramfs brings along.
//!
//! The index (`/lib/modules/uvm.index`) lists for each feature which files to load in which order, so nothing has to be
//! resolved here. A kernel with everything built in has empty lists.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Where the initramfs has the index.
pub const INDEX: &str = "/lib/modules/uvm.index";

/// The index, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Modules {
    release: String,
    groups: HashMap<String, Vec<Load>>,
}

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
        match std::fs::read_to_string(path) {
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
            let path = root.join(&load.path);
            match insert(&path) {
                Err(source) if !load.optional => return Err(ModuleError::Load { path, source }),
                _ => {}
            }
        }
        Ok(())
    }
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
