//! Requests that open, read and write.

use std::sync::{Arc, PoisonError};

use rustix::io::Errno;

use super::attributes::qid_kind;
use super::names::{creator, qid_of};
use super::{Answer, BULK_START, finish_bulk};
use crate::protocol::{Entry, Name, Qid, READ_DIR_RESPONSE, READ_RESPONSE, Response, flags};
use crate::server::fid::{Role, XattrWrite};
use crate::server::session::Session;
use crate::tree::{Component, Durability, FileAccess, FileKind, OpenMode, WhenThere};

/// The flags of Linux that a client may send. Those that are not looked at below are its own matter, or always so.
const KNOWN: u32 = flags::OPEN_ACCESS_MASK
    | flags::OPEN_CREATE
    | flags::OPEN_EXCLUSIVE
    | flags::OPEN_NO_TERMINAL
    | flags::OPEN_TRUNCATE
    | flags::OPEN_APPEND
    | flags::OPEN_NON_BLOCKING
    | flags::OPEN_DATA_SYNC
    | flags::OPEN_ASYNC
    | flags::OPEN_DIRECT
    | flags::OPEN_LARGE_FILE
    | flags::OPEN_DIRECTORY
    | flags::OPEN_NO_FOLLOW
    | flags::OPEN_NO_ATIME
    | flags::OPEN_CLOSE_ON_EXEC
    | flags::OPEN_SYNC;

fn open_mode(bits: u32) -> Result<OpenMode, Errno> {
    if bits & !KNOWN != 0 {
        return Err(Errno::INVAL);
    }
    let has = |bit| bits & bit != 0;
    let access = match bits & flags::OPEN_ACCESS_MASK {
        flags::OPEN_READ => FileAccess::Read,
        flags::OPEN_WRITE => FileAccess::Write,
        flags::OPEN_READ_WRITE => FileAccess::ReadWrite,
        _ => return Err(Errno::INVAL),
    };
    let durability = match (has(flags::OPEN_SYNC), has(flags::OPEN_DATA_SYNC)) {
        (true, _) => Durability::All,
        (false, true) => Durability::Data,
        (false, false) => Durability::Later,
    };
    Ok(OpenMode {
        access,
        truncate: has(flags::OPEN_TRUNCATE),
        append: has(flags::OPEN_APPEND),
        durability,
        directory: has(flags::OPEN_DIRECTORY),
    })
}

/// Opens what is there: Linux leaves "create" in the flags of a file that it has found.
pub(super) fn open(session: &Session, fid: u32, flags: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    fid.must_be_unused()?;
    let node = fid.node();
    let opened = fid.share.tree.open_node(&node, open_mode(flags)?)?;
    fid.put_to_use(None, Role::from(opened))?;
    Ok(Response::Open { qid: qid_of(&fid.share, &node)?, io_unit: 0 }.into())
}

pub(super) fn create(
    session: &Session,
    fid: u32,
    name: Name<'_>,
    flags: u32,
    (mode, gid): (u32, u32),
) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    fid.must_be_unused()?;
    let name = Component::new(name.as_bytes())?;
    let when_there = if flags & flags::OPEN_EXCLUSIVE == 0 { WhenThere::Open } else { WhenThere::Fail };
    let tree = &fid.share.tree;
    let (node, opened) = tree.create(&fid.node(), name, open_mode(flags)?, when_there, mode, creator(&fid, gid))?;
    let qid = qid_of(&fid.share, &node)?;
    fid.put_to_use(Some(node), Role::from(opened))?;
    Ok(Response::Create { qid, io_unit: 0 }.into())
}

pub(super) fn read(session: &Session, tag: u16, fid: u32, offset: u64, count: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let most = (count as usize).min(session.message_size() - BULK_START);
    let bulk = |len| session.buffers().take(BULK_START + len);
    let mut message;
    if let Role::ReadXattr(value) = fid.role() {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(value.bytes.len());
        let piece = &value.bytes[start..];
        let piece = &piece[..piece.len().min(most)];
        message = bulk(piece.len());
        message.as_mut_slice()[BULK_START..].copy_from_slice(piece);
    } else {
        let file = fid.file()?;
        message = bulk(most);
        let count = file.read_at(&mut message.as_mut_slice()[BULK_START..], offset)?;
        message.truncate(BULK_START + count);
    }
    finish_bulk(message.as_mut_slice(), READ_RESPONSE, tag);
    Ok(Answer::Message(message))
}

pub(super) fn write(session: &Session, fid: u32, offset: u64, data: &[u8]) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    if let Role::WriteXattr(write) = fid.role() {
        write_xattr(&write, offset, data)?;
        return Ok(Response::Write { count: data.len() as u32 }.into());
    }
    let count = fid.file()?.write_at(data, offset)?;
    Ok(Response::Write { count: count as u32 }.into())
}

/// One piece after the other, as many bytes as were announced.
fn write_xattr(write: &Arc<XattrWrite>, offset: u64, data: &[u8]) -> Result<(), Errno> {
    let mut value = write.value.lock().unwrap_or_else(PoisonError::into_inner);
    if offset != value.len() as u64 {
        return Err(Errno::INVAL);
    }
    if data.len() > write.size - value.len() {
        return Err(Errno::NOSPC);
    }
    value.extend_from_slice(data);
    Ok(())
}

pub(super) fn read_dir(session: &Session, tag: u16, fid: u32, offset: u64, count: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let Role::Directory(directory) = fid.role() else { return Err(Errno::NOTDIR) };
    let room = (count as usize).min(session.message_size() - BULK_START);
    let mut message = vec![0; BULK_START];
    let mut left_out = false;
    let tree = &fid.share.tree;
    directory.read(tree, offset, room, |entry| {
        // No file system of Linux has longer names for long; one that did could not be opened anyway.
        let Some(name) = Name::new(entry.name) else { return true };
        let qid = Qid { kind: qid_kind(entry.kind), version: 0, path: tree.number(entry.id) };
        let entry = Entry { qid, offset: entry.next, kind: directory_type(entry.kind), name };
        left_out = message.len() - BULK_START + entry.encoded_len() > room;
        if !left_out {
            entry.encode(&mut message);
        }
        !left_out
    })?;
    if left_out && message.len() == BULK_START {
        // No entry at all would mean the end.
        return Err(Errno::INVAL);
    }
    // It has grown by doubling; while it waits to be written, it is charged by its length.
    message.shrink_to_fit();
    finish_bulk(&mut message, READ_DIR_RESPONSE, tag);
    Ok(Answer::Message(message.into()))
}

/// `d_type` of Linux.
fn directory_type(kind: Option<FileKind>) -> u8 {
    match kind {
        None => 0,
        Some(FileKind::Fifo) => 1,
        Some(FileKind::CharacterDevice) => 2,
        Some(FileKind::Directory) => 4,
        Some(FileKind::BlockDevice) => 6,
        Some(FileKind::Regular) => 8,
        Some(FileKind::Symlink) => 10,
        Some(FileKind::Socket) => 12,
    }
}

pub(super) fn sync(session: &Session, fid: u32, data_only: bool) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    match fid.role() {
        Role::File(file) => file.sync(data_only)?,
        Role::Directory(directory) => directory.sync()?,
        Role::Named | Role::ReadXattr(_) | Role::WriteXattr(_) => return Err(Errno::BADF),
    }
    Ok(Response::Sync {}.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_protocol_and_no_others() {
        let read = OpenMode {
            access: FileAccess::Read,
            truncate: false,
            append: false,
            durability: Durability::Later,
            directory: false,
        };
        assert_eq!(open_mode(0), Ok(read));
        // What Linux sends for O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK | O_LARGEFILE.
        assert_eq!(open_mode(0o2_304_000), Ok(OpenMode { directory: true, ..read }));
        let write = OpenMode { access: FileAccess::Write, truncate: true, ..read };
        assert_eq!(open_mode(0o1001), Ok(write));
        assert_eq!(open_mode(0o2002), Ok(OpenMode { access: FileAccess::ReadWrite, append: true, ..read }));
        assert_eq!(open_mode(0o10000), Ok(OpenMode { durability: Durability::Data, ..read }));
        assert_eq!(open_mode(0o4_010_000), Ok(OpenMode { durability: Durability::All, ..read }));
        for bad in [3, 1 << 22, 1 << 31, 0o4, 0o10_000_000] {
            assert_eq!(open_mode(bad), Err(Errno::INVAL), "{bad:o}");
        }
    }
}
