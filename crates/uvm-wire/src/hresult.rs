//! The result codes that guests answer with.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A result code: 0 is success. On the wire a *signed* decimal of 32 bits, in texts `0x` and 8 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hresult(i32);

impl Hresult {
    /// Success.
    pub const OK: Self = Self(0);
    /// An unknown message, or one that is not valid for the negotiated version.
    pub const NOT_IMPLEMENTED: Self = Self::from_bits(0x8000_4001);
    /// Any failure without a code of its own.
    pub const FAIL: Self = Self::from_bits(0x8000_4005);
    /// No such process, a signal to a dead one, or an unknown network namespace.
    pub const NOT_FOUND: Self = Self::from_bits(0x8007_0490);
    /// An argument out of range. Newer agents only; and an agent of ours of a process whose working directory is not there.
    pub const INVALID_ARGUMENT: Self = Self::from_bits(0x8007_0057);
    /// The container is still being created, or not stopped yet. Newer agents (2022-04) only.
    pub const INVALID_STATE: Self = Self::from_bits(0x8037_0105);
    /// The time given to `WaitForProcess` has passed. An agent of ours also says so of a change of the VM that it has given up
    /// by itself, and that may yet come to its end.
    pub const TIMEOUT: Self = Self::from_bits(0xc037_0109);
    /// Defined by the protocol, sent by nobody.
    pub const UNKNOWN_MESSAGE: Self = Self::from_bits(0xc037_010b);
    /// Host and guest have no protocol version in common.
    pub const UNSUPPORTED_PROTOCOL_VERSION: Self = Self::from_bits(0xc037_010c);
    /// The request does not decode, or names a schema version below 2.1.
    pub const INVALID_JSON: Self = Self::from_bits(0xc037_010d);
    /// No container has this id.
    pub const SYSTEM_NOT_FOUND: Self = Self::from_bits(0xc037_010e);
    /// A container with this id is there already.
    pub const SYSTEM_ALREADY_EXISTS: Self = Self::from_bits(0xc037_010f);
    /// The container has stopped already. Newer agents only.
    pub const SYSTEM_ALREADY_STOPPED: Self = Self::from_bits(0xc037_0110);

    /// The code with these 32 bits, as they are written in hex.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits.cast_signed())
    }

    /// The code as the wire carries it.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The 32 bits, as they are written in hex.
    pub const fn bits(self) -> u32 {
        self.0.cast_unsigned()
    }

    /// What the code means, in a few words; `None` for one the protocol does not define.
    pub const fn meaning(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "success",
            Self::NOT_IMPLEMENTED => "not implemented",
            Self::FAIL => "unspecified failure",
            Self::NOT_FOUND => "not found",
            Self::INVALID_ARGUMENT => "invalid argument",
            Self::INVALID_STATE => "not valid in the container's present state",
            Self::TIMEOUT => "the time given has passed",
            Self::UNKNOWN_MESSAGE => "unknown message",
            Self::UNSUPPORTED_PROTOCOL_VERSION => "no protocol version in common",
            Self::INVALID_JSON => "the request does not decode",
            Self::SYSTEM_NOT_FOUND => "no container has this id",
            Self::SYSTEM_ALREADY_EXISTS => "a container with this id already exists",
            Self::SYSTEM_ALREADY_STOPPED => "the container has already stopped",
            _ => return None,
        })
    }
}

impl fmt::Display for Hresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08x}", self.bits())
    }
}

impl fmt::Debug for Hresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hresult({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_signed_decimals_of_the_protocol() {
        for (code, hex, decimal) in [
            (Hresult::OK, "0x00000000", 0),
            (Hresult::NOT_IMPLEMENTED, "0x80004001", -2_147_467_263),
            (Hresult::FAIL, "0x80004005", -2_147_467_259),
            (Hresult::NOT_FOUND, "0x80070490", -2_147_023_728),
            (Hresult::INVALID_ARGUMENT, "0x80070057", -2_147_024_809),
            (Hresult::INVALID_STATE, "0x80370105", -2_143_878_907),
            (Hresult::TIMEOUT, "0xc0370109", -1_070_137_079),
            (Hresult::UNKNOWN_MESSAGE, "0xc037010b", -1_070_137_077),
            (Hresult::UNSUPPORTED_PROTOCOL_VERSION, "0xc037010c", -1_070_137_076),
            (Hresult::INVALID_JSON, "0xc037010d", -1_070_137_075),
            (Hresult::SYSTEM_NOT_FOUND, "0xc037010e", -1_070_137_074),
            (Hresult::SYSTEM_ALREADY_EXISTS, "0xc037010f", -1_070_137_073),
            (Hresult::SYSTEM_ALREADY_STOPPED, "0xc0370110", -1_070_137_072),
        ] {
            assert_eq!(code.to_string(), hex);
            assert_eq!(code.get(), decimal);
            assert!(code.meaning().is_some(), "{code}");
            let bits = u32::from_str_radix(&hex[2..], 16).unwrap();
            assert_eq!(Hresult::from_bits(bits), code);
        }
        assert_eq!(Hresult::from_bits(0x8007_0005).meaning(), None);
    }
}
