//! What several tests need: rewriting a message with this crate's types, and comparing JSON by meaning.

use serde_json::Value;
use uvm_wire::create::Create;
use uvm_wire::execute::ExecuteProcess;
use uvm_wire::frame::SizeLimit;
use uvm_wire::modify::ModifySettings;
use uvm_wire::negotiate::NegotiateProtocol;
use uvm_wire::process::{ResizeConsole, SignalProcess, WaitForProcess};
use uvm_wire::properties::GetProperties;
use uvm_wire::system::{DeleteContainerState, DumpStacks, ShutdownForced, ShutdownGraceful, Start, UpdateContainer};
use uvm_wire::{ContainerNotification, FrameDecoder, Header, MessageType, Rpc, decode_response, encode_response};

/// Header and payload of the one frame in `bytes`.
pub(crate) fn single_frame(bytes: &[u8], limit: SizeLimit) -> (Header, Vec<u8>) {
    let mut input = bytes;
    let mut decoder = FrameDecoder::new(limit);
    let frame = decoder.next_frame(&mut input).unwrap().expect("a whole frame");
    assert!(input.is_empty(), "one frame only");
    (frame.header, frame.payload.to_vec())
}

/// Reads a response or notification and writes it again.
pub(crate) fn rewrite_from_guest(message_type: MessageType, id: u64, payload: &[u8]) -> Result<Vec<u8>, String> {
    fn rewrite<R: Rpc>(message_type: MessageType, id: u64, payload: &[u8]) -> Result<Vec<u8>, String> {
        let response = decode_response::<R>(message_type, payload).map_err(|error| format!("{error:?}"))?;
        Ok(encode_response::<R>(id, response.activity_id, response.outcome))
    }
    macro_rules! by_type {
        ($($call:ident)*) => {
            match message_type {
                $(t if t == $call::MESSAGE_TYPE.response() => rewrite::<$call>(message_type, id, payload),)*
                _ => ContainerNotification::decode(message_type, payload)
                    .map_err(|error| format!("{error:?}"))
                    .map(|notification| notification.encode().unwrap()),
            }
        };
    }
    by_type!(
        NegotiateProtocol Create Start ShutdownGraceful ShutdownForced ExecuteProcess WaitForProcess SignalProcess
        ResizeConsole GetProperties ModifySettings DumpStacks DeleteContainerState UpdateContainer
    )
}

/// The meaning of a message: its JSON, with the documents inside strings read too.
pub(crate) fn meaning(json: &str) -> Value {
    fn open(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (key, member) in members {
                    let holds_json = ["ContainerConfig", "ProcessParameters", "Query", "Properties", "Resources"];
                    if let (true, Some(text)) = (holds_json.contains(&key.as_str()), member.as_str()) {
                        *member = serde_json::from_str(text).unwrap();
                    }
                    open(member);
                }
            }
            Value::Array(elements) => elements.iter_mut().for_each(open),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(json).unwrap();
    open(&mut value);
    value
}
