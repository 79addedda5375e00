//! Trace context: which span of the host a request belongs to.
//!
//! A host sends one of the two forms or none; an agent that traces nothing reads past them. A context that makes no sense
//! is dropped, never a reason to refuse a call.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::guid::hex_digit;
use crate::json::from_str;
use crate::object::{Word, is_empty, omitting_object};

/// The `ocsc` of hosts of January 2021: an `OpenCensus` span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCensusSpan {
    /// The trace.
    #[serde(rename = "TraceID")]
    pub trace_id: HexId<16>,
    /// The span in it.
    #[serde(rename = "SpanID")]
    pub span_id: HexId<8>,
    /// Bit 0: sampled. Left out when 0.
    #[serde(rename = "TraceOptions", default, skip_serializing_if = "is_empty")]
    pub trace_options: u32,
    /// Base64 of the JSON array of `{"Key","Value"}` entries, carried as it is. Left out when empty.
    #[serde(rename = "Tracestate", default, skip_serializing_if = "is_empty")]
    pub tracestate: String,
}

omitting_object! {
    /// The `otsc` of newer hosts (2026-07): the W3C propagation headers, as `OpenTelemetry` writes them.
    pub struct W3cTraceContext {
        /// `baggage`. Left out when empty.
        pub baggage: String = "baggage",
        /// `traceparent`. Left out when empty.
        pub traceparent: String = "traceparent",
        /// `tracestate`. Left out when empty.
        pub tracestate: String = "tracestate",
    }
}

/// An identifier of `N` bytes, written as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HexId<const N: usize>(pub [u8; N]);

impl<const N: usize> HexId<N> {
    fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        if text.len() != 2 * N {
            return None;
        }
        let mut bytes = [0; N];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl<const N: usize> fmt::Display for HexId<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for HexId<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<const N: usize> Serialize for HexId<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for HexId<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Word(text) = Word::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format_args!("{} hex digits are needed", 2 * N)))
    }
}

/// Reads a trace context, or nothing where none of this type can be read.
pub(crate) fn deserialize_lossy<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: for<'text> Deserialize<'text>,
    D: Deserializer<'de>,
{
    let raw = Option::<&RawValue>::deserialize(deserializer)?;
    Ok(raw.and_then(|raw| from_str(raw.get()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Carrier {
        #[serde(default, deserialize_with = "deserialize_lossy")]
        ocsc: Option<OpenCensusSpan>,
    }

    #[test]
    fn a_recorded_span_is_read_and_written_as_it_was() {
        let text = r#"{"TraceID":"84de69d06e539158e12ff533190075fe","SpanID":"183af8e69b78e47e"}"#;
        let span = from_str::<Carrier>(&format!(r#"{{"ocsc":{text}}}"#)).unwrap().ocsc.unwrap();
        assert_eq!(span.span_id, HexId([0x18, 0x3a, 0xf8, 0xe6, 0x9b, 0x78, 0xe4, 0x7e]));
        assert_eq!(serde_json::to_string(&span).unwrap(), text);
    }

    #[test]
    fn a_span_that_makes_no_sense_is_dropped() {
        for text in [
            "null",
            "{}",
            "7",
            r#"{"TraceID":1,"SpanID":2}"#,
            r#"{"TraceID":"84de69d06e539158e12ff533190075f","SpanID":"183af8e69b78e47e"}"#,
            r#"{"TraceID":"84de69d06e539158e12ff533190075fg","SpanID":"183af8e69b78e47e"}"#,
            r#"{"TraceID":"84de69d06e539158e12ff533190075fe","SpanID":"183af8e69b78e4éé"}"#,
        ] {
            assert_eq!(from_str::<Carrier>(&format!(r#"{{"ocsc":{text}}}"#)).unwrap().ocsc, None, "{text}");
        }
    }
}
