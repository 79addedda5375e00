//! How a guest says that a call failed, and how a host reads it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::header::MessageType;
use crate::hresult::Hresult;
use crate::json::cut_text;
use crate::object::is_empty;

/// One entry of `ErrorRecords`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorRecord {
    /// The same code as that of the response.
    #[serde(rename = "Result")]
    pub result: Hresult,
    /// The same text as that of the response.
    #[serde(rename = "Message")]
    pub message: String,
    /// The stack at the failure, one frame in two lines. Left out when empty.
    #[serde(rename = "StackTrace", skip_serializing_if = "is_empty")]
    pub stack_trace: String,
    /// What failed: `gcs`, the agent.
    #[serde(rename = "ModuleName")]
    pub module_name: String,
    /// The source file, or empty.
    #[serde(rename = "FileName")]
    pub file_name: String,
    /// The line in it; [`UNKNOWN_LINE`](Self::UNKNOWN_LINE) without one.
    #[serde(rename = "Line")]
    pub line: u32,
    /// The function. Left out when empty.
    #[serde(rename = "FunctionName", skip_serializing_if = "is_empty")]
    pub function_name: String,
}

impl ErrorRecord {
    /// The `ModuleName` of every record an agent writes.
    pub const MODULE: &str = "gcs";
    /// The `Line` of a record that knows no line.
    pub const UNKNOWN_LINE: u32 = u32::MAX;
}

/// A failed call: the result code, a text for people, and the agent's records of it.
///
/// An agent makes one with [`code`](Self::code), [`wrapping`](Self::wrapping) or [`plain`](Self::plain), which also write
/// the one record that the original sends. Texts beyond [`MAX_TEXT`](Self::MAX_TEXT) are cut there and then, since the
/// cause may quote a request of any size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// Why the call failed. Never 0.
    pub result: Hresult,
    /// The text for people, possibly empty.
    pub message: String,
    /// The agent's records. The original writes exactly one.
    pub records: Vec<ErrorRecord>,
    /// An extension of ours: the errno behind the failure, as `ENOENT` (2) for a program that is not there. Agents send
    /// it in answers to `ExecuteProcess` once they have announced
    /// [`exit_detail`](crate::negotiate::GuestDefinedCapabilities::exit_detail).
    pub errno: Option<i32>,
}

impl Failure {
    /// The longest message, in bytes inside a JSON string. It is sent twice.
    pub const MAX_TEXT: usize = 8 * 1024;

    /// A failure that only has a code: `HRESULT: 0x80070490`.
    pub fn code(result: Hresult) -> Self {
        Self::new(result, format!("HRESULT: {result}"))
    }

    /// A code that wraps a cause: `HRESULT 0xc037010d: <cause>`.
    pub fn wrapping(result: Hresult, cause: impl fmt::Display) -> Self {
        Self::new(result, format!("HRESULT {result}: {cause}"))
    }

    /// A cause without a code of its own; it gets [`Hresult::FAIL`].
    pub fn plain(cause: impl fmt::Display) -> Self {
        Self::new(Hresult::FAIL, cause.to_string())
    }

    /// The answer to a message that is unknown, or not valid at this time.
    pub fn not_implemented(message_type: MessageType) -> Self {
        Self::wrapping(Hresult::NOT_IMPLEMENTED, format_args!("{message_type}: not supported here"))
    }

    /// The same failure with the errno behind it.
    #[must_use]
    pub fn with_errno(self, errno: i32) -> Self {
        Self { errno: Some(errno), ..self }
    }

    fn new(result: Hresult, mut message: String) -> Self {
        cut_text(&mut message, Self::MAX_TEXT);
        let record = ErrorRecord {
            result,
            message: message.clone(),
            module_name: ErrorRecord::MODULE.to_owned(),
            line: ErrorRecord::UNKNOWN_LINE,
            ..ErrorRecord::default()
        };
        Self { result, message, records: vec![record], errno: None }
    }

    /// Gives up one thing, what matters least first; `false` when there is nothing left to give up.
    pub(crate) fn shrink(&mut self) -> bool {
        if self.records.len() > 1 {
            self.records.truncate(1);
            return true;
        }
        if let Some(record) = self.records.first_mut() {
            if !record.stack_trace.is_empty() {
                record.stack_trace.clear();
                return true;
            }
            if cut_text(&mut record.message, Self::MAX_TEXT) {
                return true;
            }
        }
        cut_text(&mut self.message, Self::MAX_TEXT)
    }
}

/// The guest's words, or the meaning of the code when it gave none.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("guest RPC failure: ")?;
        match (self.message.as_str(), self.result.meaning()) {
            ("", Some(meaning)) => write!(f, "{meaning} ({})", self.result),
            ("", None) => write!(f, "{}", self.result),
            (message, _) => f.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::escaped_len;

    #[test]
    fn texts_are_built_by_the_rules_of_the_protocol() {
        let code = Failure::code(Hresult::SYSTEM_NOT_FOUND);
        assert_eq!(code.message, "HRESULT: 0xc037010e");
        let wrapping = Failure::wrapping(Hresult::INVALID_JSON, "unexpected end");
        assert_eq!(wrapping.message, "HRESULT 0xc037010d: unexpected end");
        let plain = Failure::plain("exit status 255");
        assert_eq!((plain.result, plain.message.as_str()), (Hresult::FAIL, "exit status 255"));
        for failure in [code, wrapping, plain] {
            let [record] = &failure.records[..] else { panic!("one record, not {:?}", failure.records) };
            assert_eq!((record.result, &record.message), (failure.result, &failure.message));
            assert_eq!((record.module_name.as_str(), record.file_name.as_str(), record.line), ("gcs", "", u32::MAX));
        }
    }

    #[test]
    fn a_cause_of_any_size_gives_a_message_of_bounded_size() {
        let failure = Failure::wrapping(Hresult::INVALID_JSON, "\u{0}".repeat(1 << 20));
        assert!(escaped_len(&failure.message) <= Failure::MAX_TEXT);
        assert!(failure.message.ends_with(" more bytes]"), "{}", failure.message);
        assert_eq!(failure.records[0].message, failure.message);
        let ordinary = "x".repeat(8_000);
        assert_eq!(Failure::plain(&ordinary).message, ordinary);
    }

    #[test]
    fn what_matters_least_is_given_up_first() {
        let long = "x".repeat(20_000);
        let record = ErrorRecord { message: long.clone(), stack_trace: "frame".into(), ..ErrorRecord::default() };
        let mut failure = Failure { message: long.clone(), ..Failure::code(Hresult::TIMEOUT) };
        failure.records = vec![record.clone(), record];
        let mut seen = Vec::new();
        while failure.shrink() {
            let [record] = &failure.records[..] else { panic!("the other records go first") };
            seen.push((record.stack_trace.is_empty(), record.message == long, failure.message == long));
        }
        assert_eq!(seen, [(false, true, true), (true, true, true), (true, false, true), (true, false, false)]);
        assert_eq!(failure.result, Hresult::TIMEOUT);
    }

    #[test]
    fn people_read_the_message_or_else_the_code() {
        let mut failure = Failure::plain("no such file");
        assert_eq!(failure.to_string(), "guest RPC failure: no such file");
        failure.message.clear();
        failure.result = Hresult::SYSTEM_NOT_FOUND;
        assert_eq!(failure.to_string(), "guest RPC failure: no container has this id (0xc037010e)");
        failure.result = Hresult::from_bits(0x8007_0005);
        assert_eq!(failure.to_string(), "guest RPC failure: 0x80070005");
    }
}
