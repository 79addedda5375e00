//! The bridge protocol: a host that receives from a hostile guest, a guest that receives from anything.
//!
//! The first byte of an input says what the rest is. Below 128: a stream of frames, which comes in pieces of one more
//! than so many bytes. Else: the payload of one message, whose type is the byte's low bits, taken around the known types.

use uvm_wire::create::Create;
use uvm_wire::execute::ExecuteProcess;
use uvm_wire::frame::SizeLimit;
use uvm_wire::modify::ModifySettings;
use uvm_wire::negotiate::NegotiateProtocol;
use uvm_wire::process::{ResizeConsole, SignalProcess, WaitForProcess};
use uvm_wire::properties::{GetProperties, GetPropertiesReply};
use uvm_wire::system::{DeleteContainerState, DumpStacks, ShutdownForced, ShutdownGraceful, Start, UpdateContainer};
use uvm_wire::{
    Call, ContainerNotification, EncodeError, FrameDecoder, FrameError, Guid, Header, Hresult, MessageType, RawJson,
    Rpc, decode_request, decode_response, encode_failure, encode_response,
};

/// Expands to a `match` on a request type: `$body` with `$call` standing for the type of the call, or `$other`.
macro_rules! for_call {
    ($message_type:expr, $call:ident => $body:expr, else $other:expr) => {
        for_call!(@arms $message_type, $call => $body, else $other;
            NegotiateProtocol Create Start ShutdownGraceful ShutdownForced ExecuteProcess WaitForProcess SignalProcess
            ResizeConsole GetProperties ModifySettings DumpStacks DeleteContainerState UpdateContainer)
    };
    (@arms $message_type:expr, $alias:ident => $body:expr, else $other:expr; $($call:ident)*) => {{
        let message_type = $message_type;
        $(if message_type == $call::MESSAGE_TYPE {
            type $alias = $call;
            $body
        } else)* {
            $other
        }
    }};
}

/// A host receives `data` from a guest.
pub fn wire_host(data: &[u8]) {
    receive(data, SizeLimit::FROM_GUEST, &MESSAGES_TO_HOST, host_gets);
}

/// A guest receives `data` from a host.
pub fn wire_guest(data: &[u8]) {
    receive(data, SizeLimit::FROM_HOST, &MessageType::REQUESTS.map(|(message_type, _)| message_type), guest_gets);
}

const MESSAGES_TO_HOST: [MessageType; 17] = {
    let mut types = [MessageType::CONTAINER_NOTIFICATION; 17];
    let mut n = 0;
    while n < 16 {
        types[n] = MessageType::REQUESTS[n].0.response();
        n += 1;
    }
    types
};

fn receive(data: &[u8], limit: SizeLimit, types: &[MessageType], get: fn(MessageType, u64, &[u8])) {
    let Some((&first, rest)) = data.split_first() else { return };
    if first >= 0x80 {
        get(types[usize::from(first & 0x7f) % types.len()], 7, rest);
        return;
    }
    let (frames, end) = cut(rest, usize::from(first) + 1, limit);
    let (same_frames, same_end) = cut(rest, rest.len().max(1), limit);
    assert_eq!(frames, same_frames, "the pieces a stream comes in change what is read");
    assert_eq!(end, same_end, "the pieces a stream comes in change how it ends");
    for (header, payload) in frames {
        assert_eq!(header.size as usize, Header::LEN + payload.len());
        get(header.message_type, header.id, &payload);
    }
}

/// Cuts a stream that comes in pieces into frames: what is in them, and how many bytes are left over or why it ended.
#[expect(clippy::type_complexity, reason = "used once, and named by the line above")]
fn cut(stream: &[u8], piece: usize, limit: SizeLimit) -> (Vec<(Header, Vec<u8>)>, Result<usize, FrameError>) {
    let mut decoder = FrameDecoder::new(limit);
    let (mut frames, mut came) = (Vec::new(), 0);
    for mut piece in stream.chunks(piece) {
        came += piece.len();
        loop {
            match decoder.next_frame(&mut piece) {
                Ok(Some(frame)) => frames.push((frame.header, frame.payload.to_vec())),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_frame(&mut &stream[..]), Err(error), "an error is final");
                    return (frames, Err(error));
                }
            }
        }
        assert!(piece.is_empty(), "the decoder wants more but has not taken all");
        assert!(decoder.held() <= (2 * came).max(512), "{} held after {came} came", decoder.held());
        assert!(decoder.held() <= limit.bytes(), "{} held", decoder.held());
    }
    (frames, Ok(decoder.pending()))
}

/// The payload of the one frame in `bytes`, as the other side gets it.
fn payload_of(bytes: &[u8], limit: SizeLimit, message_type: MessageType, id: u64) -> Vec<u8> {
    let (frames, end) = cut(bytes, bytes.len(), limit);
    assert_eq!(end, Ok(0));
    let [(header, payload)] = &frames[..] else { panic!("{} frames, not one", frames.len()) };
    assert_eq!((header.message_type, header.id), (message_type, id));
    payload.clone()
}

fn guest_gets(message_type: MessageType, id: u64, payload: &[u8]) {
    let request = match decode_request(message_type, payload) {
        Ok(request) => request,
        Err(error) => {
            assert_eq!(error.message_type(), message_type);
            let is_call = for_call!(message_type, R => R::MESSAGE_TYPE == message_type, else false);
            let code = if is_call { Hresult::INVALID_JSON } else { Hresult::NOT_IMPLEMENTED };
            assert_eq!(error.failure().result, code);
            answer_arrives(message_type, id, error.activity_id(), &error.failure());
            return;
        }
    };
    assert_eq!(request.call.message_type(), message_type);
    let written = request.encode(id, SizeLimit::FROM_HOST).expect("what came in a frame fits one");
    let read = decode_request(message_type, &payload_of(&written, SizeLimit::FROM_HOST, message_type, id));
    assert_eq!(read.expect("what was written is read"), request, "a request changes when it is written and read");

    // What an agent asks of a request before it serves it.
    let refusal = match &request.call {
        Call::NegotiateProtocol(call) => call.choose_version().err(),
        Call::Create(call) => call.config.to_linux().err(),
        Call::SignalProcess(call) => call.linux_signal().err(),
        Call::ModifySettings(call) => call.modification.check_linux().err(),
        _ => None,
    };
    if let Some(failure) = refusal {
        answer_arrives(message_type, id, request.base.activity_id, &failure);
    }
    if request.base.container_id.check_new().is_ok() {
        assert!(!request.base.container_id.as_str().contains('/'), "an id is one path component");
    }
}

/// The answer to a request that cannot be served is one that a host takes, and says the same there.
fn answer_arrives(message_type: MessageType, id: u64, activity_id: Option<Guid>, failure: &uvm_wire::Failure) {
    let written = encode_failure(message_type, id, activity_id, failure.clone());
    let payload = payload_of(&written, SizeLimit::FROM_GUEST, message_type.response(), id);
    for_call!(message_type, R => {
        let read = decode_response::<R>(message_type.response(), &payload).expect("a host takes the answer");
        assert_eq!(read.activity_id, activity_id);
        assert_eq!(read.outcome.as_ref().err(), Some(failure));
    }, else ());
}

fn host_gets(message_type: MessageType, id: u64, payload: &[u8]) {
    let request_type = MessageType::from_bits(message_type.bits() ^ 0x3000_0000);
    for_call!(request_type, R => host_gets_response::<R>(id, payload), else host_gets_other(message_type, payload));
    if request_type == MessageType::GET_PROPERTIES {
        host_gets_properties(payload);
    }
}

/// The document inside an answer is read when somebody wants to know what is in it.
fn host_gets_properties(payload: &[u8]) {
    let Ok(response) = decode_response::<GetProperties>(MessageType::GET_PROPERTIES.response(), payload) else {
        return;
    };
    let Some(Ok(properties)) = response.outcome.ok().map(|reply| reply.linux()) else { return };
    let written = RawJson::of(&properties).expect("what was read is written");
    let read = GetPropertiesReply::Document(written).linux().expect("what was written is read");
    assert_eq!(read, properties, "properties change when they are written and read");
}

fn host_gets_response<R: Rpc>(id: u64, payload: &[u8])
where
    R::Reply: Clone + PartialEq + std::fmt::Debug,
{
    let message_type = R::MESSAGE_TYPE.response();
    let Ok(response) = decode_response::<R>(message_type, payload) else { return };
    let written = encode_response::<R>(id, response.activity_id, response.outcome.clone());
    let payload_written = payload_of(&written, SizeLimit::FROM_GUEST, message_type, id);
    let read = decode_response::<R>(message_type, &payload_written).expect("what was written is read");
    assert_eq!(read.activity_id, response.activity_id);
    // Empty records are written in full, up to 70 bytes for 3; so only a short response surely needs no shortening.
    if payload.len() < 2000 {
        assert_eq!(read, response, "a response changes when it is written and read");
    }
    let again = encode_response::<R>(id, read.activity_id, read.outcome);
    assert_eq!(again, written, "a response that fits is not shortened");
}

fn host_gets_other(message_type: MessageType, payload: &[u8]) {
    let Ok(notification) = ContainerNotification::decode(message_type, payload) else { return };
    assert_eq!(message_type, MessageType::CONTAINER_NOTIFICATION);
    match notification.encode() {
        Ok(written) => {
            let payload = payload_of(&written, SizeLimit::FROM_GUEST, message_type, 0);
            let read = ContainerNotification::decode(message_type, &payload).expect("what was written is read");
            assert_eq!(read, notification, "a notification changes when it is written and read");
        }
        Err(EncodeError::TooLarge { .. }) => {
            assert!(payload.len() > 65_000, "{} bytes do not fit", payload.len());
        }
        Err(error) => panic!("{error}"),
    }
}
