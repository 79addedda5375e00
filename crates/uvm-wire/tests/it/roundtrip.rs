//! What is written is read back as it was: every type of message, in both directions.

use proptest::prelude::*;
use uvm_wire::frame::SizeLimit;
use uvm_wire::modify::{
    HvSocketAddresses, NamespaceResource, WindowsMappedDirectory, WindowsMappedVirtualDisk, WindowsNetworkAdapter,
    WindowsNetworkNamespace,
};
use uvm_wire::properties::{GetProperties, GetPropertiesReply, LinuxProperties};
use uvm_wire::system::{DeleteContainerState, DumpStacks, ShutdownForced, ShutdownGraceful, Start, UpdateContainer};
use uvm_wire::{
    ContainerNotification, Failure, Guid, RequestBase, Rpc, decode_request, decode_response, encode_request,
    encode_response,
};

use crate::strategies as arbitrary;
use crate::support::single_frame;

fn request_survives<R: Rpc>(id: u64, base: &RequestBase, call: R) -> Result<(), TestCaseError> {
    let frame = encode_request(id, base, &call, SizeLimit::FROM_HOST).unwrap();
    prop_assert_eq!(frame.last(), Some(&b'\n'));
    let (header, payload) = single_frame(&frame, SizeLimit::FROM_HOST);
    prop_assert_eq!((header.message_type, header.id), (R::MESSAGE_TYPE, id));
    let request = decode_request(header.message_type, &payload).unwrap();
    prop_assert_eq!(&request.base, base);
    prop_assert_eq!(request.call, call.into());
    Ok(())
}

fn response_survives<R: Rpc>(
    id: u64,
    activity_id: Option<Guid>,
    outcome: Result<R::Reply, Failure>,
) -> Result<(), TestCaseError>
where
    R::Reply: Clone + PartialEq + std::fmt::Debug,
{
    let frame = encode_response::<R>(id, activity_id, outcome.clone());
    let (header, payload) = single_frame(&frame, SizeLimit::FROM_GUEST);
    prop_assert_eq!((header.message_type, header.id), (R::MESSAGE_TYPE.response(), id));
    prop_assert_eq!(payload.last(), Some(&b'}'));
    let response = decode_response::<R>(header.message_type, &payload).unwrap();
    prop_assert_eq!(response.activity_id, activity_id);
    prop_assert_eq!(response.outcome, outcome);
    Ok(())
}

macro_rules! requests_survive {
    ($($name:ident: $strategy:expr;)*) => {
        proptest! {
            $(#[test]
            fn $name(id: u64, base in arbitrary::base(), call in $strategy) {
                request_survives(id, &base, call)?;
            })*
        }
    };
}

requests_survive! {
    negotiate_protocol_requests: arbitrary::negotiate();
    create_requests: arbitrary::create();
    start_requests: Just(Start {});
    shutdown_graceful_requests: Just(ShutdownGraceful {});
    shutdown_forced_requests: Just(ShutdownForced {});
    execute_process_requests: arbitrary::execute();
    wait_for_process_requests: arbitrary::wait();
    signal_process_requests: arbitrary::signal();
    resize_console_requests: arbitrary::resize();
    get_properties_requests: arbitrary::get_properties();
    modify_settings_requests: arbitrary::modify();
    dump_stacks_requests: Just(DumpStacks {});
    delete_container_state_requests: Just(DeleteContainerState {});
    update_container_requests: arbitrary::update_container();
}

macro_rules! responses_survive {
    ($($name:ident: $call:ty, $strategy:expr;)*) => {
        proptest! {
            $(#[test]
            fn $name(
                id: u64,
                activity_id in proptest::option::of(arbitrary::guid()),
                reply in $strategy,
                failure in proptest::option::weighted(0.2, arbitrary::failure()),
            ) {
                let outcome = failure.map_or(Ok(reply), Err);
                response_survives::<$call>(id, activity_id, outcome)?;
            })*
        }
    };
}

responses_survive! {
    negotiate_protocol_responses: uvm_wire::negotiate::NegotiateProtocol, arbitrary::negotiate_reply();
    create_responses: uvm_wire::create::Create, arbitrary::create_reply();
    start_responses: Start, Just(uvm_wire::call::Done {});
    shutdown_graceful_responses: ShutdownGraceful, Just(uvm_wire::call::Done {});
    shutdown_forced_responses: ShutdownForced, Just(uvm_wire::call::Done {});
    execute_process_responses: uvm_wire::execute::ExecuteProcess, arbitrary::execute_reply();
    wait_for_process_responses: uvm_wire::process::WaitForProcess, arbitrary::wait_reply();
    signal_process_responses: uvm_wire::process::SignalProcess, Just(uvm_wire::call::Done {});
    resize_console_responses: uvm_wire::process::ResizeConsole, Just(uvm_wire::call::Done {});
    get_properties_responses: GetProperties, arbitrary::get_properties_reply();
    modify_settings_responses: uvm_wire::modify::ModifySettings, Just(uvm_wire::call::Done {});
    dump_stacks_responses: DumpStacks, arbitrary::dump_stacks_reply();
    delete_container_state_responses: DeleteContainerState, Just(uvm_wire::call::Done {});
    update_container_responses: UpdateContainer, Just(uvm_wire::call::Done {});
}

/// Reads what `value` is written as, and compares.
fn json_survives<T>(value: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let text = serde_json::to_string(value).unwrap();
    let read: T = serde_json::from_str(&text).unwrap();
    prop_assert_eq!(&read, value, "{}", text);
    Ok(())
}

proptest! {
    #[test]
    fn notifications(notification in arbitrary::notification()) {
        let frame = notification.encode().unwrap();
        let (header, payload) = single_frame(&frame, SizeLimit::FROM_GUEST);
        prop_assert_eq!(header.id, 0);
        prop_assert_eq!(ContainerNotification::decode(header.message_type, &payload).unwrap(), notification);
    }

    #[test]
    fn resources_of_windows_guests(
        [a, b, c] in [arbitrary::text(), arbitrary::text(), arbitrary::text()],
        (lun, read_only, namespace_id) in any::<(i32, bool, u32)>(),
        [local, parent] in [proptest::option::of(arbitrary::guid()), proptest::option::of(arbitrary::guid())],
        raw in proptest::option::of(arbitrary::raw()),
        layers in arbitrary::layers(),
    ) {
        json_survives(&WindowsMappedVirtualDisk { container_path: a.clone(), lun })?;
        json_survives(&WindowsMappedDirectory { host_path: a.clone(), container_path: b.clone(), read_only })?;
        json_survives(&layers)?;
        json_survives(&WindowsNetworkAdapter {
            adapter_id: a.clone(),
            adapter_instance_id: b.clone(),
            request_type: Some(uvm_wire::modify::RequestType::PreAdd),
            settings: raw.clone(),
        })?;
        json_survives(&WindowsNetworkNamespace {
            id: a.clone(),
            namespace_id,
            namespace_type: b,
            resources: vec![NamespaceResource { resource_type: c, data: raw }],
            schema_version: Some(uvm_wire::create::SchemaVersion { major: 2, minor: 0 }),
        })?;
        json_survives(&HvSocketAddresses { local_address: local, parent_address: parent })?;
    }
}

/// Every counter, by its path: a key misspelt here or there would be lost on the way.
const COUNTERS: &str = "
    pids: current limit
    cpu.usage: total kernel user
    cpu.throttling: periods throttled_periods throttled_time
    memory: cache rss rss_huge mapped_file dirty writeback pg_pg_in pg_pg_out pg_fault pg_maj_fault inactive_anon
        active_anon inactive_file active_file unevictable hierarchical_memory_limit hierarchical_swap_limit total_cache
        total_rss total_rss_huge total_mapped_file total_dirty total_writeback total_pg_pg_in total_pg_pg_out
        total_pg_fault total_pg_maj_fault total_inactive_anon total_active_anon total_inactive_file total_active_file
        total_unevictable
    memory.usage: limit usage max failcnt
    memory.swap: limit usage max failcnt
    memory.kernel: limit usage max failcnt
    memory.kernel_tcp: limit usage max failcnt
    cgroup_stats: nr_sleeping nr_running nr_stopped nr_uninterruptible nr_io_wait
    memory_oom_control: oom_kill_disable under_oom oom_kill
    hugetlb.0: usage max failcnt
    network.0: rx_bytes rx_packets rx_errors rx_dropped tx_bytes tx_packets tx_errors tx_dropped
    rdma.current.0: hca_handles hca_objects
    rdma.limit.0: hca_handles hca_objects
    blkio.io_service_bytes_recursive.0: major minor value
    blkio.io_serviced_recursive.0: major minor value
    blkio.io_queued_recursive.0: major minor value
    blkio.io_service_time_recursive.0: major minor value
    blkio.io_wait_time_recursive.0: major minor value
    blkio.io_merged_recursive.0: major minor value
    blkio.io_time_recursive.0: major minor value
    blkio.sectors_recursive.0: major minor value
";

#[test]
fn every_counter_of_the_metrics_has_its_key() {
    let mut metrics = serde_json::json!({"cpu": {"usage": {"per_cpu": [5, 0, 7]}}, "hugetlb": [{"pagesize": "2MB"}]});
    let mut place = Vec::new();
    let mut counters = 0;
    for word in COUNTERS.split_whitespace() {
        if let Some(path) = word.strip_suffix(':') {
            place = path.split('.').collect();
            continue;
        }
        counters += 1;
        let mut object = &mut metrics;
        for step in &place {
            object = if *step == "0" {
                if object.is_null() {
                    *object = serde_json::json!([{}]);
                }
                &mut object[0]
            } else {
                &mut object[*step]
            };
        }
        object[word] = counters.into();
    }
    let document = serde_json::json!({ "LCOWMetrics": metrics });
    let reply = GetPropertiesReply::Document(uvm_wire::RawJson::of(&document).unwrap());
    let read: LinuxProperties = reply.linux().unwrap();
    assert_eq!(arbitrary::json_of(&read), document);
    let written = GetPropertiesReply::Linux(Box::new(read.clone()));
    let frame = encode_response::<GetProperties>(0, None, Ok(written));
    let (header, payload) = single_frame(&frame, SizeLimit::FROM_GUEST);
    let response = decode_response::<GetProperties>(header.message_type, &payload).unwrap();
    assert_eq!(response.outcome.unwrap().linux().unwrap(), read);
    let empty: LinuxProperties = serde_json::from_str(r#"{"LCOWMetrics":{"blkio":{},"rdma":{}}}"#).unwrap();
    assert_eq!(arbitrary::json_of(&empty).to_string(), r#"{"LCOWMetrics":{"blkio":{},"rdma":{}}}"#);
}
