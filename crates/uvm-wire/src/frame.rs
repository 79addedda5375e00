//! Where one message ends and the next begins.

use std::fmt;

use crate::header::{Header, MessageType};

/// The longest message one side takes, header included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeLimit(u32);

impl SizeLimit {
    /// What a host receives and a guest sends: 65,536 bytes. The original host ends the connection over one byte more.
    pub const FROM_GUEST: Self = Self(0x1_0000);
    /// What a guest receives and a host sends by default: 16 MiB. `Create` carries a whole OCI specification.
    pub const FROM_HOST: Self = Self(16 << 20);

    /// A limit of `bytes`; `None` below [`FROM_GUEST`](Self::FROM_GUEST), which every peer must be able to take.
    pub const fn new(bytes: u32) -> Option<Self> {
        if bytes < Self::FROM_GUEST.0 { None } else { Some(Self(bytes)) }
    }

    /// The limit in bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SizeLimit({})", self.0)
    }
}

/// One message: its header, and the JSON behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub header: Header,
    /// The JSON, possibly with white space behind it. Not looked at yet.
    pub payload: &'a [u8],
}

/// Cuts a stream of bytes into messages, as they come.
///
/// Give it what was read, take what is complete, until it wants more:
///
/// ```
/// # use uvm_wire::frame::{FrameDecoder, FrameError, SizeLimit};
/// # fn handle(_: uvm_wire::frame::Frame<'_>) {}
/// # fn received(decoder: &mut FrameDecoder, mut bytes: &[u8]) -> Result<(), FrameError> {
/// while let Some(frame) = decoder.next_frame(&mut bytes)? {
///     handle(frame);
/// }
/// assert!(bytes.is_empty());
/// # Ok(()) }
/// # received(&mut FrameDecoder::new(SizeLimit::FROM_GUEST), &[1, 0, 0]).unwrap();
/// ```
///
/// A message that is whole in the bytes given is handed out from there, without a copy. One that came in pieces is
/// gathered here; the memory for it grows with what has come, never ahead to the size that the header claims, and never
/// beyond the limit.
#[derive(Debug)]
pub struct FrameDecoder {
    limit: SizeLimit,
    /// The first bytes of a message that is not complete yet, or all bytes of the one handed out last.
    gathered: Vec<u8>,
    handed_out: bool,
    failed: Option<FrameError>,
}

impl FrameDecoder {
    /// Memory kept for the next message that comes in pieces; what a larger one took is given back.
    const KEPT: usize = SizeLimit::FROM_GUEST.bytes();
    const FIRST_GROWTH: usize = 512;

    /// A decoder at the beginning of a stream.
    pub const fn new(limit: SizeLimit) -> Self {
        Self { limit, gathered: Vec::new(), handed_out: false, failed: None }
    }

    /// Takes bytes off the front of `input` until a message is complete. `None`: all of `input` is taken, more is needed.
    ///
    /// # Errors
    /// [`FrameError`]: the peer announced a size that is not allowed. Nobody knows any more where the next message
    /// begins, so every further call fails with the same error.
    pub fn next_frame<'d, 'i: 'd>(&'d mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'d>>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if std::mem::take(&mut self.handed_out) {
            self.gathered.clear();
            self.gathered.shrink_to(Self::KEPT);
        }
        if self.gathered.is_empty()
            && let Some((header, bytes)) =
                header_of(input, self.limit).inspect_err(|error| self.failed = Some(*error))?
            && let Some((whole, rest)) = input.split_at_checked(bytes)
        {
            *input = rest;
            return Ok(Some(Frame { header, payload: &whole[Header::LEN..] }));
        }
        // The header first: only what it says tells how much of the rest belongs to this message.
        self.gather(input, Header::LEN);
        let header = header_of(&self.gathered, self.limit).inspect_err(|error| self.failed = Some(*error))?;
        let Some((header, bytes)) = header else { return Ok(None) };
        self.gather(input, bytes);
        if self.gathered.len() < bytes {
            return Ok(None);
        }
        self.handed_out = true;
        Ok(Some(Frame { header, payload: &self.gathered[Header::LEN..] }))
    }

    /// Bytes of an incomplete message: not 0 at the end of a stream means that it broke off inside one.
    pub fn pending(&self) -> usize {
        if self.handed_out { 0 } else { self.gathered.len() }
    }

    /// Bytes of memory held.
    pub fn held(&self) -> usize {
        self.gathered.capacity()
    }

    /// Moves bytes from `input` until `goal` of them are gathered, or none are left.
    fn gather(&mut self, input: &mut &[u8], goal: usize) {
        let missing = goal.saturating_sub(self.gathered.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        *input = rest;
        let needed = self.gathered.len() + taken.len();
        if needed > self.gathered.capacity() {
            let doubled = (2 * self.gathered.capacity()).max(Self::FIRST_GROWTH);
            let target = needed.max(doubled.min(goal.max(Self::FIRST_GROWTH)));
            self.gathered.reserve_exact(target - self.gathered.len());
        }
        self.gathered.extend_from_slice(taken);
    }
}

/// The header at the front of `bytes`, if it is all there, and the size of its message.
fn header_of(bytes: &[u8], limit: SizeLimit) -> Result<Option<(Header, usize)>, FrameError> {
    let Some(bytes) = bytes.first_chunk() else { return Ok(None) };
    let header = Header::from_bytes(bytes);
    let size = header.size as usize;
    if size < Header::LEN {
        return Err(FrameError::TooSmall { message_type: header.message_type, size: header.size });
    }
    if size > limit.bytes() {
        return Err(FrameError::TooLarge { message_type: header.message_type, size: header.size, limit: limit.0 });
    }
    Ok(Some((header, size)))
}

/// The peer announced a message of a size that is not allowed. The connection cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Less than a header takes.
    #[error("{message_type} announces {size} bytes, but a header alone takes {}", Header::LEN)]
    TooSmall {
        /// What the header says the message is.
        message_type: MessageType,
        /// The size in the header.
        size: u32,
    },
    /// More than this side takes.
    #[error("{message_type} announces {size} bytes, but at most {limit} are taken")]
    TooLarge {
        /// What the header says the message is.
        message_type: MessageType,
        /// The size in the header.
        size: u32,
        /// The limit.
        limit: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u64, payload: &[u8]) -> Vec<u8> {
        let size = (Header::LEN + payload.len()) as u32;
        let mut bytes = Header { message_type: MessageType::START, size, id }.to_bytes().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    fn announcing(size: u32) -> [u8; Header::LEN] {
        Header { message_type: MessageType::CREATE, size, id: 0 }.to_bytes()
    }

    #[test]
    fn whole_messages_are_handed_out_without_a_copy() {
        let bytes = [message(1, b"{}"), message(2, b""), message(3, b"{\"a\":1}\n")].concat();
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_GUEST);
        let mut input = bytes.as_slice();
        for (id, payload) in [(1, &b"{}"[..]), (2, b""), (3, b"{\"a\":1}\n")] {
            let frame = decoder.next_frame(&mut input).unwrap().unwrap();
            assert_eq!((frame.header.id, frame.payload), (id, payload));
            assert!(bytes.as_ptr_range().contains(&frame.payload.as_ptr()) || payload.is_empty());
        }
        assert_eq!(decoder.next_frame(&mut input), Ok(None));
        assert_eq!((decoder.held(), decoder.pending()), (0, 0));
    }

    #[test]
    fn messages_may_come_byte_by_byte() {
        let bytes = [message(1, b"{}"), message(2, b"{\"a\":1}"), message(3, b"")].concat();
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_GUEST);
        let mut got = Vec::new();
        for byte in &bytes {
            let mut input = std::slice::from_ref(byte);
            while let Some(frame) = decoder.next_frame(&mut input).unwrap() {
                got.push((frame.header.id, frame.payload.to_vec()));
            }
            assert!(input.is_empty());
        }
        assert_eq!(got, [(1, b"{}".to_vec()), (2, b"{\"a\":1}".to_vec()), (3, vec![])]);
        assert_eq!(decoder.pending(), 0);
    }

    #[test]
    fn sizes_are_judged_by_the_header_alone() {
        for (size, limit, allowed) in [
            (0, SizeLimit::FROM_GUEST, false),
            (8, SizeLimit::FROM_GUEST, false),
            (15, SizeLimit::FROM_GUEST, false),
            (16, SizeLimit::FROM_GUEST, true),
            (0x1_0000, SizeLimit::FROM_GUEST, true),
            (0x1_0001, SizeLimit::FROM_GUEST, false),
            (0x1_0001, SizeLimit::FROM_HOST, true),
            (16 << 20, SizeLimit::FROM_HOST, true),
            ((16 << 20) + 1, SizeLimit::FROM_HOST, false),
            (u32::MAX, SizeLimit::FROM_HOST, false),
            (u32::MAX, SizeLimit::new(u32::MAX).unwrap(), true),
        ] {
            let mut decoder = FrameDecoder::new(limit);
            let header = announcing(size);
            assert_eq!(decoder.next_frame(&mut &header[..]).is_ok(), allowed, "{size} under {limit:?}");
        }
    }

    #[test]
    fn after_a_wrong_size_nothing_is_read_any_more() {
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_GUEST);
        let error = decoder.next_frame(&mut &announcing(8)[..]).unwrap_err();
        assert_eq!(error.to_string(), "Create request announces 8 bytes, but a header alone takes 16");
        assert_eq!(decoder.next_frame(&mut message(1, b"{}").as_slice()), Err(error));
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_GUEST);
        let error = decoder.next_frame(&mut &announcing(70_000)[..]).unwrap_err();
        assert_eq!(error.to_string(), "Create request announces 70000 bytes, but at most 65536 are taken");
        assert_eq!(decoder.next_frame(&mut message(1, b"{}").as_slice()), Err(error));
    }

    #[test]
    fn memory_follows_what_came_not_what_is_announced() {
        let mut decoder = FrameDecoder::new(SizeLimit::FROM_HOST);
        assert_eq!(decoder.next_frame(&mut &announcing(16 << 20)[..]), Ok(None));
        assert!(decoder.held() <= 512, "{}", decoder.held());
        let mut came = Header::LEN;
        let mut growths = 0;
        while came + 1000 < 16 << 20 {
            let held = decoder.held();
            assert_eq!(decoder.next_frame(&mut &[b' '; 1000][..]), Ok(None));
            came += 1000;
            growths += usize::from(decoder.held() > held);
            assert!(decoder.held() >= came);
            assert_eq!(decoder.pending(), came);
            assert!(decoder.held() <= (2 * came).max(512), "{} for {came}", decoder.held());
            assert!(decoder.held() <= 16 << 20);
        }
        assert!(growths <= 16, "memory grew {growths} times, so most bytes were moved more than twice");
        let rest = vec![b' '; (16 << 20) - came];
        assert_eq!(decoder.next_frame(&mut rest.as_slice()).unwrap().unwrap().payload.len(), (16 << 20) - Header::LEN);
        // The next message finds the memory given back.
        assert_eq!(decoder.next_frame(&mut &[][..]), Ok(None));
        assert!(decoder.held() <= 0x1_0000, "{}", decoder.held());
    }

    #[test]
    fn a_limit_no_peer_could_live_with_is_refused() {
        assert_eq!(SizeLimit::new(0xffff), None);
        assert_eq!(SizeLimit::new(0x1_0000), Some(SizeLimit::FROM_GUEST));
        assert_eq!(format!("{:?}", SizeLimit::FROM_GUEST), "SizeLimit(65536)");
    }
}
