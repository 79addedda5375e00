//! What each request does.

mod attributes;
mod files;
mod locking;
mod names;
mod xattrs;

use std::sync::Arc;

use rustix::io::Errno;

use super::buffers::{Buffer, SMALL};
use super::session::{Session, encoded};
use crate::protocol::{DecodeError, HEADER_LEN, Header, READ_DIR_REQUEST, READ_REQUEST, Request, Response, set_size};

/// An answer that is no error.
enum Answer {
    /// These fields.
    Fields(Response<'static>),
    /// A whole message.
    Message(Buffer),
}

impl From<Response<'static>> for Answer {
    fn from(response: Response<'static>) -> Self {
        Self::Fields(response)
    }
}

/// Serves a whole request. Blocks as long as the file system does.
pub(super) fn answer(session: &Arc<Session>, tag: u16, frame: &[u8]) -> Buffer {
    let answered = decode(frame).and_then(|request| dispatch(session, tag, &request));
    match answered {
        Ok(Answer::Fields(response)) => encoded(tag, &response),
        Ok(Answer::Message(message)) => message,
        Err(errno) => encoded(tag, &Response::Error { errno: errno.raw_os_error().cast_unsigned() }),
    }
}

fn decode(frame: &[u8]) -> Result<Request<'_>, Errno> {
    let (header, body) = frame.split_first_chunk::<HEADER_LEN>().ok_or(Errno::INVAL)?;
    Request::decode(Header::decode(*header).kind, body).map_err(|error| match error {
        DecodeError::UnknownType { .. } => Errno::OPNOTSUPP,
        DecodeError::TextTooLong { .. } => Errno::NAMETOOLONG,
        DecodeError::ListTooLong { .. } | DecodeError::Truncated | DecodeError::TrailingBytes { .. } => Errno::INVAL,
    })
}

fn dispatch(session: &Arc<Session>, tag: u16, request: &Request<'_>) -> Result<Answer, Errno> {
    match *request {
        Request::Attach { fid, auth_fid, share, uid, .. } => names::attach(session, fid, auth_fid, share, uid),
        Request::Walk { fid, new_fid, ref names } => names::walk(session, fid, new_fid, names.as_slice()),
        Request::Clunk { fid } => names::clunk(session, fid),
        Request::Remove { fid } => names::remove(session, fid),
        Request::Symlink { directory, name, target, gid } => names::symlink(session, directory, name, target, gid),
        Request::MakeNode { directory, name, mode, gid, .. } => names::make_node(session, directory, name, mode, gid),
        Request::MakeDirectory { directory, name, mode, gid } => {
            names::make_directory(session, directory, name, mode, gid)
        }
        Request::Link { directory, fid, name } => names::link(session, directory, fid, name),
        Request::Rename { fid, directory, name } => names::rename(session, fid, directory, name),
        Request::RenameAt { old_directory, old_name, new_directory, new_name } => {
            names::rename_at(session, (old_directory, old_name), (new_directory, new_name))
        }
        Request::UnlinkAt { directory, name, flags } => names::unlink_at(session, directory, name, flags),
        Request::ReadLink { fid } => names::read_link(session, tag, fid),

        Request::Open { fid, flags } => files::open(session, fid, flags),
        Request::Create { fid, name, flags, mode, gid } => files::create(session, fid, name, flags, (mode, gid)),
        Request::Read { fid, offset, count } => files::read(session, tag, fid, offset, count),
        Request::Write { fid, offset, data } => files::write(session, fid, offset, data.0),
        Request::ReadDir { fid, offset, count } => files::read_dir(session, tag, fid, offset, count),
        Request::Sync { fid, data_only } => files::sync(session, fid, data_only != 0),

        Request::GetAttributes { fid, .. } => attributes::get(session, fid),
        Request::SetAttributes { fid, ref attributes } => attributes::set(session, fid, attributes),
        Request::StatFs { fid } => attributes::stat_fs(session, fid),

        Request::WalkXattr { fid, new_fid, name } => xattrs::walk(session, fid, new_fid, name),
        Request::CreateXattr { fid, name, size, flags } => xattrs::create(session, fid, name, size, flags),

        Request::Lock { fid, kind, flags, range } => locking::lock(session, fid, kind, flags, &range),
        Request::GetLock { fid, kind, range } => locking::get_lock(session, tag, fid, kind, &range),

        // Served without a thread, unless they are no whole messages.
        Request::Version { .. } | Request::Flush { .. } => Err(Errno::INVAL),
    }
}

/// Bytes of a message of bulk before the bulk: the header and a length.
const BULK_START: usize = HEADER_LEN + 4;

/// How long the answer to a request can be, in bytes; without a limit by the message size.
pub(super) fn longest_answer(frame: &[u8]) -> usize {
    let bulk = frame.get(4).is_some_and(|&kind| matches!(kind, READ_REQUEST | READ_DIR_REQUEST));
    match bulk.then(|| decode(frame)) {
        Some(Ok(Request::Read { count, .. } | Request::ReadDir { count, .. })) => {
            (count as usize).saturating_add(BULK_START)
        }
        // The longest besides is the target of a link.
        _ => SMALL,
    }
}

/// Writes what stands before the bulk of a message that is otherwise there.
fn finish_bulk(message: &mut [u8], kind: u8, tag: u16) {
    let count = message.len().saturating_sub(BULK_START) as u32;
    if let Some((start, _)) = message.split_first_chunk_mut::<BULK_START>() {
        start[..HEADER_LEN].copy_from_slice(&Header { size: 0, kind, tag }.encode());
        start[HEADER_LEN..].copy_from_slice(&count.to_le_bytes());
    }
    set_size(message);
}
