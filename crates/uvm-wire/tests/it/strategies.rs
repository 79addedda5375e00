//! Arbitrary messages: every type, every field, every text that JSON can carry.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use uvm_wire::create::{ContainerConfig, Create, CreateReply, SchemaVersion};
use uvm_wire::execute::{
    ConsoleSize, ExecuteProcess, ExecuteProcessReply, ExecuteSettings, HvSocketStdio, ProcessParameters, VsockStdio,
};
use uvm_wire::modify::{
    CombinedLayers, ContainerConstraints, DeviceMapping, DiskSize, IpConfig, Layer, MappedDirectory, MappedSocket,
    MappedVirtualDisk, Modification, ModifySettings, NetworkAdapter, RequestType, Resource, Route, ScsiDevice,
    SecurityPolicy, SecurityPolicyFragment, VpciDevice, VpmemDevice,
};
use uvm_wire::negotiate::{Capabilities, GuestDefinedCapabilities, NegotiateProtocol, NegotiateProtocolReply};
use uvm_wire::notification::{ExitType, Operation};
use uvm_wire::process::{
    ResizeConsole, Signal, SignalOptions, SignalProcess, WaitForProcess, WaitForProcessReply, WindowsSignal,
};
use uvm_wire::properties::{GetProperties, GetPropertiesReply, PropertyQuery, PropertyType};
use uvm_wire::system::{DumpStacksReply, UpdateContainer};
use uvm_wire::trace::{HexId, OpenCensusSpan, W3cTraceContext};
use uvm_wire::{ContainerNotification, ErrorRecord, Failure, Guid, Hresult, RawJson, RequestBase};

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

fn port() -> impl Strategy<Value = Option<NonZeroU32>> {
    any::<u32>().prop_map(NonZeroU32::new)
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

prop_compose! {
    fn parameters()(
        [application_name, command_line, user, working_directory] in [text(), text(), text(), text()],
        command_args in vec(text(), 0..4),
        environment in btree_map(text(), text(), 0..4).prop_map(BTreeMap::from_iter),
        flags in any::<[bool; 8]>(),
        size in option::of(any::<(u16, u16)>()),
        oci_process in option::of(raw()),
    ) -> ProcessParameters {
        let [a, b, c, d, e, f, g, h] = flags;
        ProcessParameters {
            application_name,
            command_line,
            command_args,
            user,
            working_directory,
            environment,
            restricted_token: a,
            emulate_console: b,
            create_stdin_pipe: c,
            create_stdout_pipe: d,
            create_stderr_pipe: e,
            console_size: size.map(|(height, width)| ConsoleSize { height, width }),
            use_existing_login: f,
            use_legacy_console: g,
            create_in_utility_vm: h,
            oci_process,
        }
    }
}

prop_compose! {
    pub(crate) fn execute()(
        parameters in parameters(),
        vsock_stdio in option::of((port(), port(), port())),
        hv_socket_stdio in option::of([option::of(guid()), option::of(guid()), option::of(guid())]),
    ) -> ExecuteProcess {
        ExecuteProcess {
            settings: ExecuteSettings {
                parameters,
                vsock_stdio: vsock_stdio.map(|(stdin, stdout, stderr)| VsockStdio { stdin, stdout, stderr }),
                hv_socket_stdio: hv_socket_stdio.map(|[stdin, stdout, stderr]| HvSocketStdio { stdin, stdout, stderr }),
            },
        }
    }
}

pub(crate) fn execute_reply() -> impl Strategy<Value = ExecuteProcessReply> {
    any::<u32>().prop_map(|process_id| ExecuteProcessReply { process_id })
}

pub(crate) fn wait() -> impl Strategy<Value = WaitForProcess> {
    any::<(u32, u32)>().prop_map(|(process_id, timeout_ms)| WaitForProcess { process_id, timeout_ms })
}

prop_compose! {
    pub(crate) fn wait_reply()(exit_code in any::<u32>(), signal in option::of(any::<u32>())) -> WaitForProcessReply {
        WaitForProcessReply { exit_code, signal }
    }
}

fn windows_signal() -> impl Strategy<Value = WindowsSignal> {
    let known = vec!["CtrlC", "CtrlBreak", "CtrlClose", "CtrlLogOff", "CtrlShutdown"];
    prop_oneof![proptest::sample::select(known).prop_map(str::to_owned), other_word()]
        .prop_map(|word| WindowsSignal::from(word.as_str()))
}

prop_compose! {
    pub(crate) fn signal()(
        process_id in any::<u32>(),
        options in option::of(prop_oneof![
            Just(Signal::Unspecified),
            any::<i32>().prop_filter("0 is none", |number| *number != 0).prop_map(Signal::Linux),
            windows_signal().prop_map(Signal::Windows),
        ]),
    ) -> SignalProcess {
        SignalProcess { process_id, options: options.map(|signal| SignalOptions { signal }) }
    }
}

pub(crate) fn resize() -> impl Strategy<Value = ResizeConsole> {
    any::<(u32, u16, u16)>().prop_map(|(process_id, height, width)| ResizeConsole { process_id, height, width })
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
    fn disk()(
        mount_path in text(),
        (lun, controller, partition) in any::<(u8, u8, u64)>(),
        flags in any::<[bool; 4]>(),
        options in vec(text(), 0..3),
        verity_info in option::of(raw()),
        filesystem in text(),
    ) -> MappedVirtualDisk {
        let [read_only, encrypted, block_dev, ensure_filesystem] = flags;
        MappedVirtualDisk {
            mount_path,
            lun,
            controller,
            read_only,
            partition,
            encrypted,
            options,
            block_dev,
            verity_info,
            ensure_filesystem,
            filesystem,
        }
    }
}

prop_compose! {
    fn directory()(
        mount_path in text(),
        share_name in text(),
        port in any::<i32>(),
        read_only in any::<bool>(),
        tag in text(),
    ) -> MappedDirectory {
        MappedDirectory { mount_path, port, share_name, read_only, tag }
    }
}

prop_compose! {
    fn vpmem()(
        device_number in any::<u32>(),
        mount_path in text(),
        mapping in option::of(any::<(u64, u64)>()),
        verity_info in option::of(raw()),
        pci_path in text(),
    ) -> VpmemDevice {
        let mapping_info = mapping.map(|(device_offset_bytes, device_size_bytes)| DeviceMapping {
            device_offset_bytes,
            device_size_bytes,
        });
        VpmemDevice { device_number, mount_path, mapping_info, verity_info, pci_path }
    }
}

prop_compose! {
    pub(crate) fn layers()(
        [container_id, container_root_path, scratch_path] in [text(), text(), text()],
        layers in vec((text(), text()).prop_map(|(id, path)| Layer { id, path }), 0..4),
    ) -> CombinedLayers {
        CombinedLayers { container_id, container_root_path, layers, scratch_path }
    }
}

prop_compose! {
    fn adapter()(
        [namespace_id, id, mac_address, ip_address] in [text(), text(), text(), text()],
        [gateway_address, dns_suffix, dns_server_list] in [text(), text(), text()],
        (prefix_length, encap_overhead) in any::<(u8, u16)>(),
        ip_configs in vec((text(), any::<u8>()), 0..3),
        routes in vec((text(), text(), any::<u16>()), 0..3),
        flags in any::<[bool; 3]>(),
    ) -> NetworkAdapter {
        let [enable_low_metric, policy_based_routing, vpci_assigned] = flags;
        let config = |(ip_address, prefix_length)| IpConfig { ip_address, prefix_length };
        let route = |(next_hop, destination_prefix, metric)| Route { next_hop, destination_prefix, metric };
        NetworkAdapter {
            namespace_id,
            id,
            mac_address,
            ip_address,
            prefix_length,
            gateway_address,
            ip_configs: ip_configs.into_iter().map(config).collect(),
            routes: routes.into_iter().map(route).collect(),
            dns_suffix,
            dns_server_list,
            enable_low_metric,
            policy_based_routing,
            encap_overhead,
            vpci_assigned,
        }
    }
}

prop_compose! {
    fn policy()(texts in [text(), text(), text(), text()]) -> SecurityPolicy {
        let [enforcer_type, encoded_security_policy, encoded_uvm_reference, encoded_uvm_hash_envelope_reference] = texts;
        SecurityPolicy {
            enforcer_type, encoded_security_policy, encoded_uvm_reference, encoded_uvm_hash_envelope_reference,
        }
    }
}

/// A resource as a guest may get it, hence none of Windows guests.
fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        disk().prop_map(Resource::MappedVirtualDisk).boxed(),
        any::<(u8, u8)>().prop_map(|(controller, lun)| Resource::ScsiDevice(ScsiDevice { controller, lun })).boxed(),
        directory().prop_map(Resource::MappedDirectory).boxed(),
        (any::<(u8, u8, u64)>(), text())
            .prop_map(|((controller, lun, bytes), grow)| Resource::DiskSize(DiskSize { controller, lun, bytes, grow }))
            .boxed(),
        (text(), any::<u32>())
            .prop_map(|(mount_path, port)| Resource::MappedSocket(MappedSocket { mount_path, port }))
            .boxed(),
        vpmem().prop_map(Resource::VpmemDevice).boxed(),
        layers().prop_map(Resource::CombinedLayers).boxed(),
        adapter().prop_map(Resource::Network).boxed(),
        (text(), text()).prop_map(|(vmbus_guid, port)| Resource::VpciDevice(VpciDevice { vmbus_guid, port })).boxed(),
        (option::of(raw()), option::of(raw()))
            .prop_map(|(windows, linux)| Resource::ContainerConstraints(ContainerConstraints { windows, linux }))
            .boxed(),
        policy().prop_map(Resource::SecurityPolicy).boxed(),
        (text(), text())
            .prop_map(|(fragment, media_type)| SecurityPolicyFragment { fragment, media_type })
            .prop_map(Resource::SecurityPolicyFragment)
            .boxed(),
        Just(Resource::PodCgroupMemoryLimit).boxed(),
        (prop_oneof![Just(String::new()), other_word()], option::of(raw()))
            .prop_map(|(resource_type, settings)| Resource::Other { resource_type, settings })
            .boxed(),
    ]
    .boxed()
}

prop_compose! {
    pub(crate) fn modify()(
        word in prop_oneof![
            proptest::sample::select(&["Add", "Remove", "Update", "PreAdd"][..]).prop_map(str::to_owned),
            other_word(),
        ],
        resource in resource(),
    ) -> ModifySettings {
        let request_type = RequestType::from(word.as_str());
        ModifySettings { modification: Modification { request_type, resource } }
    }
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
