//! JSON inside strings: the fields that are encoded twice.
//!
//! For `#[serde(with = "text")]` on a field that must be there, and `#[serde(with = "text::optional")]` on one for which
//! an empty string, `null` or no key at all mean the same.

use std::fmt;
use std::marker::PhantomData;

use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::from_str;

pub(crate) fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&serde_json::to_string(value).map_err(S::Error::custom)?)
}

pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: for<'text> Deserialize<'text>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(Text(PhantomData))
}

/// See the module.
pub(crate) mod optional {
    use super::{Deserialize, Deserializer, MaybeText, PhantomData, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "the signature that serde's `with` calls")]
    pub(crate) fn serialize<T: Serialize, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
    where
        T: for<'text> Deserialize<'text>,
        D: Deserializer<'de>,
    {
        deserializer.deserialize_str(MaybeText(PhantomData))
    }
}

struct Text<T>(PhantomData<T>);

impl<T: for<'text> Deserialize<'text>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string that holds a JSON text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        from_str(text).map_err(|error| E::custom(format_args!("in the JSON text: {error}")))
    }
}

struct MaybeText<T>(PhantomData<T>);

impl<T: for<'text> Deserialize<'text>> de::Visitor<'_> for MaybeText<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an empty string, or one that holds a JSON text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
        if text.is_empty() { Ok(None) } else { Text(PhantomData).visit_str(text).map(Some) }
    }
}
