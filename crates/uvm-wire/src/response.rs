//! Responses: written by a guest, read by a host.

use serde::{Deserialize, Serialize};

use crate::call::{Done, Reply, Rpc};
use crate::encode::{EncodeError, Writer, encode};
use crate::failure::{ErrorRecord, Failure};
use crate::frame::SizeLimit;
use crate::guid::Guid;
use crate::header::MessageType;
use crate::hresult::Hresult;
use crate::json::{JsonError, check, from_checked};
use crate::object::is_empty;

/// A response, as a host gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response<T> {
    /// The activity id of the request, if it had one and the guest could read it.
    pub activity_id: Option<Guid>,
    /// What came of the call.
    pub outcome: Result<T, Failure>,
}

/// Reads the response to a call of type `R` from a frame's type and payload.
///
/// # Errors
/// [`ResponseError`]: the response does not keep to the protocol. That the call failed is no error here, but the
/// [`outcome`](Response::outcome).
pub fn decode_response<R: Rpc>(message_type: MessageType, payload: &[u8]) -> Result<Response<R::Reply>, ResponseError> {
    let expected = R::MESSAGE_TYPE.response();
    if message_type != expected {
        return Err(ResponseError::WrongType { expected, got: message_type });
    }
    read(payload).map_err(|source| ResponseError::Malformed { message_type, source })
}

fn read<T: Reply>(payload: &[u8]) -> Result<Response<T>, JsonError> {
    let text = check(payload)?;
    let ReadBase { result, activity_id, message, records, errno } = from_checked(text)?;
    let outcome =
        if result == Hresult::OK { Ok(from_checked(text)?) } else { Err(Failure { result, message, records, errno }) };
    Ok(Response { activity_id, outcome })
}

/// Writes the frame of the response to a call of type `R`. It always fits what a host takes: a reply that does not gets
/// [shorter](Reply::shrink), and one that cannot becomes a failure that says so.
pub fn encode_response<R: Rpc>(id: u64, activity_id: Option<Guid>, outcome: Result<R::Reply, Failure>) -> Vec<u8> {
    fit(R::MESSAGE_TYPE.response(), id, activity_id, outcome)
}

/// Writes the frame of the response to a request of any type that failed. It always fits what a host takes.
pub fn encode_failure(request_type: MessageType, id: u64, activity_id: Option<Guid>, failure: Failure) -> Vec<u8> {
    fit::<Done>(request_type.response(), id, activity_id, Err(failure))
}

fn fit<T: Reply>(
    message_type: MessageType,
    id: u64,
    activity_id: Option<Guid>,
    mut outcome: Result<T, Failure>,
) -> Vec<u8> {
    loop {
        let limit = SizeLimit::FROM_GUEST;
        let attempt = match &outcome {
            Ok(reply) => encode(Writer::Guest, limit, message_type, id, &WrittenBase::succeeded(activity_id), reply),
            Err(failure) => {
                encode(Writer::Guest, limit, message_type, id, &WrittenBase::failed(activity_id, failure), &Done {})
            }
        };
        let error = match attempt {
            Ok(bytes) => return bytes,
            Err(error) => error,
        };
        let shrunk = match (&error, &mut outcome) {
            (EncodeError::TooLarge { size, limit, .. }, Ok(reply)) => reply.shrink(size - limit),
            (EncodeError::TooLarge { .. }, Err(failure)) => failure.shrink(),
            (EncodeError::Json { .. }, _) => false,
        };
        if !shrunk {
            // A short text and a few numbers: this fits, so the loop ends.
            outcome = Err(Failure::plain(error));
        }
    }
}

/// What every response begins with, as it is read.
#[derive(Deserialize)]
struct ReadBase {
    #[serde(rename = "Result")]
    result: Hresult,
    #[serde(rename = "ActivityId", default)]
    activity_id: Option<Guid>,
    #[serde(rename = "ErrorMessage", default)]
    message: String,
    #[serde(rename = "ErrorRecords", default)]
    records: Vec<ErrorRecord>,
    #[serde(rename = "Errno", default)]
    errno: Option<i32>,
}

/// What every response begins with, as it is written.
#[derive(Serialize)]
struct WrittenBase<'a> {
    #[serde(rename = "Result")]
    result: Hresult,
    #[serde(rename = "ActivityId", skip_serializing_if = "is_empty")]
    activity_id: Option<Guid>,
    #[serde(rename = "ErrorMessage", skip_serializing_if = "is_empty")]
    message: &'a str,
    #[serde(rename = "ErrorRecords", skip_serializing_if = "is_empty")]
    records: &'a [ErrorRecord],
    #[serde(rename = "Errno", skip_serializing_if = "is_empty")]
    errno: Option<i32>,
}

impl<'a> WrittenBase<'a> {
    const fn succeeded(activity_id: Option<Guid>) -> Self {
        Self { result: Hresult::OK, activity_id, message: "", records: &[], errno: None }
    }

    fn failed(activity_id: Option<Guid>, failure: &'a Failure) -> Self {
        // A failure with the code of success must not reach the host as one.
        let result = if failure.result == Hresult::OK { Hresult::FAIL } else { failure.result };
        Self { result, activity_id, message: &failure.message, records: &failure.records, errno: failure.errno }
    }
}

/// A response that does not keep to the protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// It answers another call than the one that has its id.
    #[error("the guest sent {got} where {expected} was due")]
    WrongType {
        /// The type that answers the call.
        expected: MessageType,
        /// The type that came.
        got: MessageType,
    },
    /// It does not decode.
    #[error("{message_type} does not decode")]
    Malformed {
        /// What the header says the message is.
        message_type: MessageType,
        /// What is wrong with it.
        source: JsonError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::{ExecuteProcess, ExecuteProcessReply};
    use crate::header::Header;
    use crate::json::RawJson;
    use crate::metrics::{Cpu, CpuUsage, Metrics};
    use crate::process::{WaitForProcess, WaitForProcessReply};
    use crate::properties::{GetProperties, GetPropertiesReply, LinuxProperties, ProcessDetails};
    use crate::system::{DumpStacks, DumpStacksReply, Start};

    fn decode<R: Rpc>(payload: &str) -> Result<Response<R::Reply>, ResponseError> {
        decode_response::<R>(R::MESSAGE_TYPE.response(), payload.as_bytes())
    }

    /// The response as the host gets it, once it has been seen that it takes it at all.
    fn arrive<R: Rpc>(frame: &[u8]) -> Result<R::Reply, Failure> {
        assert!(frame.len() <= 0x1_0000, "{}", frame.len());
        let header = Header::from_bytes(frame.first_chunk().unwrap());
        assert_eq!(header.size as usize, frame.len());
        decode_response::<R>(header.message_type, &frame[Header::LEN..]).unwrap().outcome
    }

    fn text(frame: &[u8]) -> &str {
        std::str::from_utf8(&frame[Header::LEN..]).unwrap()
    }

    #[test]
    fn the_documented_failure_is_written_byte_for_byte() {
        let failure = Failure::code(Hresult::SYSTEM_NOT_FOUND);
        let frame = encode_response::<Start>(3, Some(Guid::ZERO), Err(failure.clone()));
        let expected = concat!(
            r#"{"Result":-1070137074,"ActivityId":"00000000-0000-0000-0000-000000000000","ErrorMessage":"HRESULT: 0xc037010e","#,
            r#""ErrorRecords":[{"Result":-1070137074,"Message":"HRESULT: 0xc037010e","ModuleName":"gcs","FileName":"","Line":4294967295}]}"#,
        );
        assert_eq!(text(&frame), expected);
        assert_eq!(frame.len(), 250);
        assert_eq!(frame, encode_failure(MessageType::START, 3, Some(Guid::ZERO), failure.clone()));
        assert_eq!(arrive::<Start>(&frame), Err(failure));
    }

    #[test]
    fn our_own_keys_are_left_out_unless_there_is_something_to_say() {
        let plain = WaitForProcessReply { exit_code: 3, signal: None };
        assert_eq!(text(&encode_response::<WaitForProcess>(1, None, Ok(plain))), r#"{"Result":0,"ExitCode":3}"#);
        let killed = WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, signal: Some(9) };
        let frame = encode_response::<WaitForProcess>(1, None, Ok(killed));
        assert_eq!(text(&frame), r#"{"Result":0,"ExitCode":4294967295,"Signal":9}"#);
        assert_eq!(arrive::<WaitForProcess>(&frame), Ok(killed));
        let missing = Failure::plain("no such program").with_errno(2);
        let frame = encode_response::<ExecuteProcess>(1, None, Err(missing.clone()));
        assert!(text(&frame).ends_with(r#","Errno":2}"#), "{}", text(&frame));
        assert_eq!(arrive::<ExecuteProcess>(&frame), Err(missing));
    }

    #[test]
    fn an_activity_is_absent_or_a_guid() {
        for (activity, accepted) in [
            ("", true),
            (r#","ActivityId":null"#, true),
            (r#","ActivityId":"00000000-0000-0000-0000-000000000000""#, true),
            (r#","ActivityId":"""#, false),
            (r#","ActivityId":"0000""#, false),
            (r#","ActivityId":7"#, false),
        ] {
            assert_eq!(decode::<Start>(&format!(r#"{{"Result":0{activity}}}"#)).is_ok(), accepted, "{activity}");
        }
    }

    #[test]
    fn a_success_must_carry_what_was_asked_for_and_a_failure_need_not() {
        assert!(decode::<ExecuteProcess>(r#"{"Result":0}"#).is_err());
        assert!(decode::<WaitForProcess>(r#"{"Result":0}"#).is_err());
        assert!(decode::<GetProperties>(r#"{"Result":0,"Properties":""}"#).is_err());
        assert!(decode::<Start>("{}").is_err());
        assert!(decode::<Start>(r#"{"Result":2147483648}"#).is_err());
        let failed = decode::<ExecuteProcess>(r#"{"Result":-1,"ProcessId":"x","Novel":[]}"#).unwrap().outcome;
        assert_eq!(failed.unwrap_err().result, Hresult::from_bits(u32::MAX));
        let ok =
            decode::<ExecuteProcess>(r#"{"Result":0,"ErrorMessage":"","ErrorRecords":null,"processid":7}"#).unwrap();
        assert_eq!(ok.outcome, Ok(ExecuteProcessReply { process_id: 7 }));
    }

    #[test]
    fn an_answer_to_another_call_is_refused() {
        let error = decode_response::<Start>(MessageType::CREATE.response(), br#"{"Result":0}"#).unwrap_err();
        assert_eq!(error.to_string(), "the guest sent Create response where Start response was due");
    }

    #[test]
    fn a_failure_is_never_taken_for_success() {
        let failure = Failure { result: Hresult::OK, ..Failure::plain("x") };
        let frame = encode_response::<Start>(1, None, Err(failure));
        assert_eq!(arrive::<Start>(&frame).unwrap_err().result, Hresult::FAIL);
    }

    #[test]
    fn stacks_of_any_size_arrive_cut_where_the_response_is_full() {
        for (unit, count) in [("x", 65_000), ("x", 70_000), ("\n\t", 65_536), ("\u{1}ä\u{1f600}", 1 << 20)] {
            let guest_stacks = unit.repeat(count);
            let frame = encode_response::<DumpStacks>(1, Some(Guid::ZERO), Ok(DumpStacksReply { guest_stacks }));
            let got = arrive::<DumpStacks>(&frame).unwrap().guest_stacks;
            if unit.len() * count > 65_000 {
                assert!(got.starts_with(unit) && got.ends_with(" more bytes]"), "{}", &got[got.len() - 30..]);
                assert!(frame.len() > 65_500, "{} bytes, room was left", frame.len());
            } else {
                assert_eq!(got, unit.repeat(count));
            }
        }
    }

    #[test]
    fn a_response_of_just_the_limit_is_not_cut() {
        // Header, Result, the key and quotes of the stacks.
        const REST: usize = 16 + r#"{"Result":0,"GuestStacks":""}"#.len();
        for (length, cut) in [(0x1_0000 - REST, false), (0x1_0001 - REST, true)] {
            let guest_stacks = "x".repeat(length);
            let frame = encode_response::<DumpStacks>(1, None, Ok(DumpStacksReply { guest_stacks }));
            assert_eq!(frame.len() == 0x1_0000, !cut);
            assert_eq!(arrive::<DumpStacks>(&frame).unwrap().guest_stacks.ends_with(" more bytes]"), cut);
        }
    }

    #[test]
    fn a_failure_of_any_size_arrives_with_its_code() {
        let record = |length: usize| ErrorRecord {
            result: Hresult::TIMEOUT,
            message: "\u{1}".repeat(length),
            stack_trace: "frame\n".repeat(length),
            ..ErrorRecord::default()
        };
        for length in [10, 5_000, 100_000] {
            let message = "\"".repeat(length);
            let records = vec![record(length), record(length), record(length)];
            let failure = Failure { result: Hresult::TIMEOUT, message: message.clone(), records, errno: Some(5) };
            let frame = encode_response::<Start>(1, None, Err(failure.clone()));
            let got = arrive::<Start>(&frame).unwrap_err();
            assert_eq!((got.result, got.errno), (Hresult::TIMEOUT, Some(5)));
            assert_eq!(got == failure, length == 10);
            assert!(got.message.starts_with("\"\"\"\"\"\"\"\"\"\""));
        }
        // Where no cut helps, the answer is still one.
        let hopeless = ErrorRecord { file_name: "x".repeat(70_000), ..ErrorRecord::default() };
        let failure = Failure { records: vec![hopeless], ..Failure::code(Hresult::TIMEOUT) };
        let got = arrive::<Start>(&encode_response::<Start>(1, None, Err(failure))).unwrap_err();
        assert_eq!(got.result, Hresult::FAIL);
        assert!(got.message.contains("at most 65536"), "{}", got.message);
    }

    #[test]
    fn properties_of_any_size_arrive_as_json_and_say_what_is_missing() {
        let usage = CpuUsage { total: 7, per_cpu: vec![u64::MAX; 100], ..CpuUsage::default() };
        let cpu = Cpu { usage: Some(usage), throttling: None };
        for count in [0, 100, 2_000, 3_000, 100_000] {
            let process_list = Some((0..count).map(|n| ProcessDetails { process_id: u32::MAX - n }).collect());
            let metrics = Some(Box::new(Metrics { cpu: Some(cpu.clone()), ..Metrics::default() }));
            let properties = LinuxProperties { process_list, metrics, ..LinuxProperties::default() };
            let reply = GetPropertiesReply::Linux(Box::new(properties.clone()));
            let frame = encode_response::<GetProperties>(1, Some(Guid::ZERO), Ok(reply));
            let got = arrive::<GetProperties>(&frame).unwrap().linux().unwrap();
            assert_eq!(got == properties, count <= 2_000);
            let list = got.process_list.unwrap();
            assert_eq!(list[..], properties.process_list.unwrap()[..list.len()]);
            assert_eq!(list.len() + got.processes_omitted as usize, count as usize);
            assert!(
                frame.len() > 65_400 || got.processes_omitted == 0,
                "{count}: {} bytes, room was left",
                frame.len()
            );
            assert_eq!(got.metrics.unwrap().cpu.unwrap().usage.unwrap().total, 7);
        }
        // Properties that are not ours to shorten become a failure.
        let reply = GetPropertiesReply::Document(RawJson::of(&"x".repeat(70_000)).unwrap());
        let got = arrive::<GetProperties>(&encode_response::<GetProperties>(1, None, Ok(reply))).unwrap_err();
        assert!(got.message.contains("GetProperties response takes 70"), "{}", got.message);
    }
}
