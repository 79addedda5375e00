//! The header of a packet: layout and codec, without I/O.
//!
//! Virtio 1.2, section 5.10.6: 44 bytes, little endian, before the payload of each packet in both directions.

/// Length of a packet's header.
pub const HEADER_LEN: usize = 44;
/// The host's context id. Virtio 1.2, section 5.10.4.
pub const HOST_CID: u64 = 2;
/// The smallest context id a guest can have: 0 to 2 are reserved.
pub const FIRST_GUEST_CID: u64 = 3;
/// Longest payload of a packet that Linux sends or takes (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub const MAX_PAYLOAD: u32 = 64 * 1024;
/// The only type of socket here: a stream. Sequences of packets (2) are not offered.
pub const TYPE_STREAM: u16 = 1;

/// In a SHUTDOWN: its sender will not receive any more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// In a SHUTDOWN: its sender will not send any more.
pub const SHUTDOWN_SEND: u32 = 2;
/// In a SHUTDOWN: both.
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// What a packet is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Dials a port.
    Request,
    /// Accepts a dial.
    Response,
    /// Refuses a dial, or cuts a stream.
    Reset,
    /// Ends one or both directions.
    Shutdown,
    /// Carries payload.
    Data,
    /// Tells how much was read.
    CreditUpdate,
    /// Asks for a [`CreditUpdate`](Self::CreditUpdate).
    CreditRequest,
}

impl Op {
    fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    fn to_wire(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// A packet's header. Any 44 bytes are one: what is wrong with it is for its reader to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sender's context id.
    pub from_cid: u64,
    /// Receiver's context id.
    pub to_cid: u64,
    /// Sender's port.
    pub from_port: u32,
    /// Receiver's port.
    pub to_port: u32,
    /// Bytes of payload.
    pub length: u32,
    /// [`TYPE_STREAM`], or what is not served.
    pub kind: u16,
    /// What it is about; `None` if the number means nothing.
    pub op: Option<Op>,
    /// Of a SHUTDOWN: which directions.
    pub flags: u32,
    /// Bytes the sender has room for, read or not.
    pub window: u32,
    /// Bytes that were read at the sender so far, modulo 2^32.
    pub consumed: u32,
}

impl Header {
    /// Reads a header.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut rest = &bytes[..];
        let mut take = |n: usize| {
            let (field, after) = rest.split_at(n);
            rest = after;
            field.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte))
        };
        Self {
            from_cid: take(8),
            to_cid: take(8),
            from_port: take(4) as u32,
            to_port: take(4) as u32,
            length: take(4) as u32,
            kind: take(2) as u16,
            op: Op::from_wire(take(2) as u16),
            flags: take(4) as u32,
            window: take(4) as u32,
            consumed: take(4) as u32,
        }
    }

    /// Writes a header. An `op` of `None` is written as 0.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.from_cid.to_le_bytes());
        put(&self.to_cid.to_le_bytes());
        put(&self.from_port.to_le_bytes());
        put(&self.to_port.to_le_bytes());
        put(&self.length.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.op.map_or(0, Op::to_wire).to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.window.to_le_bytes());
        put(&self.consumed.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_that_of_the_standard() {
        let header = Header {
            from_cid: 3,
            to_cid: HOST_CID,
            from_port: 0x0403_0201,
            to_port: 0x4000_0000,
            length: 0x100,
            kind: TYPE_STREAM,
            op: Some(Op::Data),
            flags: 0,
            window: 0x4_0000,
            consumed: 7,
        };
        let bytes = [
            [3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0].as_slice(),
            &[0, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0],
            &[0, 0x40, 0, 1, 0, 0, 1, 0, 5, 0, 0],
            &[0, 0, 0, 0, 0, 4, 0, 7, 0, 0, 0],
        ]
        .concat();
        assert_eq!(header.encode().as_slice(), bytes);
        assert_eq!(Header::decode(&header.encode()), header);
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_encoded_the_same_but_for_unknown_ops(bytes in prop::array::uniform32(any::<u8>()), tail: [u8; 12]) {
            let mut packet = [0; HEADER_LEN];
            packet[..32].copy_from_slice(&bytes);
            packet[32..].copy_from_slice(&tail);
            packet[31] = 0;
            let header = Header::decode(&packet);
            if header.op.is_none() {
                packet[30] = 0;
            }
            prop_assert_eq!(header.encode(), packet);
        }
    }
}
