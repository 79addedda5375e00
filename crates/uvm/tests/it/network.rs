//! Network namespaces and endpoints: what the host and the guest are asked, in which order.

use serde_json::json;
use uvm::platform::fake::FakePlatform;
use uvm::platform::requests::{Change, Device};
use uvm::platform::{Capabilities, Feature, HostGuestConnection};
use uvm::wire::negotiate::{self, GuestDefinedCapabilities};
use uvm::{Endpoint, ErrorKind, GuestConnection, NetworkEndpoints, ResourceError, UvmError};

use crate::networked::{NAMESPACE, Networked, create_windows, endpoint, original};
use crate::support::{TestResult, create_on, settle, source};

fn newer() -> GuestDefinedCapabilities {
    GuestDefinedCapabilities::linux()
}

fn of_2021() -> GuestDefinedCapabilities {
    GuestDefinedCapabilities { update_container: true, ..newer() }
}

#[tokio::test(start_paused = true)]
async fn d9_a_windows_adapter_that_goes_is_a_network_resource() -> TestResult {
    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    net.vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await?;
    let expected = [
        format!("host: look at namespace {NAMESPACE}"),
        r#"guest: Add NetworkNamespace {"Type":"Guest"}"#.into(),
        "guest: PreAdd Network 1".into(),
        "host: add network".into(),
        "guest: Add Network 1".into(),
    ];
    assert_eq!(net.asked(), expected);
    assert_eq!(net.told()[1]["Settings"]["Settings"], json!({"ID": "e1"}));
    net.vm.remove_endpoints(NAMESPACE, &["e1"]).await?;
    assert_eq!(net.asked(), ["guest: Remove Network 1", "host: remove network"]);
    let told = net.told();
    assert_eq!((&told[0]["ResourceType"], &told[0]["RequestType"]), (&json!("Network"), &json!("Remove")));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d10_a_linux_adapter_that_goes_is_named_by_its_own_guid() -> TestResult {
    let net = Networked::linux(newer()).await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    assert!(net.asked().is_empty(), "it learns of the namespace from an adapter");
    net.vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await?;
    net.vm.remove_network_namespace(NAMESPACE).await?;
    let sequence = ["host: add network", "guest: Add Network 1", "guest: Remove Network 1", "host: remove network"];
    assert_eq!(net.asked(), sequence);
    let changes = net.host.changes();
    let Some((Change::Add(Device::Network(adapter)), _)) = changes.first() else { panic!("{changes:?}") };
    assert_eq!((adapter.endpoint_id.as_str(), adapter.mac_address.as_str()), ("e1", "00-15"));
    assert_eq!(net.told()[1]["Settings"], json!({"NamespaceID": NAMESPACE, "ID": adapter.adapter_id}));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d55_a_namespace_that_the_host_has_no_more_goes_as_it_was() -> TestResult {
    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    net.host.add_namespace(NAMESPACE, r#"{"Type":"Changed"}"#);
    net.vm.remove_network_namespace(NAMESPACE).await?;
    let asked = net.asked();
    assert_eq!(asked.last().map(String::as_str), Some(r#"guest: Remove NetworkNamespace {"Type":"Changed"}"#));
    net.vm.add_network_namespace(NAMESPACE).await?;
    NetworkEndpoints::new(NAMESPACE, ["e1"]).release_on(&net.host).await?;
    net.asked();
    net.vm.remove_network_namespace(NAMESPACE).await?;
    let expected =
        [format!("host: look at namespace {NAMESPACE}"), r#"guest: Remove NetworkNamespace {"Type":"Changed"}"#.into()];
    assert_eq!(net.asked(), expected);
    let error = net.vm.add_network_namespace(NAMESPACE).await.expect_err("the host has none");
    assert!(matches!(source(&error), ResourceError::NotOnHost { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d57_what_an_endpoint_lacks_is_refused_or_left_out() -> TestResult {
    let net = Networked::linux(of_2021()).await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    for bad in [Endpoint::bare("bare"), Endpoint::new("bare", ""), Endpoint::new("", NAMESPACE)] {
        let error = net.vm.add_endpoints(NAMESPACE, &[endpoint("e1"), bad]).await.expect_err("it cannot be used");
        assert!(matches!(source(&error), ResourceError::BadInput { .. }), "{error:?}");
    }
    assert!(net.asked().is_empty(), "all are looked at before the first is added");
    net.vm.add_endpoints(NAMESPACE, &[Endpoint::new("e2", NAMESPACE)]).await?;
    let settings = &net.told()[0]["Settings"];
    assert_eq!(*settings, json!({"NamespaceID": NAMESPACE, "ID": settings["ID"]}));
    let error = net.vm.add_network_namespace("").await.expect_err("no id");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    let net = Networked::windows().await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    let error = net.vm.add_endpoints(NAMESPACE, &[Endpoint::new("e", NAMESPACE)]).await.expect_err("no description");
    assert!(matches!(source(&error), ResourceError::BadInput { .. }), "{error:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d58_a_guest_that_understands_them_gets_all_addresses() -> TestResult {
    let mut both = endpoint("e1");
    both.ipv6_address = "fd00::4".parse().ok();
    both.ipv6_prefix_length = 64;
    both.ipv6_gateway = "fd00::1".parse().ok();
    let old = json!({"MacAddress": "00-15", "IPAddress": "172.20.0.2", "PrefixLength": 20, "GatewayAddress": "172.20.0.1",
        "NamespaceID": NAMESPACE});
    for (guest, knows) in [(newer(), true), (of_2021(), false)] {
        let net = Networked::linux(guest).await?;
        net.vm.add_network_namespace(NAMESPACE).await?;
        net.vm.add_endpoints(NAMESPACE, std::slice::from_ref(&both)).await?;
        let told = net.told();
        let mut expected = old.clone();
        expected["ID"] = told[0]["Settings"]["ID"].clone();
        if knows {
            expected["IPConfigs"] = json!([{"IPAddress": "172.20.0.2", "PrefixLength": 20},
                {"IPAddress": "fd00::4", "PrefixLength": 64}]);
            expected["Routes"] = json!([{"NextHop": "172.20.0.1", "DestinationPrefix": "0.0.0.0/0"},
                {"NextHop": "fd00::1", "DestinationPrefix": "::/0"}]);
        }
        assert_eq!(told[0]["Settings"], expected);
    }
    // One that knows nothing of networks is told nothing.
    let net = Networked::linux(GuestDefinedCapabilities::default()).await?;
    net.vm.add_network_namespace(NAMESPACE).await?;
    net.vm.add_endpoints(NAMESPACE, &[both]).await?;
    net.vm.remove_network_namespace(NAMESPACE).await?;
    assert_eq!(net.asked(), ["host: add network", "host: remove network"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d59_ids_are_the_same_however_they_are_spelt() -> TestResult {
    let net = Networked::linux(newer()).await?;
    let upper = NAMESPACE.to_uppercase();
    net.vm.add_network_namespace(&upper).await?;
    let error = net.vm.add_network_namespace(NAMESPACE).await.expect_err("it is there");
    assert!(matches!(source(&error), ResourceError::NamespaceAlreadyAdded), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let mut one = endpoint("E1");
    one.namespace = Some(upper.clone());
    net.vm.add_endpoints(NAMESPACE, &[one, endpoint("e1")]).await?;
    net.vm.add_endpoints(&upper, &[endpoint("e1")]).await?;
    assert_eq!(net.asked(), ["host: add network", "guest: Add Network 1"]);
    assert_eq!(net.told()[0]["Settings"]["NamespaceID"], NAMESPACE);
    // However often it was asked for, it goes at once.
    net.vm.remove_endpoints(&upper, &["E1", "e1", "e2"]).await?;
    assert_eq!(net.asked(), ["guest: Remove Network 1", "host: remove network"]);
    net.vm.remove_network_namespace(NAMESPACE).await?;
    let error = net.vm.remove_endpoints(&upper, &["e1"]).await.expect_err("the namespace is gone");
    assert!(matches!(source(&error), ResourceError::NamespaceNotFound), "{error:?}");
    let error = net.vm.add_endpoints(NAMESPACE, &[]).await.expect_err("the namespace is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    net.vm.remove_network_namespace(NAMESPACE).await?;
    assert!(net.asked().is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn where_the_hosts_service_holds_the_connection_it_passes_everything_on() -> TestResult {
    let host = FakePlatform::new();
    host.add_namespace(NAMESPACE, r#"{"Type":"Guest"}"#);
    let capabilities = r#"{"NamespaceAddRequestSupported":true}"#.to_owned();
    host.set_guest_connection(HostGuestConnection { protocol_version: 4, capabilities });
    let vm = create_windows(&host, |o| o.guest_connection = GuestConnection::HostService).await?;
    vm.start().await?;
    let before = host.calls().len();
    vm.add_network_namespace(NAMESPACE).await?;
    vm.add_endpoints(NAMESPACE, &[endpoint("e1")]).await?;
    vm.remove_network_namespace(NAMESPACE).await?;
    let calls = host.calls();
    let expected = [
        &format!("look at namespace {NAMESPACE}"),
        r#"pass on {"RequestType":"Add","ResourceType":"NetworkNamespace","Settings":{"Type":"Guest"}}"#,
        r#"pass on {"RequestType":"Add","ResourceType":"Network","Settings":{"AdapterId":"#,
        "add network",
        "remove network",
        &format!("look at namespace {NAMESPACE}"),
        r#"pass on {"RequestType":"Remove","ResourceType":"NetworkNamespace","Settings":{"Type":"Guest"}}"#,
    ];
    let calls = &calls[before..];
    let is_so = |(call, start): (&String, &&str)| call.starts_with(start);
    assert!(calls.len() == expected.len() && calls.iter().zip(&expected).all(is_so), "{calls:#?}");
    let along: Vec<bool> = host.changes().iter().map(|(_, guest)| guest.is_some()).collect();
    assert_eq!(along, [true, true]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_host_without_networks_says_so() -> TestResult {
    let lacking = Capabilities::all("fake").without(Feature::NetworkAdapters, "this is a test");
    let host = FakePlatform::new().with_capabilities(lacking);
    let vm = create_on(&host, &original()).await?;
    let net = Networked::boot(host, vm, negotiate::Capabilities::linux(newer())).await?;
    for error in [
        net.vm.add_network_namespace(NAMESPACE).await.expect_err("there are none"),
        net.vm.find_endpoint("e1").await.expect_err("there are none"),
        NetworkEndpoints::new(NAMESPACE, ["e1"]).release_on(&net.host).await.expect_err("there are none"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_looked_up_and_released_on_the_host() -> TestResult {
    let net = Networked::windows().await?;
    net.host.add_endpoint(endpoint("e1"));
    assert_eq!(net.vm.find_endpoint("E1").await?, Some(endpoint("e1")));
    assert_eq!(net.vm.find_endpoint("e2").await?, None);
    net.asked();
    let endpoints = NetworkEndpoints::new("ns", ["e1", "e2"]);
    let calls = ["take endpoint e1 out of namespace ns", "take endpoint e2 out of namespace ns", "remove namespace ns"];
    for failing in 0..calls.len() {
        net.host.plant(calls[failing], 0, uvm::platform::fake::Fault::Fail);
        let error = endpoints.release_on(&net.host).await.expect_err("it is planted");
        assert!(matches!(error, UvmError::Host(_)), "{error:?}");
        assert_eq!(net.asked(), calls[..=failing].iter().map(|call| format!("host: {call}")).collect::<Vec<_>>());
    }
    endpoints.release_on(&net.host).await?;
    endpoints.release_on(&net.host).await?;
    settle().await;
    assert_eq!(net.asked().len(), 2 * calls.len());
    Ok(())
}
