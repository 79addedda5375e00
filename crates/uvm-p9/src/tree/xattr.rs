//! Extended attributes: the user's own, and no others.

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::process_files::ProcessFiles;
use super::{Node, Tree};

/// Most bytes of a value, and of the list of names, as in Linux.
const MOST: usize = 64 * 1024;

/// What setting an attribute expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    Either,
    /// It must not be there.
    Create,
    /// It must be there.
    Replace,
}

/// Whether clients may have an extended attribute of this name: only those beginning with `user.` and something after it,
/// since the others (`security.`, `trusted.`, `system.`) give rights.
pub fn is_user_attribute(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b"user.").unwrap_or_default();
    !rest.is_empty() && name.len() <= 255 && !name.contains(&0)
}

fn check(name: &[u8]) -> Result<&[u8], Errno> {
    if is_user_attribute(name) { Ok(name) } else { Err(Errno::OPNOTSUPP) }
}

/// The calls that take descriptors do not take those of this kind. The path is one step of the kernel from the descriptor
/// to its file.
fn path(node: &Node) -> String {
    ProcessFiles::path(&node.handle.fd)
}

impl Tree {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, here and below, for a name that does not begin with `user.`.
    pub fn xattr(&self, node: &Node, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let name = check(name)?;
        let mut value = vec![0; MOST];
        let length = getxattr(path(node), name, &mut value[..])?;
        value.truncate(length);
        value.shrink_to_fit();
        Ok(value)
    }

    /// The names of all attributes, each followed by a NUL.
    pub fn xattr_names(&self, node: &Node) -> Result<Vec<u8>, Errno> {
        let mut list = vec![0; MOST];
        let length = listxattr(path(node), &mut list[..])?;
        list.truncate(length);
        let names = list.split_inclusive(|&byte| byte == 0);
        Ok(names.filter(|name| check(name.strip_suffix(b"\0").unwrap_or(name)).is_ok()).flatten().copied().collect())
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// `EACCES`, here and below, for the root of a tree that is restricted to names.
    pub fn set_xattr(&self, node: &Node, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), Errno> {
        self.must_admit_attributes(node)?;
        let flags = match mode {
            XattrMode::Either => XattrFlags::empty(),
            XattrMode::Create => XattrFlags::CREATE,
            XattrMode::Replace => XattrFlags::REPLACE,
        };
        setxattr(path(node), check(name)?, value, flags)
    }

    /// Removes an attribute.
    pub fn remove_xattr(&self, node: &Node, name: &[u8]) -> Result<(), Errno> {
        self.must_admit_attributes(node)?;
        removexattr(path(node), check(name)?)
    }

    /// Checks that an attribute of this name could be set, before its value is there.
    pub fn may_set_xattr(&self, node: &Node, name: &[u8]) -> Result<(), Errno> {
        self.must_admit_attributes(node)?;
        check(name).map(drop)
    }
}
