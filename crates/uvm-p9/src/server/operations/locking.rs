//! Requests about locks.

use rustix::io::Errno;

use super::Answer;
use crate::protocol::{LockRange, Name, Response, flags};
use crate::server::locks::{Lock, LockKind, Locked, Owner};
use crate::server::session::{Session, encoded};

/// The last byte of a range.
fn end(range: &LockRange<'_>) -> Result<u64, Errno> {
    match range.length {
        0 => Ok(u64::MAX),
        length => range.start.checked_add(length - 1).ok_or(Errno::OVERFLOW),
    }
}

fn owner(session: &Session, range: &LockRange<'_>) -> Owner {
    Owner { session: session.number, client: range.client.as_bytes().into(), process: range.process }
}

fn lock_kind(kind: u8) -> Result<LockKind, Errno> {
    match kind {
        flags::LOCK_READ => Ok(LockKind::Read),
        flags::LOCK_WRITE => Ok(LockKind::Write),
        _ => Err(Errno::INVAL),
    }
}

/// Never waits: a client that wants to is told that it is blocked, and asks again.
pub(super) fn lock(session: &Session, fid: u32, kind: u8, bits: u32, range: &LockRange<'_>) -> Result<Answer, Errno> {
    if bits & !(flags::LOCK_FLAG_BLOCK | flags::LOCK_FLAG_RECLAIM) != 0 {
        return Err(Errno::INVAL);
    }
    let fid = session.fids.get(fid)?;
    let count = &session.fids.lock_count;
    let (owner, start, end) = (owner(session, range), range.start, end(range)?);
    // What Linux sends for `flock`, which is on the open file, whoever calls it. When a process closes a file that any process
    // of the guest has locked by `fcntl`, Linux sends the same without this flag: that unlocks nobody else's.
    let by_flock = bits & flags::LOCK_FLAG_BLOCK != 0 && (start, end) == (0, u64::MAX);
    let outcome = if kind == flags::LOCK_UNLOCK && by_flock {
        fid.with_locks(|locks| {
            locks.unlock_whole(&owner, fid.key, count);
            Ok(Locked::Yes)
        })?
    } else if kind == flags::LOCK_UNLOCK {
        fid.with_locks(|locks| locks.unlock(&owner, start, end, count))?;
        Locked::Yes
    } else {
        let wanted = Lock { owner, fid: fid.key, kind: lock_kind(kind)?, start, end };
        fid.with_locks(|locks| locks.lock(wanted, count))?
    };
    let status = match outcome {
        Locked::Yes => flags::LOCK_SUCCESS,
        Locked::Blocked => flags::LOCK_BLOCKED,
    };
    Ok(Response::Lock { status }.into())
}

/// Whose lock is in the way is told of the client's own processes; of another client, only that there is one.
pub(super) fn get_lock(
    session: &Session,
    tag: u16,
    fid: u32,
    kind: u8,
    range: &LockRange<'_>,
) -> Result<Answer, Errno> {
    let fid = session.fids.get(fid)?;
    let end = end(range)?;
    let wanted = Lock { owner: owner(session, range), fid: fid.key, kind: lock_kind(kind)?, start: range.start, end };
    let Some(held) = fid.with_locks(|locks| Ok(locks.in_the_way(&wanted)))? else {
        return Ok(Answer::Message(encoded(tag, &Response::GetLock { kind: flags::LOCK_UNLOCK, range: *range })));
    };
    let own = held.owner.session == session.number;
    let range = LockRange {
        start: held.start,
        length: if held.end == u64::MAX { 0 } else { held.end - held.start + 1 },
        process: if own { held.owner.process } else { 0 },
        client: Name::new(if own { &held.owner.client } else { b"" }).ok_or(Errno::INVAL)?,
    };
    let kind = match held.kind {
        LockKind::Read => flags::LOCK_READ,
        LockKind::Write => flags::LOCK_WRITE,
    };
    Ok(Answer::Message(encoded(tag, &Response::GetLock { kind, range })))
}
