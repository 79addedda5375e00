//! Arbitrary messages: every type, every field, every text that JSON can carry.

mod modify;
mod process;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use uvm_wire::create::{ContainerConfig, Create, CreateReply, SchemaVersion};
use uvm_wire::negotiate::{Capabilities, GuestDefinedCapabilities, NegotiateProtocol, NegotiateProtocolReply};
use uvm_wire::notification::{ExitType, Operation};
use uvm_wire::properties::{GetProperties, GetPropertiesReply, PropertyQuery, PropertyType};
use uvm_wire::system::{DumpStacksReply, UpdateContainer};
use uvm_wire::trace::{HexId, OpenCensusSpan, W3cTraceContext};
use uvm_wire::{ContainerNotification, ErrorRecord, Failure, Guid, Hresult, RawJson, RequestBase};

pub(crate) use modify::{layers, modify};
pub(crate) use process::{execute, execute_reply, resize, signal, wait, wait_reply};

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ -~]{0,12}",
        1 => "\\PC{0,8}",
        1 => vec(any::<char>(), 0..8).prop_map(|chars| chars.into_iter().collect()),
    ]
}

/// Words that are no word of any enum here.
fn other_word() -> impl Strategy<Value = String> {
    "[a-z<&\"]{1,8}"
}

pub(crate) fn raw() -> impl Strategy<Value = RawJson> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        text().prop_map(Value::from),
        Just(json!({})),
        Just(json!([])),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(text(), prop_oneof![inner, Just(Value::Null)], 0..4).prop_map(|map| json!(map)),
        ]
    });
    value.prop_map(|value| RawJson::of(&value).unwrap()).boxed()
}

pub(crate) fn guid() -> impl Strategy<Value = Guid> {
    any::<[u8; 16]>().prop_map(Guid::from_bytes)
}

prop_compose! {
    fn span()(trace in any::<[u8; 16]>(), id in any::<[u8; 8]>(), trace_options in 0_u32..3, tracestate in text())
        -> OpenCensusSpan {
        OpenCensusSpan { trace_id: HexId(trace), span_id: HexId(id), trace_options, tracestate }
    }
}

prop_compose! {
    fn w3c()(baggage in text(), traceparent in text(), tracestate in text()) -> W3cTraceContext {
        W3cTraceContext { baggage, traceparent, tracestate }
    }
}

prop_compose! {
    pub(crate) fn base()(
        id in text(),
        activity_id in option::of(guid()),
        open_census in option::of(span()),
        w3c in option::of(w3c()),
    ) -> RequestBase {
        RequestBase { container_id: id.into(), activity_id, open_census, w3c }
    }
}

prop_compose! {
    pub(crate) fn failure()(
        code in any::<i32>().prop_filter("a failure is not 0", |code| *code != 0),
        message in text(),
        records in vec(record(), 0..3),
        errno in option::of(any::<i32>()),
    ) -> Failure {
        Failure { result: Hresult::from_bits(code.cast_unsigned()), message, records, errno }
    }
}

prop_compose! {
    fn record()(
        code in any::<u32>(),
        message in text(),
        stack_trace in text(),
        module_name in text(),
        file_name in text(),
        line in any::<u32>(),
        function_name in text(),
    ) -> ErrorRecord {
        ErrorRecord {
            result: Hresult::from_bits(code), message, stack_trace, module_name, file_name, line, function_name,
        }
    }
}

prop_compose! {
    pub(crate) fn negotiate()(minimum_version in any::<u32>(), maximum_version in any::<u32>()) -> NegotiateProtocol {
        NegotiateProtocol { minimum_version, maximum_version }
    }
}

fn schema_version() -> impl Strategy<Value = SchemaVersion> {
    any::<(u32, u32)>().prop_map(|(major, minor)| SchemaVersion { major, minor })
}

prop_compose! {
    pub(crate) fn negotiate_reply()(
        version in any::<u32>(),
        flags in any::<[bool; 18]>(),
        supported_schema_versions in vec(schema_version(), 0..3),
        runtime_os_type in text(),
        uvm_agent_version in text(),
    ) -> NegotiateProtocolReply {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, mapped_sockets, disk_sizes, virtio_fs, pci_ports] = flags;
        let guest_defined = GuestDefinedCapabilities {
            namespace_add_request: a,
            signal_process: b,
            dump_stacks: c,
            delete_container_state: d,
            update_container: e,
            log_forwarding: f,
            host_process_container: g,
            external_process_signal: h,
            exit_detail: i,
            mapped_sockets,
            disk_sizes,
            virtio_fs,
            pci_ports,
            uvm_agent_version,
        };
        let capabilities = Capabilities {
            send_host_create_message: j,
            send_host_start_message: k,
            hv_socket_config_on_startup: l,
            send_lifecycle_notifications: m,
            modify_service_settings: n,
            supported_schema_versions,
            runtime_os_type,
            guest_defined,
        };
        NegotiateProtocolReply { version, capabilities }
    }
}

prop_compose! {
    pub(crate) fn create()(
        schema_version in option::of(schema_version()),
        [system_type, oci_bundle_path, scratch_dir_path] in [text(), text(), text()],
        [oci_specification, container, time_zone_information] in [option::of(raw()), option::of(raw()), option::of(raw())],
    ) -> Create {
        Create {
            config: ContainerConfig {
                schema_version,
                system_type,
                oci_bundle_path,
                oci_specification,
                scratch_dir_path,
                container,
                time_zone_information,
            },
        }
    }
}

prop_compose! {
    pub(crate) fn create_reply()(selected_version in text(), selected_protocol_version in any::<u32>()) -> CreateReply {
        CreateReply { selected_version, selected_protocol_version }
    }
}

pub(crate) fn get_properties() -> impl Strategy<Value = GetProperties> {
    let word = prop_oneof![Just("ProcessList".to_owned()), Just("Statistics".to_owned()), other_word()];
    let property_types = vec(word.prop_map(|word| PropertyType::from(word.as_str())), 0..4);
    property_types.prop_map(|property_types| GetProperties { query: PropertyQuery { property_types } })
}

pub(crate) fn get_properties_reply() -> impl Strategy<Value = GetPropertiesReply> {
    raw().prop_map(GetPropertiesReply::Document)
}

pub(crate) fn dump_stacks_reply() -> impl Strategy<Value = DumpStacksReply> {
    text().prop_map(|guest_stacks| DumpStacksReply { guest_stacks })
}

pub(crate) fn update_container() -> impl Strategy<Value = UpdateContainer> {
    option::of(raw()).prop_map(|resources| UpdateContainer { resources })
}

prop_compose! {
    pub(crate) fn notification()(
        id in text(),
        activity_id in option::of(guid()),
        exit_type in prop_oneof![
            proptest::sample::select(&["GracefulExit", "ForcedExit", "UnexpectedExit", "None", "Unknown"][..])
                .prop_map(str::to_owned),
            other_word(),
        ],
        operation in prop_oneof![
            proptest::sample::select(&["None", "Construct", "Terminate"][..]).prop_map(str::to_owned),
            other_word(),
        ],
        code in any::<u32>(),
        result_info in option::of(raw()),
    ) -> ContainerNotification {
        ContainerNotification {
            container_id: id.into(),
            activity_id,
            exit_type: ExitType::from(exit_type.as_str()),
            operation: Operation::from(operation.as_str()),
            result: Hresult::from_bits(code),
            result_info,
        }
    }
}

/// The JSON of a value, for cases that are easier to say as JSON.
pub(crate) fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}
