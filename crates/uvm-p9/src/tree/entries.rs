//! Changing directories: making, linking, renaming and removing entries.

use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, RenameFlags, chownat, linkat, mkdirat, mknodat, readlinkat_raw, renameat_with, symlinkat,
    unlinkat,
};
use rustix::io::Errno;

use super::node::Place;
use super::{Component, Creator, FileKind, Node, Ownership, Tree, attributes::owners};

/// What is made besides files that are opened at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewNode {
    /// A directory.
    Directory,
    /// An empty file.
    Regular,
    /// A fifo. The client's own programs meet at it; those of the host may, too.
    Fifo,
    /// A socket.
    Socket,
}

/// What is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// An empty directory.
    Directory,
    /// Anything else.
    File,
}

impl Tree {
    /// Makes a file of this kind, with the permissions `mode` less set-user-id and set-group-id.
    ///
    /// # Errors
    /// `EACCES`, here and below, for a name that the tree is not restricted to.
    pub fn make(
        &self,
        directory: &Node,
        name: Component<'_>,
        kind: NewNode,
        mode: u32,
        creator: Creator,
    ) -> Result<Node, Errno> {
        self.must_admit_change(directory, name)?;
        let (fd, first) = (&directory.handle.fd, Mode::from_raw_mode(mode & 0o777));
        match kind {
            NewNode::Directory => mkdirat(fd, name.as_bytes(), first)?,
            NewNode::Regular => mknodat(fd, name.as_bytes(), FileType::RegularFile, first, 0)?,
            NewNode::Fifo => mknodat(fd, name.as_bytes(), FileType::Fifo, first, 0)?,
            NewNode::Socket => mknodat(fd, name.as_bytes(), FileType::Socket, first, 0)?,
        }
        let node = self.found_new(directory, name, kind.into(), creator)?;
        let set_gid = if kind == NewNode::Directory { Mode::SGID.as_raw_mode() } else { 0 };
        let now = self.attributes(&node)?.mode & 0o7777;
        // The process has a file mode creation mask. A directory that is made in one with set-group-id has it, too.
        if now & !set_gid != mode & 0o1777 {
            self.set_mode(&node, mode & 0o1777 | set_gid)?;
        }
        Ok(node)
    }

    /// Makes a symbolic link. Its target is any text: it is not followed here.
    pub fn symlink(
        &self,
        directory: &Node,
        name: Component<'_>,
        target: &[u8],
        creator: Creator,
    ) -> Result<Node, Errno> {
        self.must_admit_change(directory, name)?;
        symlinkat(target, &directory.handle.fd, name.as_bytes())?;
        self.found_new(directory, name, FileKind::Symlink, creator)
    }

    /// Where a symbolic link points, put into `buffer`.
    ///
    /// # Errors
    /// `EINVAL` for what is no link, `ENAMETOOLONG` for one that does not fit.
    pub fn read_link<'a>(&self, node: &Node, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
        if node.kind() != FileKind::Symlink {
            return Err(Errno::INVAL);
        }
        let most = buffer.len();
        let count = readlinkat_raw(&node.handle.fd, c"", &mut *buffer)?;
        if count < most { Ok(&buffer[..count]) } else { Err(Errno::NAMETOOLONG) }
    }

    /// Gives a file a further name.
    pub fn link(&self, node: &Node, directory: &Node, name: Component<'_>) -> Result<(), Errno> {
        self.must_admit_change(directory, name)?;
        if node.kind() == FileKind::Directory {
            return Err(Errno::PERM);
        }
        // By way of the descriptor: that needs no capability, as `AT_EMPTY_PATH` does. "Follow" means the one step from
        // there to the file; a link is linked itself.
        let (descriptors, entry) = self.process_files.entry(&node.handle.fd);
        linkat(descriptors, entry, &directory.handle.fd, name.as_bytes(), AtFlags::SYMLINK_FOLLOW)
    }

    /// Renames what is called `old` in `from`. What has the new name is replaced.
    pub fn rename(&self, from: &Node, old: Component<'_>, to: &Node, new: Component<'_>) -> Result<(), Errno> {
        self.must_admit_change(from, old)?;
        self.must_admit_change(to, new)?;
        let (from, to) = (&from.handle.fd, &to.handle.fd);
        renameat_with(from, old.as_bytes(), to, new.as_bytes(), RenameFlags::empty())
    }

    /// Renames a file from where it was found. Returns it as found under its new name.
    ///
    /// # Errors
    /// `EBUSY` for the root, `ESTALE` for a file that is not there any more.
    pub fn rename_node(&self, node: &Node, to: &Node, new: Component<'_>) -> Result<Node, Errno> {
        let place = self.current_place(node)?;
        self.rename(&place.directory(), Component::new(&place.name)?, to, new)?;
        Ok(Node { handle: Arc::clone(&node.handle), place: Some(Place::new(to, new)) })
    }

    /// Removes a name. The file goes on while a client has it.
    pub fn remove(&self, directory: &Node, name: Component<'_>, what: Removed) -> Result<(), Errno> {
        self.must_admit_change(directory, name)?;
        let flags = match what {
            Removed::Directory => AtFlags::REMOVEDIR,
            Removed::File => AtFlags::empty(),
        };
        unlinkat(&directory.handle.fd, name.as_bytes(), flags)
    }

    /// Removes a file from where it was found.
    ///
    /// # Errors
    /// As [`rename_node`](Self::rename_node).
    pub fn remove_node(&self, node: &Node) -> Result<(), Errno> {
        let place = self.current_place(node)?;
        let what = if node.kind() == FileKind::Directory { Removed::Directory } else { Removed::File };
        self.remove(&place.directory(), Component::new(&place.name)?, what)
    }

    /// Where a file was found, if it is there still.
    fn current_place<'a>(&self, node: &'a Node) -> Result<&'a Place, Errno> {
        self.must_be_writable()?;
        let place = node.place.as_ref().ok_or(Errno::BUSY)?;
        let there = self.lookup(&place.directory(), Component::new(&place.name)?)?;
        if there.id() == node.id() { Ok(place) } else { Err(Errno::STALE) }
    }

    /// What was just made, given to whom it was made for. Whoever replaces it at this moment is a client of this tree, or the
    /// host itself: if it is of the same kind, no device that is, what follows is done to a file that a client may change
    /// like that anyway.
    fn found_new(
        &self,
        directory: &Node,
        name: Component<'_>,
        kind: FileKind,
        creator: Creator,
    ) -> Result<Node, Errno> {
        let node = self.lookup(directory, name)?;
        if node.kind() != kind {
            return Err(Errno::STALE);
        }
        if self.ownership == Ownership::Passthrough {
            let (uid, gid) = owners(creator)?;
            chownat(&node.handle.fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        Ok(node)
    }
}

impl From<NewNode> for FileKind {
    fn from(new: NewNode) -> Self {
        match new {
            NewNode::Directory => Self::Directory,
            NewNode::Regular => Self::Regular,
            NewNode::Fifo => Self::Fifo,
            NewNode::Socket => Self::Socket,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::tree::TreeOptions;

    /// The attack: what was made is replaced before it is looked up, by a device of the host that is in the share.
    #[test]
    fn what_is_of_another_kind_than_what_was_made_is_given_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        let is_root = rustix::process::geteuid().is_root();
        let ownership = if is_root { Ownership::Passthrough } else { Ownership::Owner };
        let tree = Tree::open(TreeOptions::new(dir.path()).with_ownership(ownership)).unwrap();
        let name = Component::new(b"f").unwrap();
        let creator = Creator { uid: Some(1234), gid: Some(1234) };
        for kind in [FileKind::Fifo, FileKind::Socket, FileKind::Directory, FileKind::Symlink] {
            assert_eq!(tree.found_new(&tree.root(), name, kind, creator).unwrap_err(), Errno::STALE, "{kind:?}");
        }
        let owner = || fs::metadata(dir.path().join("f")).unwrap().uid();
        assert_eq!(owner(), rustix::process::geteuid().as_raw());
        tree.found_new(&tree.root(), name, FileKind::Regular, creator).unwrap();
        assert!(!is_root || owner() == 1234);
    }
}
