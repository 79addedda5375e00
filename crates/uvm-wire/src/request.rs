//! Requests: written by a host, read by a guest.

use serde::{Deserialize, Deserializer, Serialize};

use crate::call::{Call, Rpc};
use crate::encode::{EncodeError, Writer, encode};
use crate::failure::Failure;
use crate::frame::SizeLimit;
use crate::guid::Guid;
use crate::header::MessageType;
use crate::hresult::Hresult;
use crate::ids::ContainerId;
use crate::json::{JsonError, check, from_checked};
use crate::object::{Word, is_empty};
use crate::trace::{OpenCensusSpan, W3cTraceContext, deserialize_lossy};

/// What every request begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestBase {
    /// Whom the request is for.
    #[serde(rename = "ContainerId")]
    pub container_id: ContainerId,
    /// Tells related messages in logs; the answer repeats it. A host of ours always sends one. A guest reads anything but
    /// a GUID as none, since a host may end the connection over an answer that repeats it.
    #[serde(rename = "ActivityId", skip_serializing_if = "is_empty", deserialize_with = "guid_or_none")]
    pub activity_id: Option<Guid>,
    /// The host's span, in the form of January 2021.
    #[serde(rename = "ocsc", skip_serializing_if = "is_empty", deserialize_with = "deserialize_lossy")]
    pub open_census: Option<OpenCensusSpan>,
    /// The host's span, in the newer form (2026-07).
    #[serde(rename = "otsc", skip_serializing_if = "is_empty", deserialize_with = "deserialize_lossy")]
    pub w3c: Option<W3cTraceContext>,
}

impl RequestBase {
    /// A base with the activity id of zeros, as the original's host sends it, and no trace context.
    pub fn new(container_id: ContainerId) -> Self {
        Self { container_id, activity_id: Some(Guid::ZERO), ..Self::default() }
    }
}

fn guid_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Guid>, D::Error> {
    Word::deserialize(deserializer).map(|Word(text)| text.parse().ok())
}

/// A request, as a guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it has in common with all requests.
    pub base: RequestBase,
    /// What is to be done.
    pub call: Call,
}

impl Request {
    /// Writes its frame, as [`encode_request`] does.
    ///
    /// # Errors
    /// [`EncodeError`]: it is larger than the guest would take.
    pub fn encode(&self, id: u64, limit: SizeLimit) -> Result<Vec<u8>, EncodeError> {
        self.call.encode(id, &self.base, limit)
    }
}

/// Writes the frame of a request.
///
/// # Errors
/// [`EncodeError`]: it is larger than the guest would take. Nothing else is affected; only this call fails.
pub fn encode_request<R: Rpc>(id: u64, base: &RequestBase, call: &R, limit: SizeLimit) -> Result<Vec<u8>, EncodeError> {
    encode(Writer::Host, limit, R::MESSAGE_TYPE, id, base, call)
}

/// Reads a request from a frame's type and payload.
///
/// First ask [`is_served`](crate::negotiate::is_served) whether the type is served at this time, and if it is not, answer
/// with [`RequestError::not_served`].
///
/// # Errors
/// [`RequestError`], which holds all that is needed to answer it: see [`RequestError::failure`].
pub fn decode_request(message_type: MessageType, payload: &[u8]) -> Result<Request, RequestError> {
    let Some(read_call) = Call::reader(message_type) else {
        return Err(RequestError::not_served(message_type, payload));
    };
    // The common keys by themselves, so that a body of the wrong shape can still be answered under its activity id.
    let checked = check(payload).and_then(|text| Ok((text, from_checked::<RequestBase>(text)?)));
    if message_type == MessageType::DUMP_STACKS {
        // Its body is not looked at, so that anything can ask an agent in trouble.
        let base = checked.map(|(_, base)| base).unwrap_or_default();
        return Ok(Request { base, call: Call::DumpStacks(Box::default()) });
    }
    let activity_id = checked.as_ref().ok().and_then(|(_, base)| base.activity_id);
    checked
        .and_then(|(text, base)| Ok(Request { base, call: read_call(text)? }))
        .map_err(|source| RequestError::Malformed { message_type, activity_id, excerpt: excerpt(payload), source })
}

/// A request that cannot be served, with all it takes to answer it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No guest serves messages of this type, or not in this state of the connection.
    #[error("{message_type} is not served here")]
    NotServed {
        /// What the header says the message is.
        message_type: MessageType,
        /// The activity id to answer under.
        activity_id: Option<Guid>,
    },
    /// It does not decode.
    #[error("{message_type} does not decode, it begins {excerpt:?}")]
    Malformed {
        /// What the header says the message is.
        message_type: MessageType,
        /// The activity id to answer under: none when not even that much could be read.
        activity_id: Option<Guid>,
        /// How it begins.
        excerpt: String,
        /// What is wrong with it.
        source: JsonError,
    },
}

impl RequestError {
    /// Refuses a request that [`is_served`](crate::negotiate::is_served) denies; only its activity id is read.
    pub fn not_served(message_type: MessageType, payload: &[u8]) -> Self {
        let base = check(payload).and_then(from_checked::<RequestBase>);
        Self::NotServed { message_type, activity_id: base.ok().and_then(|base| base.activity_id) }
    }

    /// What the header says the message is.
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::NotServed { message_type, .. } | Self::Malformed { message_type, .. } => *message_type,
        }
    }

    /// The activity id to answer under.
    pub const fn activity_id(&self) -> Option<Guid> {
        match self {
            Self::NotServed { activity_id, .. } | Self::Malformed { activity_id, .. } => *activity_id,
        }
    }

    /// The failure to answer with: [`Hresult::NOT_IMPLEMENTED`] or [`Hresult::INVALID_JSON`].
    ///
    /// Unlike the original it quotes only the beginning of the request: an answer that quotes a large one in full would
    /// be over the host's limit and end the connection instead of failing one call.
    pub fn failure(&self) -> Failure {
        match self {
            Self::NotServed { message_type, .. } => Failure::not_implemented(*message_type),
            Self::Malformed { source, .. } => {
                Failure::wrapping(Hresult::INVALID_JSON, format_args!("{self}: {source}"))
            }
        }
    }
}

/// The beginning of a payload, for people.
fn excerpt(payload: &[u8]) -> String {
    const LONGEST: usize = 256;
    match payload.split_at_checked(LONGEST) {
        Some((begin, rest)) if !rest.is_empty() => {
            format!("{}[... {} more bytes]", String::from_utf8_lossy(begin), rest.len())
        }
        _ => String::from_utf8_lossy(payload).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Start;

    const ZERO: &str = r#""ActivityId":"00000000-0000-0000-0000-000000000000""#;

    fn refuse(message_type: MessageType, payload: &str) -> RequestError {
        decode_request(message_type, payload.as_bytes()).expect_err(payload)
    }

    #[test]
    fn what_is_not_known_is_refused_under_its_activity() {
        for bits in [0x1010_0f01, 0x1020_0101, 0x3010_0101, 0x1010_0102, 0x2010_0101, 0, u32::MAX] {
            let error = refuse(MessageType::from_bits(bits), &format!("{{{ZERO}}}"));
            assert!(matches!(error, RequestError::NotServed { .. }), "{error}");
            assert_eq!(error.activity_id(), Some(Guid::ZERO));
            assert_eq!(error.failure().result, Hresult::NOT_IMPLEMENTED);
            // Whatever the body: nobody would read it.
            for garbage in ["", "{", r#"{"ContainerId":7}"#] {
                let error = refuse(MessageType::from_bits(bits), garbage);
                assert!(matches!(error, RequestError::NotServed { activity_id: None, .. }), "{error}");
            }
        }
    }

    #[test]
    fn what_is_not_served_at_this_time_is_refused_whatever_its_body() {
        for (payload, activity_id) in [("", None), (&*format!("{{{ZERO},\"ProcessId\":[]}}"), Some(Guid::ZERO))] {
            let error = RequestError::not_served(MessageType::WAIT_FOR_PROCESS, payload.as_bytes());
            assert_eq!(error.activity_id(), activity_id);
            assert_eq!(error.failure().result, Hresult::NOT_IMPLEMENTED);
        }
    }

    #[test]
    fn a_body_of_the_wrong_shape_is_refused_under_its_activity() {
        for (message_type, body) in [
            (MessageType::WAIT_FOR_PROCESS, r#","ProcessId":"1""#),
            (MessageType::CREATE, ""),
            (MessageType::CREATE, r#","ContainerConfig":"""#),
            (MessageType::CREATE, r#","ContainerConfig":"{""#),
            (MessageType::MODIFY_SETTINGS, ""),
            (MessageType::MODIFY_SETTINGS, r#","Request":{"ResourceType":"Network","Settings":[]}"#),
        ] {
            let error = refuse(message_type, &format!("{{{ZERO}{body}}}"));
            assert_eq!(error.activity_id(), Some(Guid::ZERO), "{error}");
            assert_eq!(error.failure().result, Hresult::INVALID_JSON);
            assert_eq!(error.message_type(), message_type);
        }
    }

    #[test]
    fn what_is_no_json_is_refused_without_an_activity() {
        for bad in ["", "{", "[]", "7", &format!("{{{ZERO}"), &format!("{{{ZERO},\"ContainerId\":7}}")] {
            let error = refuse(MessageType::START, bad);
            assert_eq!(error.activity_id(), None, "{bad}");
            assert_eq!(error.failure().result, Hresult::INVALID_JSON);
        }
    }

    #[test]
    fn an_activity_that_is_no_guid_is_not_repeated() {
        for bad in [r#""""#, r#""abc""#, "null"] {
            let request = decode_request(MessageType::START, format!(r#"{{"ActivityId":{bad}}}"#).as_bytes()).unwrap();
            assert_eq!(request.base.activity_id, None);
        }
    }

    #[test]
    fn stacks_can_be_asked_for_by_anything() {
        for (payload, activity_id) in [("", None), ("{", None), (&*format!("{{{ZERO}}}"), Some(Guid::ZERO))] {
            let request = decode_request(MessageType::DUMP_STACKS, payload.as_bytes()).unwrap();
            assert_eq!(request.base.activity_id, activity_id);
            assert_eq!(request.call.message_type(), MessageType::DUMP_STACKS);
        }
    }

    #[test]
    fn trace_context_never_refuses_a_call() {
        let payload = r#"{"ContainerId":"c","ocsc":{"TraceID":7},"otsc":["x"]}"#;
        let request = decode_request(MessageType::START, payload.as_bytes()).unwrap();
        assert_eq!(request.base, RequestBase { container_id: "c".into(), ..RequestBase::default() });
        let payload = r#"{"otsc":{"traceparent":"00-1-2-01","other":"x"}}"#;
        let w3c = decode_request(MessageType::START, payload.as_bytes()).unwrap().base.w3c.unwrap();
        assert_eq!(w3c, W3cTraceContext { traceparent: "00-1-2-01".into(), ..W3cTraceContext::default() });
    }

    #[test]
    fn a_huge_request_is_quoted_only_where_it_begins() {
        let huge = format!(r#"{{"ContainerId":"c","ContainerConfig":"{}"}}"#, r"\u0001".repeat(1 << 18));
        let failure = refuse(MessageType::CREATE, &huge).failure();
        assert!(failure.message.starts_with("HRESULT 0xc037010d: Create request does not decode, it begins"));
        assert!(failure.message.contains("more bytes]"), "{}", failure.message);
        assert!(crate::json::escaped_len(&failure.message) < 2048, "{}", failure.message.len());
        // Also where the cause itself quotes a string of any length.
        let huge = format!(r#"{{"ProcessId":"{}"}}"#, "x".repeat(1 << 20));
        let failure = refuse(MessageType::WAIT_FOR_PROCESS, &huge).failure();
        assert!(crate::json::escaped_len(&failure.message) <= Failure::MAX_TEXT);
    }

    /// D74: the original checks only what it receives.
    #[test]
    fn a_request_over_the_limit_is_not_written() {
        let of_size = |size: usize| RequestBase::new("x".repeat(size - 87).into());
        let limit = SizeLimit::FROM_GUEST;
        let largest = encode_request(1, &of_size(limit.bytes()), &Start {}, limit).unwrap();
        assert_eq!(largest.len(), 65_536);
        let error = encode_request(1, &of_size(limit.bytes() + 1), &Start {}, limit).unwrap_err();
        assert_eq!(error.to_string(), "Start request takes 65537 bytes, but at most 65536 may be sent");
        assert!(encode_request(1, &of_size(limit.bytes() + 1), &Start {}, SizeLimit::FROM_HOST).is_ok());
    }
}
