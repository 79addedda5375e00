//! What goes into an initramfs, by path.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::cpio::CpioError;
use crate::digest::Sha256;

/// Files, directories, links and devices by path. Paths are relative to the root, without a leading slash.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Sorted, so that a directory comes before what is in it.
    nodes: BTreeMap<String, Node>,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Node {
    Directory { mode: u32 },
    File { mode: u32, contents: Contents },
    Symlink { target: String },
    CharDevice { mode: u32, major: u32, minor: u32 },
}

/// Where a file's contents come from.
#[derive(Debug)]
pub(crate) enum Contents {
    Bytes(Vec<u8>),
    /// A file, which must have this size and hash when it is read.
    File {
        path: PathBuf,
        size: u64,
        sha256: Sha256,
    },
}

impl Tree {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Puts a directory at `path`, or sets the mode of the one there.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<(), CpioError> {
        self.parents(path)?;
        match self.nodes.get_mut(path) {
            Some(Node::Directory { mode: known }) => *known = mode,
            Some(_) => return Err(CpioError::Conflict { path: path.into() }),
            None => drop(self.nodes.insert(path.into(), Node::Directory { mode })),
        }
        Ok(())
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: Contents) -> Result<(), CpioError> {
        self.add(path, Node::File { mode, contents })
    }

    /// Puts a text file that anyone may read at `path`.
    pub(crate) fn text(&mut self, path: &str, text: impl Into<String>) -> Result<(), CpioError> {
        self.file(path, 0o644, Contents::Bytes(text.into().into_bytes()))
    }

    pub(crate) fn symlink(&mut self, path: &str, target: impl Into<String>) -> Result<(), CpioError> {
        self.add(path, Node::Symlink { target: target.into() })
    }

    pub(crate) fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<(), CpioError> {
        self.add(path, Node::CharDevice { mode, major, minor })
    }

    /// Puts a file at `path` in place of a file or link that may be there.
    pub(crate) fn replace(&mut self, path: &str, mode: u32, contents: Contents) -> Result<(), CpioError> {
        if matches!(self.nodes.get(path), Some(Node::File { .. } | Node::Symlink { .. })) {
            self.nodes.remove(path);
        }
        self.file(path, mode, contents)
    }

    fn add(&mut self, path: &str, node: Node) -> Result<(), CpioError> {
        self.parents(path)?;
        match self.nodes.insert(path.into(), node) {
            None => Ok(()),
            Some(_) => Err(CpioError::Conflict { path: path.into() }),
        }
    }

    /// Makes the directories that `path` lies in.
    fn parents(&mut self, path: &str) -> Result<(), CpioError> {
        for (at, _) in path.match_indices('/') {
            match self.nodes.get(&path[..at]) {
                Some(Node::Directory { .. }) => {}
                Some(_) => return Err(CpioError::Conflict { path: path.into() }),
                None => drop(self.nodes.insert(path[..at].into(), Node::Directory { mode: 0o755 })),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let mut tree = Tree::default();
        for path in ["usr/bin/env", "usr-local", "usr/a"] {
            tree.text(path, "").unwrap();
        }
        assert_eq!(paths(&tree), ["usr", "usr-local", "usr/a", "usr/bin", "usr/bin/env"]);
    }

    #[test]
    fn nothing_is_there_twice_or_beneath_a_file() {
        let mut tree = Tree::default();
        tree.text("a", "").unwrap();
        tree.directory("d/e", 0o700).unwrap();
        tree.directory("d/e", 0o755).unwrap();
        for error in [tree.text("a", ""), tree.text("a/b", ""), tree.directory("a", 0o755), tree.symlink("d", "x")] {
            assert!(matches!(error, Err(CpioError::Conflict { .. })));
        }
    }

    #[test]
    fn files_and_links_can_be_replaced_but_not_directories() {
        let mut tree = Tree::default();
        tree.symlink("bin/sh", "busybox").unwrap();
        tree.replace("bin/sh", 0o755, Contents::Bytes(b"x".to_vec())).unwrap();
        assert!(matches!(tree.iter().last(), Some(("bin/sh", Node::File { .. }))));
        tree.replace("bin", 0o755, Contents::Bytes(vec![])).unwrap_err();
    }
}
