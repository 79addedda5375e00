//! The frames on the channel: layout and codec, without I/O.
//!
//! # Layout, version 1
//!
//! The channel carries frames back to back, in both directions, with no padding between them. All integers are little
//! endian. A frame is a header of 8 bytes and a payload of 0 to 32,760 bytes, so that a whole frame is at most 32,768
//! bytes: what a Linux guest takes in one `write` to a virtio-serial port.
//!
//! | offset | size | field |
//! | --- | --- | --- |
//! | 0 | 1 | kind, see below; never 0 |
//! | 1 | 1 | 0 |
//! | 2 | 2 | length of the payload |
//! | 4 | 4 | id of the stream; 0 in the kinds that are about the link |
//!
//! **A zero byte where a frame starts is filler** and is skipped. No sequence of frames holds 32,768 zero bytes in a row
//! (an all-zero payload is at most 32,760, after at most 4 zero bytes of its header, before a kind that is not 0), so
//! that many zeros show the start of a frame to any reader, also to one that has lost its place.
//!
//! | kind | name | about | payload |
//! | --- | --- | --- | --- |
//! | 1 | HELLO | link, owner only | nonce 16, version u32, window u32, max streams u32, owner's wall clock u64 (ns since 1970), entropy 32 |
//! | 2 | `HELLO_ACK` | link, guest only | nonce 16 (the HELLO's), version u32, window u32, max streams u32 |
//! | 3 | OPEN | stream | port u32 |
//! | 4 | ACCEPT | stream | none |
//! | 5 | DATA | stream | 1 to 32,760 bytes |
//! | 6 | FIN | stream | none |
//! | 7 | RESET | stream | reason u32 |
//! | 8 | WINDOW | stream | credit u32, not 0 |
//! | 9 | PING | link | token u32 |
//! | 10 | PONG | link | token u32 (the PING's) |
//!
//! In every version the payload of HELLO and `HELLO_ACK` begins with nonce and version and is 20 to 128 bytes long. An end
//! that reads a version other than its own looks no further, says its own (the guest in a `HELLO_ACK`) and gives up.
//!
//! # Rules
//!
//! 1. The owner speaks first: HELLO with a nonce never used before. An owner that takes over a VM restored from a saved
//!    one first sends 33,024 zeros: the first of them end a frame that the saved VM's owner began, and if that makes it a
//!    broken one, 32,768 remain for the guest to find its place again. It drops whatever it reads until the header of a `HELLO_ACK` followed by its own nonce.
//! 2. A HELLO ends all streams of the guest and begins a new epoch, in which ids start anew. The guest answers `HELLO_ACK`
//!    and sends nothing before it.
//! 3. The dialler names a stream: the owner takes 0, 2, 4 and so on, the guest 1, 3, 5, without a gap and never one twice
//!    in an epoch. OPEN says the port. Exactly one answer comes to every OPEN: ACCEPT, or RESET with a refusal as its
//!    reason (16 to 19). It comes also if the dialler has reset the stream meanwhile. An end never has more OPENs
//!    without an answer than the other's `max streams`.
//! 4. The dialler may send DATA and FIN before the answer. The other end sends nothing on the stream before its ACCEPT.
//! 5. Each end may send as many bytes of DATA on a stream as the other's `window`, and as many more as it was given by
//!    WINDOW.
//! 6. FIN ends one direction: no DATA follows from that end. RESET ends both. Afterwards frames for that stream can still
//!    arrive, having crossed the RESET; they are dropped. Any other frame that breaks these rules breaks the link.
//! 7. PONG answers PING. If several wait for their answer, the newest is answered, for all.

mod greeting;
#[cfg(test)]
mod tests;

use thiserror::Error;

use greeting::Fields;
pub use greeting::{Hello, HelloAck};

/// Length of a frame's header.
pub const HEADER_LEN: usize = 8;
/// Longest frame, header included.
pub const MAX_FRAME: usize = 32 * 1024;
/// Longest payload of a frame.
pub const MAX_PAYLOAD: usize = MAX_FRAME - HEADER_LEN;
/// Zeros that show the start of a frame to a reader that has lost its place.
pub const BOUNDARY_ZEROS: usize = MAX_FRAME;
/// Zeros that a new owner of a restored VM sends first. Before it finds a frame broken, a reader takes at most the rest of
/// a header and a payload that is not DATA.
pub const FILLER_LEN: usize = BOUNDARY_ZEROS + 256;
/// The version of the protocol that this crate speaks.
pub const VERSION: u32 = 1;
/// Length of a [`Hello`]'s payload.
pub const HELLO_LEN: usize = 68;
/// Length of a [`HelloAck`]'s payload.
pub const HELLO_ACK_LEN: usize = 28;
/// What a HELLO or `HELLO_ACK` of any version begins with: nonce and version.
pub const HELLO_PREFIX_LEN: usize = 20;
/// Longest payload of a HELLO or `HELLO_ACK` of any version, and so of any frame but DATA.
pub const MAX_CONTROL_PAYLOAD: usize = 128;

/// Names one shake-hands, and with it an epoch. Never used twice.
pub type Nonce = [u8; 16];

/// What a frame is for. The number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "the module's table says it")]
pub enum Kind {
    Hello = 1,
    HelloAck = 2,
    Open = 3,
    Accept = 4,
    Data = 5,
    Fin = 6,
    Reset = 7,
    Window = 8,
    Ping = 9,
    Pong = 10,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::HelloAck,
            3 => Self::Open,
            4 => Self::Accept,
            5 => Self::Data,
            6 => Self::Fin,
            7 => Self::Reset,
            8 => Self::Window,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// The shortest and the longest payload.
    const fn lengths(self) -> (usize, usize) {
        match self {
            Self::Hello | Self::HelloAck => (HELLO_PREFIX_LEN, MAX_CONTROL_PAYLOAD),
            Self::Open | Self::Reset | Self::Window | Self::Ping | Self::Pong => (4, 4),
            Self::Accept | Self::Fin => (0, 0),
            Self::Data => (1, MAX_PAYLOAD),
        }
    }

    const fn is_about_link(self) -> bool {
        matches!(self, Self::Hello | Self::HelloAck | Self::Ping | Self::Pong)
    }
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The kind is none that this version knows.
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The first byte of the header.
        kind: u8,
    },
    /// The second byte of a header is not 0.
    #[error("reserved byte of a frame is {byte:#04x}")]
    Reserved {
        /// What it is.
        byte: u8,
    },
    /// The payload is longer or shorter than its kind allows.
    #[error("{kind:?} frame with a payload of {length} bytes")]
    BadLength {
        /// The frame's kind.
        kind: Kind,
        /// Its length.
        length: usize,
    },
    /// A frame about the link names a stream.
    #[error("{kind:?} frame for stream {id}")]
    StrayId {
        /// The frame's kind.
        kind: Kind,
        /// The id.
        id: u32,
    },
    /// The reason of a RESET is none that this version knows.
    #[error("unknown reset reason {code}")]
    UnknownReason {
        /// The number on the wire.
        code: u32,
    },
    /// A HELLO or `HELLO_ACK` announces a window of no bytes.
    #[error("window of 0 bytes announced")]
    NoWindow,
}

/// A frame's first 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Length of the payload; fits the kind.
    pub length: usize,
    /// The stream; 0 where the kind is about the link.
    pub id: u32,
}

impl Header {
    /// Reads a header. The caller has skipped filler.
    ///
    /// # Errors
    /// [`FrameError`], for everything that can be told without the payload.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [kind, reserved, l0, l1, i0, i1, i2, i3] = bytes;
        let kind = Kind::from_wire(kind).ok_or(FrameError::UnknownKind { kind })?;
        if reserved != 0 {
            return Err(FrameError::Reserved { byte: reserved });
        }
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let (least, most) = kind.lengths();
        if length < least || length > most {
            return Err(FrameError::BadLength { kind, length });
        }
        let id = u32::from_le_bytes([i0, i1, i2, i3]);
        if kind.is_about_link() && id != 0 {
            return Err(FrameError::StrayId { kind, id });
        }
        Ok(Self { kind, length, id })
    }

    /// The header on the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [l0, l1] = (self.length as u16).to_le_bytes();
        let [i0, i1, i2, i3] = self.id.to_le_bytes();
        [self.kind as u8, 0, l0, l1, i0, i1, i2, i3]
    }
}

/// Why an OPEN was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody listens on the port, or the listener went before it accepted.
    #[error("nobody listens")]
    NobodyListens,
    /// The other end has as many streams as it takes.
    #[error("the other end has too many streams")]
    TooManyStreams,
    /// As many streams as the listener queues wait to be accepted.
    #[error("the listener's backlog is full")]
    BacklogFull,
    /// The dialler reset the stream before it was accepted; said for the sake of an answer.
    #[error("given up before it was accepted")]
    Abandoned,
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetReason {
    /// The other end dropped or reset the stream.
    Dropped,
    /// The OPEN was refused.
    Refused(Refusal),
}

impl ResetReason {
    fn from_wire(code: u32) -> Result<Self, FrameError> {
        Ok(match code {
            1 => Self::Dropped,
            16 => Self::Refused(Refusal::NobodyListens),
            17 => Self::Refused(Refusal::TooManyStreams),
            18 => Self::Refused(Refusal::BacklogFull),
            19 => Self::Refused(Refusal::Abandoned),
            _ => return Err(FrameError::UnknownReason { code }),
        })
    }

    fn to_wire(self) -> u32 {
        match self {
            Self::Dropped => 1,
            Self::Refused(Refusal::NobodyListens) => 16,
            Self::Refused(Refusal::TooManyStreams) => 17,
            Self::Refused(Refusal::BacklogFull) => 18,
            Self::Refused(Refusal::Abandoned) => 19,
        }
    }
}

/// Any frame but DATA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the module's table says it")]
pub enum Control {
    Hello(Hello),
    HelloAck(HelloAck),
    Open { id: u32, port: u32 },
    Accept { id: u32 },
    Fin { id: u32 },
    Reset { id: u32, reason: ResetReason },
    Window { id: u32, credit: u32 },
    Ping { token: u32 },
    Pong { token: u32 },
}

/// Longest [`Control`] that is about a stream or a PING: header and one integer.
pub(crate) const MAX_SHORT_CONTROL: usize = HEADER_LEN + 4;

impl Control {
    /// Reads the payload of a frame that is not DATA.
    ///
    /// # Errors
    /// [`FrameError`] if the payload does not fit the header's kind.
    pub fn decode(header: Header, payload: &[u8]) -> Result<Self, FrameError> {
        let Header { kind, length, id } = header;
        let bad_length = FrameError::BadLength { kind, length };
        let mut fields = Fields(payload);
        let frame = match kind {
            Kind::Hello => Self::Hello(Hello::decode(&mut fields).ok_or(bad_length)?),
            Kind::HelloAck => Self::HelloAck(HelloAck::decode(&mut fields).ok_or(bad_length)?),
            Kind::Open => Self::Open { id, port: fields.u32().ok_or(bad_length)? },
            Kind::Accept => Self::Accept { id },
            Kind::Fin => Self::Fin { id },
            Kind::Reset => Self::Reset { id, reason: ResetReason::from_wire(fields.u32().ok_or(bad_length)?)? },
            Kind::Window => Self::Window { id, credit: fields.u32().ok_or(bad_length)? },
            Kind::Ping => Self::Ping { token: fields.u32().ok_or(bad_length)? },
            Kind::Pong => Self::Pong { token: fields.u32().ok_or(bad_length)? },
            Kind::Data => return Err(bad_length),
        };
        match frame {
            Self::Hello(Hello { version: VERSION, window: 0, .. })
            | Self::HelloAck(HelloAck { version: VERSION, window: 0, .. }) => Err(FrameError::NoWindow),
            // A later version may have added fields; this one has not.
            Self::Hello(Hello { version, .. }) | Self::HelloAck(HelloAck { version, .. }) if version != VERSION => {
                Ok(frame)
            }
            _ if fields.0.is_empty() => Ok(frame),
            _ => Err(bad_length),
        }
    }

    /// Writes the frame at the start of `out` and returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than the frame; 76 bytes are always enough.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let (kind, id, number) = match *self {
            Self::Hello(hello) => {
                let header = Header { kind: Kind::Hello, length: HELLO_LEN, id: 0 };
                return put(
                    out,
                    &[
                        &header.encode(),
                        &hello.nonce,
                        &hello.version.to_le_bytes(),
                        &hello.window.to_le_bytes(),
                        &hello.max_streams.to_le_bytes(),
                        &hello.clock_ns.to_le_bytes(),
                        &hello.entropy,
                    ],
                );
            }
            Self::HelloAck(ack) => {
                let header = Header { kind: Kind::HelloAck, length: HELLO_ACK_LEN, id: 0 };
                return put(
                    out,
                    &[
                        &header.encode(),
                        &ack.nonce,
                        &ack.version.to_le_bytes(),
                        &ack.window.to_le_bytes(),
                        &ack.max_streams.to_le_bytes(),
                    ],
                );
            }
            Self::Open { id, port } => (Kind::Open, id, Some(port)),
            Self::Accept { id } => (Kind::Accept, id, None),
            Self::Fin { id } => (Kind::Fin, id, None),
            Self::Reset { id, reason } => (Kind::Reset, id, Some(reason.to_wire())),
            Self::Window { id, credit } => (Kind::Window, id, Some(credit)),
            Self::Ping { token } => (Kind::Ping, 0, Some(token)),
            Self::Pong { token } => (Kind::Pong, 0, Some(token)),
        };
        match number {
            Some(number) => put(out, &[&Header { kind, length: 4, id }.encode(), &number.to_le_bytes()]),
            None => put(out, &[&Header { kind, length: 0, id }.encode()]),
        }
    }
}

fn put(out: &mut [u8], parts: &[&[u8]]) -> usize {
    let mut at = 0;
    for part in parts {
        out[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    at
}
