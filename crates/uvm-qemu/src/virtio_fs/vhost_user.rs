//! Messages of the protocol that QEMU speaks with who serves a device (vhost-user), as far as they pass through here.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Request, flags, length of what follows.
pub(super) const HEADER_LEN: usize = 12;
/// No message that is used here is longer.
const MOST_BYTES: usize = 4096;
/// The most descriptors of a message about memory: one for each region (`VHOST_MEMORY_BASELINE_NREGIONS`).
const REGIONS: usize = 8;

/// Requests, by their numbers.
pub(super) const GET_FEATURES: u32 = 1;
pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_OWNER: u32 = 3;
pub(super) const SET_MEM_TABLE: u32 = 5;
pub(super) const SET_VRING_NUM: u32 = 8;
pub(super) const SET_VRING_ADDR: u32 = 9;
pub(super) const SET_VRING_BASE: u32 = 10;
pub(super) const GET_VRING_BASE: u32 = 11;
pub(super) const SET_VRING_KICK: u32 = 12;
pub(super) const SET_VRING_CALL: u32 = 13;
pub(super) const SET_VRING_ERR: u32 = 14;
pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(super) const GET_QUEUE_NUM: u32 = 17;
pub(super) const SET_VRING_ENABLE: u32 = 18;
pub(super) const GET_CONFIG: u32 = 24;
pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;

/// What is always answered.
const ANSWERED: [u32; 6] =
    [GET_FEATURES, GET_VRING_BASE, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_CONFIG, GET_MAX_MEM_SLOTS];
/// The flag of a request that is to be answered.
pub(super) const NEEDS_ANSWER: u32 = 8;

/// What comes along with a request at most: what is kept of a share is bounded by it.
fn most_descriptors(request: u32) -> usize {
    match request {
        SET_MEM_TABLE => REGIONS,
        SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => 1,
        _ => 0,
    }
}

/// A message, and the descriptors that came with it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) request: u32,
    pub(super) flags: u32,
    pub(super) payload: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Message {
    /// A request without anything.
    pub(super) fn plain(request: u32) -> Self {
        Self { request, flags: 1, payload: Vec::new(), descriptors: Vec::new() }
    }

    /// Reads one; `None` at the end of the connection.
    pub(super) fn read(from: &UnixStream) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        let mut descriptors = Vec::new();
        let mut read = 0;
        // Descriptors come with the first byte.
        while let Some(rest) = header.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match receive(from, rest, &mut descriptors)? {
                0 if read == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
        }
        let word =
            |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let length = word(8) as usize;
        if length > MOST_BYTES || descriptors.len() > most_descriptors(word(0)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        let mut from = from;
        from.read_exact(&mut payload)?;
        Ok(Some(Self { request: word(0), flags: word(4), payload, descriptors }))
    }

    pub(super) fn write(&self, to: &UnixStream, flags: u32) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len());
        for word in [self.request, flags, length] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let sent = transmit(to, &bytes, &descriptors)?;
        let mut to = to;
        to.write_all(bytes.get(sent..).unwrap_or_default())
    }

    pub(super) fn is_answered(&self) -> bool {
        self.flags & NEEDS_ANSWER != 0 || ANSWERED.contains(&self.request)
    }

    /// The queue that one of those of a queue is about: its number comes first, and for descriptors in the lowest byte.
    pub(super) fn queue(&self) -> u32 {
        let first = self.payload.first_chunk().map_or(0, |first| u32::from_ne_bytes(*first));
        match self.request {
            SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => first & 0xff,
            _ => first,
        }
    }

    pub(super) fn copy(&self) -> io::Result<Self> {
        Ok(Self {
            request: self.request,
            flags: self.flags,
            payload: self.payload.clone(),
            descriptors: self.descriptors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?,
        })
    }
}

fn receive(from: &UnixStream, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(from, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    Ok(received.bytes)
}

fn transmit(to: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(REGIONS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    loop {
        match sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_more_descriptors_than_it_needs_is_none() {
        let read = |request, count: usize| {
            let counter = || rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("a counter");
            let descriptors = std::iter::repeat_with(counter).take(count).collect();
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            Message { descriptors, ..Message::plain(request) }.write(&theirs, 1).expect("written");
            Message::read(&ours).map(|message| message.expect("not the end").descriptors.len())
        };
        for (request, most) in [(SET_MEM_TABLE, 8), (SET_VRING_KICK, 1), (SET_VRING_NUM, 0), (GET_FEATURES, 0)] {
            assert_eq!(read(request, most).expect("a message"), most, "{request}");
        }
        for (request, too_many) in [(SET_VRING_KICK, 2), (SET_VRING_NUM, 1), (GET_FEATURES, 1)] {
            read(request, too_many).expect_err("none");
        }
    }
}
