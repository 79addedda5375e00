//! Requests that look up, make, link, rename and remove names.

use std::sync::Arc;

use rustix::io::Errno;

use super::Answer;
use super::attributes::qid;
use crate::protocol::{MAX_TARGET, Name, Qid, Response, Target, WalkList, flags};
use crate::server::fid::{Fid, Role, XattrChange};
use crate::server::session::{Session, encoded};
use crate::share::Share;
use crate::tree::{Component, Creator, NewNode, Node, Removed};

/// Type bits of a mode, as in Linux.
const TYPE_MASK: u32 = 0o170_000;

pub(super) fn attach(
    session: &Arc<Session>,
    fid: u32,
    auth_fid: u32,
    name: Name<'_>,
    uid: u32,
) -> Result<Answer, Errno> {
    if auth_fid != flags::NO_FID {
        return Err(Errno::INVAL);
    }
    let share = session.exports.find(name.as_bytes()).ok_or(Errno::NOENT)?;
    if !share.register(session) {
        return Err(Errno::NOENT);
    }
    let root = share.tree.root();
    let qid = qid_of(&share, &root)?;
    session.fids.insert(fid, Fid::new(share, root, Some(uid).filter(|&uid| uid != flags::NO_UID)))?;
    Ok(Response::Attach { qid }.into())
}

pub(super) fn walk(session: &Session, number: u32, new_number: u32, names: &[Name<'_>]) -> Result<Answer, Errno> {
    let fid = session.fids.get(number)?;
    let mut node = fid.node();
    let mut qids = Vec::with_capacity(names.len());
    for name in names {
        let found = Component::new(name.as_bytes())
            .and_then(|name| fid.share.tree.lookup(&node, name))
            .and_then(|found| Ok((qid_of(&fid.share, &found)?, found)));
        match found {
            Ok((qid, found)) => {
                qids.push(qid);
                node = found;
            }
            Err(errno) if qids.is_empty() => return Err(errno),
            Err(_) => break,
        }
    }
    if qids.len() == names.len() {
        let new = Fid::new(Arc::clone(&fid.share), node, fid.uid);
        if number == new_number {
            fid.must_be_unused()?;
            session.fids.replace(number, &fid, new)?;
        } else {
            session.fids.insert(new_number, new)?;
        }
    }
    Ok(Response::Walk { qids: WalkList::new(qids).ok_or(Errno::INVAL)? }.into())
}

/// Lets go of a fid. That it is gone holds even if the attribute it was writing cannot be set.
pub(super) fn clunk(session: &Session, fid: u32) -> Result<Answer, Errno> {
    let fid = session.fids.remove(fid)?;
    if let Role::WriteXattr(write) = fid.role() {
        let value = write.value.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (tree, node) = (&fid.share.tree, fid.node());
        match write.change {
            XattrChange::Set(_) if value.len() != write.size => return Err(Errno::INVAL),
            XattrChange::Set(mode) => tree.set_xattr(&node, &write.name, &value, mode)?,
            XattrChange::Remove => tree.remove_xattr(&node, &write.name)?,
        }
    }
    Ok(Response::Clunk {}.into())
}

/// Removes the file; the fid is gone in any case.
pub(super) fn remove(session: &Session, fid: u32) -> Result<Answer, Errno> {
    let fid = session.fids.remove(fid)?;
    fid.share.tree.remove_node(&fid.node())?;
    Ok(Response::Remove {}.into())
}

pub(super) fn symlink(
    session: &Session,
    directory: u32,
    name: Name<'_>,
    target: Target<'_>,
    gid: u32,
) -> Result<Answer, Errno> {
    let directory = session.fids.get(directory)?;
    let name = Component::new(name.as_bytes())?;
    let made = directory.share.tree.symlink(&directory.node(), name, target.as_bytes(), creator(&directory, gid))?;
    Ok(Response::Symlink { qid: qid_of(&directory.share, &made)? }.into())
}

pub(super) fn make_node(
    session: &Session,
    directory: u32,
    name: Name<'_>,
    mode: u32,
    gid: u32,
) -> Result<Answer, Errno> {
    let kind = match mode & TYPE_MASK {
        0 | 0o100_000 => NewNode::Regular,
        0o010_000 => NewNode::Fifo,
        0o140_000 => NewNode::Socket,
        // Devices of the host are nothing that a guest makes.
        0o020_000 | 0o060_000 => return Err(Errno::PERM),
        _ => return Err(Errno::INVAL),
    };
    let qid = make(session, directory, name, kind, (mode, gid))?;
    Ok(Response::MakeNode { qid }.into())
}

pub(super) fn make_directory(
    session: &Session,
    directory: u32,
    name: Name<'_>,
    mode: u32,
    gid: u32,
) -> Result<Answer, Errno> {
    let qid = make(session, directory, name, NewNode::Directory, (mode, gid))?;
    Ok(Response::MakeDirectory { qid }.into())
}

fn make(
    session: &Session,
    directory: u32,
    name: Name<'_>,
    kind: NewNode,
    (mode, gid): (u32, u32),
) -> Result<Qid, Errno> {
    let directory = session.fids.get(directory)?;
    let name = Component::new(name.as_bytes())?;
    let new = directory.share.tree.make(&directory.node(), name, kind, mode, creator(&directory, gid))?;
    qid_of(&directory.share, &new)
}

pub(super) fn link(session: &Session, directory: u32, fid: u32, name: Name<'_>) -> Result<Answer, Errno> {
    let (directory, fid) = (session.fids.get(directory)?, session.fids.get(fid)?);
    let share = common_share(&directory, &fid)?;
    share.tree.link(&fid.node(), &directory.node(), Component::new(name.as_bytes())?)?;
    Ok(Response::Link {}.into())
}

pub(super) fn rename(session: &Session, fid: u32, directory: u32, name: Name<'_>) -> Result<Answer, Errno> {
    let (directory, fid) = (session.fids.get(directory)?, session.fids.get(fid)?);
    let share = common_share(&directory, &fid)?;
    let renamed = share.tree.rename_node(&fid.node(), &directory.node(), Component::new(name.as_bytes())?)?;
    fid.renamed(renamed);
    Ok(Response::Rename {}.into())
}

pub(super) fn rename_at(
    session: &Session,
    (from, old): (u32, Name<'_>),
    (to, new): (u32, Name<'_>),
) -> Result<Answer, Errno> {
    let (from, to) = (session.fids.get(from)?, session.fids.get(to)?);
    let share = common_share(&from, &to)?;
    let (old, new) = (Component::new(old.as_bytes())?, Component::new(new.as_bytes())?);
    share.tree.rename(&from.node(), old, &to.node(), new)?;
    Ok(Response::RenameAt {}.into())
}

pub(super) fn unlink_at(session: &Session, directory: u32, name: Name<'_>, flags: u32) -> Result<Answer, Errno> {
    let what = match flags {
        0 => Removed::File,
        flags::UNLINK_DIRECTORY => Removed::Directory,
        _ => return Err(Errno::INVAL),
    };
    let directory = session.fids.get(directory)?;
    directory.share.tree.remove(&directory.node(), Component::new(name.as_bytes())?, what)?;
    Ok(Response::UnlinkAt {}.into())
}

pub(super) fn read_link(session: &Session, tag: u16, fid: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let mut buffer = [0; MAX_TARGET + 1];
    let target = fid.share.tree.read_link(&fid.node(), &mut buffer)?;
    let target = Target::new(target).ok_or(Errno::NAMETOOLONG)?;
    let message = encoded(tag, &Response::ReadLink { target });
    // A client with short messages may have longer links.
    if message.as_slice().len() > session.message_size() {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(Answer::Message(message))
}

/// Names and files of one request are of one share: nothing gets from one into another, which may be restricted.
fn common_share<'a>(one: &'a Fid, other: &Fid) -> Result<&'a Share, Errno> {
    if Arc::ptr_eq(&one.share, &other.share) { Ok(&one.share) } else { Err(Errno::XDEV) }
}

pub(super) fn creator(directory: &Fid, gid: u32) -> Creator {
    Creator { uid: directory.uid, gid: Some(gid).filter(|&gid| gid != u32::MAX) }
}

pub(super) fn qid_of(share: &Share, node: &Node) -> Result<Qid, Errno> {
    Ok(qid(share, &share.tree.attributes(node)?))
}
