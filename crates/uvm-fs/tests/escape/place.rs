//! A share, and a secret next to it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use tempfile::TempDir;
use uvm_fs::guard::{Access, Guarded, Owners};
use uvm_fs::raw::Guest;
use virtiofsd::passthrough::PassthroughFs;

use crate::requests::init;

const SECRET: &str = "nobody's business";

/// Whose the files are said to be.
pub(crate) const OWNER: (u32, u32) = (4711, 4712);

pub(crate) struct Place {
    pub(crate) dir: TempDir,
}

impl Place {
    /// `share` with a file, a directory and links; beside it a file, and a directory with one.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("share/d")).expect("made");
        fs::create_dir(at("beside")).expect("made");
        fs::write(at("share/f"), "inside").expect("written");
        fs::write(at("secret"), SECRET).expect("written");
        fs::write(at("beside/file"), SECRET).expect("written");
        symlink("../secret", at("share/link")).expect("linked");
        symlink("../beside", at("share/way")).expect("linked");
        Self { dir }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn guest(&self, access: Access) -> Guest<Guarded<PassthroughFs>> {
        let owners = Owners::One { uid: OWNER.0, gid: OWNER.1 };
        let guest = Guest::of(&self.at("share"), access, owners, 1000).expect("a share");
        init(&guest);
        guest
    }

    /// Everything outside of the share.
    pub(crate) fn outside(&self) -> BTreeMap<PathBuf, (u32, String)> {
        let mut all = BTreeMap::new();
        for directory in [self.dir.path().to_owned(), self.at("beside")] {
            for entry in fs::read_dir(&directory).expect("listed") {
                let path = entry.expect("an entry").path();
                let mode = path.symlink_metadata().expect("its attributes").mode();
                let content = if path.is_file() { fs::read_to_string(&path).expect("read") } else { String::new() };
                all.insert(path, (mode, content));
            }
        }
        all
    }
}
