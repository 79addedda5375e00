//! Whatever a peer sends, it is read or refused: no panic, and every refusal can be answered.

use proptest::collection::vec;
use proptest::prelude::*;
use uvm_wire::execute::ExecuteProcess;
use uvm_wire::frame::SizeLimit;
use uvm_wire::negotiate::NegotiateProtocol;
use uvm_wire::properties::GetPropertiesReply;
use uvm_wire::{
    ContainerNotification, Failure, Hresult, MessageType, RawJson, RequestBase, Rpc, decode_request, encode_failure,
    encode_request, encode_response,
};

use crate::strategies as arbitrary;
use crate::support::{rewrite_from_guest, single_frame};

/// Reads bytes as a guest would, and answers; what was read must survive being written.
fn serve(message_type: MessageType, id: u64, payload: &[u8]) -> Result<(), TestCaseError> {
    match decode_request(message_type, payload) {
        Ok(request) => {
            let frame = request.encode(id, SizeLimit::FROM_HOST).unwrap();
            let (header, payload) = single_frame(&frame, SizeLimit::FROM_HOST);
            prop_assert_eq!(decode_request(header.message_type, &payload).unwrap(), request);
        }
        Err(error) => {
            let failure = error.failure();
            prop_assert!([Hresult::INVALID_JSON, Hresult::NOT_IMPLEMENTED].contains(&failure.result));
            let frame = encode_failure(error.message_type(), id, error.activity_id(), failure);
            let (header, payload) = single_frame(&frame, SizeLimit::FROM_GUEST);
            prop_assert_eq!(header.id, id);
            prop_assert_eq!(header.message_type.bits(), 0x2000_0000 | message_type.bits() & 0x0fff_ffff);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&payload).unwrap()["Result"].as_i64() < Some(0));
        }
    }
    Ok(())
}

/// Reads bytes as a host would; what was read must survive being written.
fn receive(message_type: MessageType, id: u64, payload: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(frame) = rewrite_from_guest(message_type, id, payload) {
        let (header, payload) = single_frame(&frame, SizeLimit::FROM_GUEST);
        prop_assert_eq!(rewrite_from_guest(message_type, header.id, &payload).unwrap(), frame);
    }
    Ok(())
}

fn request_type() -> impl Strategy<Value = MessageType> {
    prop_oneof![
        8 => proptest::sample::select(&MessageType::REQUESTS[..]).prop_map(|(message_type, _)| message_type),
        1 => any::<u32>().prop_map(MessageType::from_bits),
    ]
}

/// The bytes of valid messages, all kinds.
fn valid_payload() -> impl Strategy<Value = (MessageType, Vec<u8>)> {
    fn request<R: Rpc>(base: &RequestBase, call: &R) -> (MessageType, Vec<u8>) {
        let frame = encode_request(7, base, call, SizeLimit::FROM_HOST).unwrap();
        (R::MESSAGE_TYPE, single_frame(&frame, SizeLimit::FROM_HOST).1)
    }
    fn response<R: Rpc>(outcome: Result<R::Reply, Failure>) -> (MessageType, Vec<u8>) {
        let frame = encode_response::<R>(7, None, outcome);
        (R::MESSAGE_TYPE.response(), single_frame(&frame, SizeLimit::FROM_GUEST).1)
    }
    prop_oneof![
        (arbitrary::base(), arbitrary::create()).prop_map(|(base, call)| request(&base, &call)).boxed(),
        (arbitrary::base(), arbitrary::execute()).prop_map(|(base, call)| request(&base, &call)).boxed(),
        (arbitrary::base(), arbitrary::modify()).prop_map(|(base, call)| request(&base, &call)).boxed(),
        (arbitrary::base(), arbitrary::signal()).prop_map(|(base, call)| request(&base, &call)).boxed(),
        (arbitrary::base(), arbitrary::get_properties()).prop_map(|(base, call)| request(&base, &call)).boxed(),
        arbitrary::failure().prop_map(|failure| response::<ExecuteProcess>(Err(failure))).boxed(),
        arbitrary::negotiate_reply().prop_map(|reply| response::<NegotiateProtocol>(Ok(reply))).boxed(),
        arbitrary::notification()
            .prop_map(|notification| {
                let frame = notification.encode().unwrap();
                (MessageType::CONTAINER_NOTIFICATION, single_frame(&frame, SizeLimit::FROM_GUEST).1)
            })
            .boxed(),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(message_type in request_type(), id: u64, payload in vec(any::<u8>(), 0..200)) {
        serve(message_type, id, &payload)?;
        receive(message_type.response(), id, &payload)?;
        receive(MessageType::CONTAINER_NOTIFICATION, id, &payload)?;
    }

    #[test]
    fn any_json_is_read_or_refused(message_type in request_type(), id: u64, json in arbitrary::raw()) {
        serve(message_type, id, json.get().as_bytes())?;
        receive(message_type.response(), id, json.get().as_bytes())?;
        receive(MessageType::CONTAINER_NOTIFICATION, id, json.get().as_bytes())?;
    }

    #[test]
    fn properties_of_any_shape_are_read_or_refused(
        list in arbitrary::raw(),
        metrics in arbitrary::raw(),
        omitted: i64,
        other in arbitrary::raw(),
    ) {
        let (list, metrics) = (list.get(), metrics.get());
        for text in [
            format!(r#"{{"ProcessList":{list},"ProcessesOmitted":{omitted}}}"#),
            format!(r#"{{"ProcessList":[{{"ProcessId":{omitted}}}]}}"#),
            format!(r#"{{"LCOWMetrics":{metrics}}}"#),
            format!(r#"{{"LCOWMetrics":{{"memory":{metrics},"network":{list}}}}}"#),
            other.get().to_owned(),
        ] {
            let reply = GetPropertiesReply::Document(RawJson::parse(&text).unwrap());
            if let Ok(properties) = reply.linux() {
                let written = GetPropertiesReply::Document(RawJson::of(&properties).unwrap());
                prop_assert_eq!(written.linux().unwrap(), properties, "{}", text);
            }
        }
    }

    #[test]
    fn a_valid_message_with_some_bytes_changed_is_read_or_refused(
        (message_type, mut payload) in valid_payload(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        shorten: bool,
    ) {
        for (place, byte) in changes {
            let place = place.index(payload.len());
            payload[place] = byte;
        }
        if shorten {
            payload.truncate(cut.index(payload.len()));
        }
        serve(message_type, 7, &payload)?;
        receive(message_type, 7, &payload)?;
    }
}

#[test]
fn depth_size_and_numbers_beyond_reason_are_refused() {
    let deep = |open: &str, close: &str, levels: usize| format!("{}{}", open.repeat(levels), close.repeat(levels));
    for body in [
        deep("[", "]", 1_000_000),
        deep(r#"{"Request":"#, "}", 100_000),
        format!(r#"{{"Request":{{"ResourceType":"X","Settings":{}}}}}"#, deep("[", "]", 200)),
        format!(r#"{{"Request":{{"ResourceType":"SCSIDevice","Settings":{{"Lun":{}}}}}}}"#, "9".repeat(100_000)),
        format!(r#"{{"Request":{{"ResourceType":"SCSIDevice","Settings":{{"Lun":1e{}}}}}}}"#, "9".repeat(1000)),
        format!(r#"{{"Request":{{"ResourceType":"SCSIDevice","Settings":{{"Lun":-{}}}}}}}"#, "0.1"),
    ] {
        let error = decode_request(MessageType::MODIFY_SETTINGS, body.as_bytes()).unwrap_err();
        assert_eq!(error.failure().result, Hresult::INVALID_JSON);
    }
    // A document inside a string has a depth of its own.
    let inner = format!(r#"{{"ContainerConfig":"{{\"OciSpecification\":{}}}"}}"#, deep("[", "]", 200));
    let error = decode_request(MessageType::CREATE, inner.as_bytes()).unwrap_err();
    assert!(error.failure().message.contains("nested deeper than 100"), "{}", error.failure().message);
    assert!(
        ContainerNotification::decode(MessageType::CONTAINER_NOTIFICATION, deep("[", "]", 1 << 15).as_bytes()).is_err()
    );
}

#[test]
fn escaped_and_plain_spellings_are_the_same() {
    let plain = r#"{"ContainerId":"<&>","Request":{"ResourceType":"VPCIDevice","Settings":{"VMBusGUID":"a"}}}"#;
    let escaped = concat!(
        r#"{"\u0043ontainerId":"\u003c\u0026\u003e","Request":{"ResourceType":"\u0056PCIDevice","#,
        r#""Settings":{"VMBusGUID":"\u0061"}}}"#
    );
    let read = |text: &str| decode_request(MessageType::MODIFY_SETTINGS, text.as_bytes()).unwrap();
    assert_eq!(read(plain), read(escaped));
}

/// The agent's threads have small stacks, and a peer decides how deep a message nests.
#[test]
fn the_worst_message_is_read_on_a_small_stack() {
    let deep = format!("{}{}", "[".repeat(95), "]".repeat(95));
    let settings = format!(r#"{{"Unknown":{deep},"VerityInfo":{deep},"Options":["a"]}}"#);
    let modify = format!(r#"{{"Request":{{"ResourceType":"MappedVirtualDisk","Settings":{settings}}}}}"#);
    let create = format!(r#"{{"ContainerConfig":"{{\"OciSpecification\":{deep}}}"}}"#);
    let reader = move || {
        decode_request(MessageType::MODIFY_SETTINGS, modify.as_bytes()).unwrap();
        decode_request(MessageType::CREATE, create.as_bytes()).unwrap();
    };
    // 128 KiB is what musl gives a thread; this is without optimization, where frames are several times larger.
    std::thread::Builder::new().stack_size(128 << 10).spawn(reader).unwrap().join().unwrap();
}
