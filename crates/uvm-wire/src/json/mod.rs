//! Reading and writing JSON by the rules of this protocol.
//!
//! Both originals use one JSON library, and peers rely on its ways. Every message is read by these rules:
//!
//! * keys match regardless of case (of ASCII letters), unknown keys are ignored;
//! * `null` stands for a key's empty value: 0, `false`, `""`, no elements;
//! * white space may follow the value.
//!
//! It is stricter where leniency helps only an attacker: the text must be UTF-8, a key of a message may occur once, and
//! nothing may nest deeper than [`MAX_DEPTH`].

pub(crate) mod lenient;
mod measure;
mod raw;
pub(crate) mod text;

use serde::{Deserialize, Serialize};

pub use measure::{cut_text, escaped_len};
pub use raw::RawJson;

/// How deep arrays and objects may nest. An OCI specification, the deepest of real documents, needs under 10.
pub const MAX_DEPTH: usize = 100;

/// A text is not the JSON that was wanted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The bytes are not UTF-8.
    #[error("the byte at offset {at} is not UTF-8")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// Too many arrays and objects inside each other.
    #[error("nested deeper than {MAX_DEPTH} levels at offset {at}")]
    TooDeep {
        /// Offset of the bracket that goes too deep.
        at: usize,
    },
    /// Not JSON, or not of the wanted shape.
    #[error(transparent)]
    Shape(#[from] serde_json::Error),
}

/// Reads a value from the bytes of one JSON text.
pub(crate) fn from_slice<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, JsonError> {
    check(bytes).and_then(from_checked)
}

/// Reads a value from one JSON text.
pub(crate) fn from_str<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    check_depth(text)?;
    from_checked(text)
}

/// Checks what must hold for any text; [`from_checked`] may then read it, as often as needed.
pub(crate) fn check(bytes: &[u8]) -> Result<&str, JsonError> {
    let text = std::str::from_utf8(bytes).map_err(|error| JsonError::NotUtf8 { at: error.valid_up_to() })?;
    check_depth(text)?;
    Ok(text)
}

/// Reads a value from a text that has passed [`check`].
pub(crate) fn from_checked<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, JsonError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(lenient::Lenient(&mut deserializer))?;
    deserializer.end()?;
    Ok(value)
}

/// Appends the members of `base` and of `body` as one object.
///
/// Both must serialize as objects, and `base` must have a member; so every message base here is a struct with a key
/// that is always present. This is what `#[serde(flatten)]` would do, without its detour.
pub(crate) fn write_merged(out: &mut Vec<u8>, base: &impl Serialize, body: &impl Serialize) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, base)?;
    let brace = out.pop();
    debug_assert_eq!(brace, Some(b'}'), "the base is an object");
    let joint = out.len();
    serde_json::to_writer(&mut *out, body)?;
    debug_assert_eq!(out[joint], b'{', "the body is an object");
    if out[joint + 1] == b'}' {
        out.truncate(joint);
        out.push(b'}');
    } else {
        out[joint] = b',';
    }
    Ok(())
}

/// Refuses nesting beyond [`MAX_DEPTH`], also inside what is ignored or kept as raw text.
fn check_depth(text: &str) -> Result<(), JsonError> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = text.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // Outside strings it is an error, which the reader finds.
            b'\\' => {
                bytes.next();
            }
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(JsonError::TooDeep { at });
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn nesting_is_capped_in_raw_and_ignored_values_too() {
        assert!(from_str::<RawJson>(&nested(MAX_DEPTH)).is_ok());
        let error = from_str::<RawJson>(&nested(MAX_DEPTH + 1)).unwrap_err();
        assert!(matches!(error, JsonError::TooDeep { at } if at == MAX_DEPTH), "{error}");
        let ignored = format!("{{\"a\":{}}}", nested(1_000_000));
        assert!(matches!(from_str::<serde::de::IgnoredAny>(&ignored), Err(JsonError::TooDeep { .. })));
        // Brackets in strings do not count, escaped quotes do not end a string.
        let text = format!(r#"{{"\"{}":"\\"}}"#, "[".repeat(500));
        assert!(from_str::<BTreeMap<String, String>>(&text).is_ok());
        let text = format!("[{}{}]", r#""]]]]","#.repeat(50), nested(MAX_DEPTH));
        assert!(matches!(from_str::<RawJson>(&text), Err(JsonError::TooDeep { .. })));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_named() {
        let error = from_slice::<RawJson>(b"{\"a\":\"\xff\"}").unwrap_err();
        assert!(matches!(error, JsonError::NotUtf8 { at: 6 }), "{error}");
    }

    #[test]
    fn white_space_may_follow_but_nothing_else() {
        assert!(from_slice::<RawJson>(b"{} \r\n\t\n").is_ok());
        for bad in [&b"{}x"[..], b"{}{}", b"{}\0", b"", b" ", b"{"] {
            assert!(from_slice::<RawJson>(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn merged_objects_have_the_members_of_both() {
        let base = BTreeMap::from([("a", 1)]);
        for (body, merged) in [
            (BTreeMap::new(), r#"x{"a":1}"#),
            (BTreeMap::from([("b", 2)]), r#"x{"a":1,"b":2}"#),
            (BTreeMap::from([("b", 2), ("c", 3)]), r#"x{"a":1,"b":2,"c":3}"#),
        ] {
            let mut out = b"x".to_vec();
            write_merged(&mut out, &base, &body).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), merged);
        }
    }
}
