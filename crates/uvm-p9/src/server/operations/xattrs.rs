//! Requests about extended attributes.

use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::Answer;
use crate::protocol::{Name, Response, flags};
use crate::server::fid::{Fid, Role, XattrChange, XattrValue, XattrWrite};
use crate::server::session::Session;
use crate::tree::XattrMode;

/// Most bytes of a value, and of the list of names, as in Linux.
const MOST: usize = 64 * 1024;

/// Reads all of it now: what is read later in pieces belongs together.
pub(super) fn walk(session: &Session, fid: u32, new_fid: u32, name: Name<'_>) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let (tree, node) = (&fid.share.tree, fid.node());
    let mut charge = session.xattr_memory.take(MOST)?;
    let bytes = if name.as_bytes().is_empty() { tree.xattr_names(&node) } else { tree.xattr(&node, name.as_bytes()) }?;
    charge.shrink(bytes.len());
    let size = bytes.len() as u64;
    let new = Fid::new(Arc::clone(&fid.share), node, fid.uid);
    new.put_to_use(None, Role::ReadXattr(Arc::new(XattrValue { bytes, _charge: charge })))?;
    session.fids.insert(new_fid, new)?;
    Ok(Response::WalkXattr { size }.into())
}

/// The value comes by writes, and is set when the fid is let go. Nothing at all, to replace what is there, means to remove
/// it: that is how Linux says so.
pub(super) fn create(session: &Session, fid: u32, name: Name<'_>, size: u64, bits: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    fid.must_be_unused()?;
    fid.share.tree.may_set_xattr(&fid.node(), name.as_bytes())?;
    let size = usize::try_from(size).ok().filter(|&size| size <= MOST).ok_or(Errno::NOSPC)?;
    let change = match (bits, size) {
        (0, _) => XattrChange::Set(XattrMode::Either),
        (flags::XATTR_CREATE, _) => XattrChange::Set(XattrMode::Create),
        (flags::XATTR_REPLACE, 0) => XattrChange::Remove,
        (flags::XATTR_REPLACE, _) => XattrChange::Set(XattrMode::Replace),
        _ => return Err(Errno::INVAL),
    };
    let write = XattrWrite {
        name: name.as_bytes().into(),
        size,
        change,
        value: Mutex::new(Vec::new()),
        _charge: session.xattr_memory.take(size)?,
    };
    fid.put_to_use(None, Role::WriteXattr(Arc::new(write)))?;
    Ok(Response::CreateXattr {}.into())
}
