//! Requests about attributes.

use rustix::io::Errno;

use super::Answer;
use crate::protocol::{self, FileSystem, Qid, Response, SetAttributes, flags};
use crate::server::fid::Role;
use crate::server::session::Session;
use crate::share::Share;
use crate::tree::{Attributes, Changes, FileKind, Time, TimeChange};

pub(super) fn get(session: &Session, fid: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let of = fid.share.tree.attributes(&fid.node())?;
    let born = if of.born == (Time { seconds: 0, nanoseconds: 0 }) { 0 } else { flags::GETATTR_BIRTH };
    let attributes = protocol::Attributes {
        valid: flags::GETATTR_BASIC | born,
        qid: qid(&fid.share, &of),
        mode: of.mode,
        uid: of.uid,
        gid: of.gid,
        links: of.links.into(),
        rdev: device_number(of.device),
        size: of.size,
        block_size: of.block_size.into(),
        blocks: of.blocks,
        accessed: time(of.accessed),
        modified: time(of.modified),
        changed: time(of.changed),
        born: time(of.born),
        generation: 0,
        data_version: 0,
    };
    Ok(Response::GetAttributes { attributes }.into())
}

pub(super) fn set(session: &Session, fid: u32, to: &SetAttributes) -> Result<Answer, Errno> {
    if to.valid & !flags::SETATTR_ALL != 0 {
        return Err(Errno::INVAL);
    }
    let fid = session.fids.get(fid)?;
    let has = |bit| to.valid & bit != 0;
    let changes = Changes {
        mode: has(flags::SETATTR_MODE).then_some(to.mode),
        uid: has(flags::SETATTR_UID).then_some(to.uid),
        gid: has(flags::SETATTR_GID).then_some(to.gid),
        size: has(flags::SETATTR_SIZE).then_some(to.size),
        accessed: time_change(has(flags::SETATTR_ACCESSED), has(flags::SETATTR_ACCESSED_SET), to.accessed)?,
        modified: time_change(has(flags::SETATTR_MODIFIED), has(flags::SETATTR_MODIFIED_SET), to.modified)?,
    };
    let open = match fid.role() {
        Role::File(file) => Some(file),
        _ => None,
    };
    fid.share.tree.change(&fid.node(), open.as_deref(), &changes)?;
    Ok(Response::SetAttributes {}.into())
}

pub(super) fn stat_fs(session: &Session, fid: u32) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let of = fid.share.tree.file_system(&fid.node())?;
    let file_system = FileSystem {
        kind: of.kind,
        block_size: of.block_size,
        blocks: of.blocks,
        free: of.free,
        available: of.available,
        files: of.files,
        free_files: of.free_files,
        id: 0,
        max_name: of.max_name,
    };
    Ok(Response::StatFs { file_system }.into())
}

pub(super) fn qid(share: &Share, of: &Attributes) -> Qid {
    // Differs whenever the content or the size does, as far as the file system's clock tells.
    let version = (of.modified.seconds.cast_unsigned() as u32) ^ of.modified.nanoseconds ^ ((of.size as u32) << 8);
    let kind = match of.mode & 0o170_000 {
        0o040_000 => FileKind::Directory,
        0o120_000 => FileKind::Symlink,
        _ => FileKind::Regular,
    };
    Qid { kind: qid_kind(Some(kind)), version: version.max(1), path: share.tree.number(of.id) }
}

pub(super) fn qid_kind(kind: Option<FileKind>) -> u8 {
    match kind {
        Some(FileKind::Directory) => flags::QID_DIRECTORY,
        Some(FileKind::Symlink) => flags::QID_SYMLINK,
        _ => flags::QID_FILE,
    }
}

/// As Linux encodes it for user space.
fn device_number((major, minor): (u32, u32)) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    minor & 0xff | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

fn time(of: Time) -> protocol::Time {
    protocol::Time { seconds: of.seconds.cast_unsigned(), nanoseconds: of.nanoseconds.into() }
}

fn time_change(changes: bool, given: bool, to: protocol::Time) -> Result<Option<TimeChange>, Errno> {
    if !changes {
        return Ok(None);
    }
    if !given {
        return Ok(Some(TimeChange::Now));
    }
    let nanoseconds = u32::try_from(to.nanoseconds).map_err(|_| Errno::INVAL)?;
    Ok(Some(TimeChange::To(Time { seconds: to.seconds.cast_signed(), nanoseconds })))
}
