//! Networks of the platform over a recording host: what it is asked, and what its answers mean.

use std::sync::Arc;

use uvm_hcs::recording::{Fault, RecordedCall, RecordingHcs};
use uvm_hcs::{HcsPlatform, WindowsBuild};
use uvm_platform::network::AdapterName;
use uvm_platform::{Platform, PlatformError, PlatformVm};
use uvm_wire::Hresult;

use crate::platform::{create, platform, summaries};
use crate::specs::lcow;

const NAMESPACE: &str = "b1b2b3b4-0000-4000-9000-00000000000a";
const ENDPOINT: &str = "a1b2c3d4-0000-4000-9000-0000000000e1";
const DENIED: Hresult = Hresult::from_bits(0x8007_0005);

/// A host with the one namespace and the one endpoint.
fn host() -> RecordingHcs {
    RecordingHcs::new().with_answers(|call: &RecordedCall| match call.op.as_str() {
        "enumerate_namespaces" => Some(format!(r#"["{}"]"#, NAMESPACE.to_uppercase())),
        "query_namespace" => Some(r#"{"Type":"Guest"}"#.to_owned()),
        "GET" => Some(format!(r#"{{"ID":"{ENDPOINT}","IPAddress":"10.0.0.2"}}"#)),
        _ => None,
    })
}

#[tokio::test]
async fn a_vm_and_the_host_answer_alike_on_any_runtime() {
    let host = host();
    let (vm, _events) = create(&host, &lcow()).await;
    let here = platform(&host).await;
    let on_threads = HcsPlatform::connect(Arc::new(host.clone())).await.expect("it answers");
    host.take_calls();
    for network in [vm.network(), here.network(), on_threads.network()] {
        let network = network.expect("it has networks");
        let spelt_otherwise = NAMESPACE.to_uppercase();
        let found = network.namespace(&spelt_otherwise).await.expect("it answers");
        assert_eq!(found.as_deref(), Some(r#"{"Type":"Guest"}"#));
        let endpoint = network.endpoint(ENDPOINT).await.expect("it answers").expect("it is there");
        assert_eq!((endpoint.id.as_str(), endpoint.ip_address), (ENDPOINT, "10.0.0.2".parse().ok()));
        network.remove_endpoint(&spelt_otherwise, ENDPOINT).await.expect("it is taken out");
        network.remove_namespace(&spelt_otherwise).await.expect("it is removed");
        let asked = [
            "hcn enumerate_namespaces".to_owned(),
            format!("hcn open_namespace {NAMESPACE}"),
            format!("hcn query_namespace {NAMESPACE}"),
            format!("hns GET /endpoints/{ENDPOINT}"),
            format!("hns POST /namespaces/{NAMESPACE}/removeresource"),
            format!("hns DELETE /namespaces/{NAMESPACE}"),
        ];
        assert_eq!(summaries(&host), asked);
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_from_what_fails() {
    let host = host();
    let platform = platform(&host).await;
    let network = platform.network().expect("it has networks");
    let other = network.namespace(ENDPOINT).await.expect("it answers");
    assert_eq!((other, summaries(&host).len()), (None, 1));
    for op in ["GET", "POST", "DELETE"] {
        host.plant(Fault::on("hns", op).detail("Element not found. "));
    }
    // It went between the two questions.
    host.plant(Fault::on("hcn", "open_namespace").code(Hresult::NOT_FOUND));
    assert_eq!(network.namespace(NAMESPACE).await.expect("it answers"), None);
    assert_eq!(network.endpoint(ENDPOINT).await.expect("it answers"), None);
    network.remove_endpoint(NAMESPACE, ENDPOINT).await.expect("it is out of it");
    network.remove_namespace(NAMESPACE).await.expect("it is gone");
    for (to, op) in [("hcn", "enumerate_namespaces"), ("hns", "GET"), ("hns", "POST"), ("hns", "DELETE")] {
        host.plant(Fault::on(to, op).code(DENIED));
    }
    let failures = [
        network.namespace(NAMESPACE).await.map(drop),
        network.endpoint(ENDPOINT).await.map(drop),
        network.remove_endpoint(NAMESPACE, ENDPOINT).await,
        network.remove_namespace(NAMESPACE).await,
    ];
    for failed in failures {
        assert!(matches!(failed, Err(PlatformError::Host { .. })), "{failed:?}");
    }
    host.take_calls();
    for failed in [
        network.namespace("not a GUID").await.map(drop),
        network.endpoint("").await.map(drop),
        network.remove_endpoint(NAMESPACE, "e1").await,
        network.remove_namespace("{").await,
    ] {
        assert!(matches!(failed, Err(PlatformError::BadInput { .. })), "{failed:?}");
    }
    assert!(summaries(&host).is_empty(), "it is not asked for what cannot be");
}

#[tokio::test(start_paused = true)]
async fn a_network_service_that_does_not_answer_is_not_waited_for_without_end() {
    let host = host();
    let platform = platform(&host).await;
    host.plant(Fault::on("hns", "DELETE").hang());
    let failed = platform.network().expect("it has networks").remove_namespace(NAMESPACE).await;
    assert!(matches!(failed, Err(PlatformError::Timeout { .. })), "{failed:?}");
}

#[tokio::test]
async fn an_adapter_is_known_by_what_the_build_calls_it() {
    for (build, name) in [(17762, AdapterName::InstanceId), (17763, AdapterName::Id)] {
        let platform = platform(&host().with_build(WindowsBuild(build))).await;
        assert_eq!(platform.network().expect("it has networks").adapter_name(), name);
    }
}
