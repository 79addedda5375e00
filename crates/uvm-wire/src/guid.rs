//! GUIDs as the protocol writes them: 36 characters, hyphens, no braces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A GUID. Read strictly (`xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, either case), written in lower case.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid([u8; 16]);

impl Guid {
    /// The GUID of zeros: the activity id of every request the original host sends.
    pub const ZERO: Self = Self([0; 16]);

    /// The GUID whose text has these bytes, in the order they are read.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The GUID whose text is these 32 hex digits.
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// The bytes, in the order the text shows them.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let text: &[u8; 36] = text.as_bytes().try_into().ok()?;
        let mut bytes = [0; 16];
        let mut at = 0;
        for (n, byte) in bytes.iter_mut().enumerate() {
            if matches!(n, 4 | 6 | 8 | 10) {
                if text[at] != b'-' {
                    return None;
                }
                at += 1;
            }
            *byte = hex_digit(text[at])? << 4 | hex_digit(text[at + 1])?;
            at += 2;
        }
        Some(Self(bytes))
    }
}

/// The value of one hex digit of either case.
pub(crate) fn hex_digit(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            let hyphen = if matches!(n, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{hyphen}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl FromStr for Guid {
    type Err = InvalidGuid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or(InvalidGuid)
    }
}

impl Serialize for Guid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Guid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Guid;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a GUID, as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Guid, E> {
                Guid::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// The text is no [`Guid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a GUID: 32 hex digits are needed, as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")]
pub struct InvalidGuid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_are_in_the_same_order() {
        let text = "894cc2d6-9d79-424f-93fe-42969ae6d8d1";
        let guid = Guid::from_u128(0x894c_c2d6_9d79_424f_93fe_4296_9ae6_d8d1);
        assert_eq!(guid.to_string(), text);
        assert_eq!(text.parse(), Ok(guid));
        assert_eq!(text.to_uppercase().parse(), Ok(guid));
        assert_eq!(guid.as_bytes()[..2], [0x89, 0x4c]);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "894cc2d6",
            "{894cc2d6-9d79-424f-93fe-42969ae6d8d1}",
            "894cc2d69d79424f93fe42969ae6d8d1",
            "894cc2d6-9d79-424f-93fe-42969ae6d8dg",
            "894cc2d6-9d79-424f-93fe-42969ae6d8d",
            "894cc2d6-9d79-424f-93fe+42969ae6d8d1",
            "894cc2d69-d79-424f-93fe-42969ae6d8d1",
            "+94cc2d6-9d79-424f-93fe-42969ae6d8d1",
            "894cc2d6-9d79-424f-93fe-42969ae6d8é",
        ] {
            assert_eq!(bad.parse::<Guid>(), Err(InvalidGuid), "{bad}");
        }
    }
}
