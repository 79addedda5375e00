//! JSON that is passed on as it is.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{JsonError, from_str};

/// One JSON value, checked for syntax and nesting, kept as the text it came as.
///
/// Carries what this crate does not look into: an OCI specification, settings of an unknown resource.
#[derive(Clone)]
pub struct RawJson(Box<RawValue>);

impl RawJson {
    /// Checks that `text` is one JSON value.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        from_str(text)
    }

    /// Keeps a part of a text that has been checked as a whole.
    pub(crate) fn from_checked(part: &RawValue) -> Self {
        Self(part.to_owned())
    }

    /// Writes `value` as JSON.
    pub fn of(value: &impl Serialize) -> Result<Self, JsonError> {
        Self::parse(&serde_json::to_string(value)?)
    }

    /// The text. Read it with `serde_json::from_str`.
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

/// By text: `{"a":1}` and `{ "a": 1 }` differ.
impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for RawJson {}

impl fmt::Debug for RawJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl Serialize for RawJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RawJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self)
    }
}
