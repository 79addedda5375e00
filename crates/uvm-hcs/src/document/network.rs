//! What the host's network service is asked, and what it answers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uvm_platform::network::Endpoint;
use uvm_wire::Guid;

use super::{DocumentError, to_text};

/// The query for the namespace of this id: which there are, and what the one that there is is like.
pub fn namespace_query(id: Guid) -> String {
    #[derive(Serialize)]
    struct Filter {
        #[serde(rename = "ID")]
        id: Guid,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Query {
        schema_version: super::schema::Version,
        filter: String,
    }
    let schema_version = super::schema::Version { major: 2, minor: 0 };
    to_text(&Query { schema_version, filter: to_text(&Filter { id }) })
}

/// The path of an endpoint, in requests of the older style.
pub fn endpoint_path(id: Guid) -> String {
    format!("/endpoints/{id}")
}

/// The path of a namespace, in requests of the older style.
pub fn namespace_path(id: Guid) -> String {
    format!("/namespaces/{id}")
}

/// Where an endpoint is taken out of a namespace, by a request in the older style, and what that says.
pub fn remove_endpoint(namespace: Guid, endpoint: Guid) -> (String, String) {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Data {
        id: Guid,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Resource {
        r#type: &'static str,
        data: Data,
    }
    let body = to_text(&Resource { r#type: "Endpoint", data: Data { id: endpoint } });
    (format!("{}/removeresource", namespace_path(namespace)), body)
}

/// Reads the description of an endpoint.
///
/// # Errors
/// It is none, has no id, or an address in it is none.
pub fn read_endpoint(description: &str) -> Result<Endpoint, DocumentError> {
    let bad = |value: &dyn std::fmt::Display, why| DocumentError::bad("network endpoint", value, why);
    let read: EndpointDescription =
        serde_json::from_str(description).map_err(|_| bad(&description, "it is no description of an endpoint"))?;
    if read.id.is_empty() {
        return Err(bad(&description, "it has no id"));
    }
    let mut endpoint = Endpoint::bare(read.id);
    let id = endpoint.id.clone();
    let address = |text: &str, why| -> Result<Option<IpAddr>, DocumentError> {
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| bad(&id, why)) }
    };
    let v6 = |text: &str, why| match address(text, why)? {
        Some(IpAddr::V6(address)) => Ok(Some(address)),
        Some(IpAddr::V4(_)) => Err(bad(&id, why)),
        None => Ok(None),
    };
    endpoint.ip_address = address(&read.ip_address, "its IPAddress is no address of IPv4 or IPv6")?;
    endpoint.gateway = address(&read.gateway_address, "its GatewayAddress is no address of IPv4 or IPv6")?;
    endpoint.ipv6_address = v6(&read.ipv6_address, "its IPv6Address is no address of IPv6")?;
    endpoint.ipv6_gateway = v6(&read.ipv6_gateway, "its GatewayAddressV6 is no address of IPv6")?;
    endpoint.namespace = Some(read.namespace.unwrap_or_default().id).filter(|id| !id.is_empty());
    endpoint.mac_address = read.mac_address;
    endpoint.prefix_length = read.prefix_length;
    endpoint.ipv6_prefix_length = read.ipv6_prefix_length;
    endpoint.dns_suffix = read.dns_suffix;
    endpoint.dns_servers = read.dns_server_list;
    endpoint.low_metric = read.enable_low_metric;
    endpoint.encap_overhead = read.encap_overhead;
    endpoint.description = Some(description.to_owned());
    Ok(endpoint)
}

/// An endpoint, as far as guests are told of it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct EndpointDescription {
    #[serde(rename = "ID")]
    id: String,
    namespace: Option<EndpointNamespace>,
    mac_address: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    prefix_length: u8,
    gateway_address: String,
    #[serde(rename = "IPv6Address")]
    ipv6_address: String,
    #[serde(rename = "IPv6PrefixLength")]
    ipv6_prefix_length: u8,
    #[serde(rename = "GatewayAddressV6")]
    ipv6_gateway: String,
    #[serde(rename = "DNSSuffix")]
    dns_suffix: String,
    #[serde(rename = "DNSServerList")]
    dns_server_list: String,
    enable_low_metric: bool,
    encap_overhead: u16,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EndpointNamespace {
    #[serde(rename = "ID")]
    id: String,
}

/// The network service refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ReplyError {
    /// Its own words, or the whole reply if it is not of the schema.
    pub text: String,
}

/// Reads a reply: the object in it, empty if there is none.
///
/// # Errors
/// The service refused, or the reply is none.
pub fn read_reply(reply: &str) -> Result<String, ReplyError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Reply<'a> {
        success: bool,
        #[serde(default)]
        error: String,
        #[serde(borrow, default)]
        output: Option<&'a RawValue>,
    }
    let unreadable = |_| ReplyError { text: reply.to_owned() };
    let reply: Reply<'_> = serde_json::from_str(reply).map_err(unreadable)?;
    if !reply.success {
        return Err(ReplyError { text: reply.error });
    }
    Ok(reply.output.map(|output| output.get().to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_str, json};

    use super::*;

    const ID: Guid = Guid::from_u128(0xb1b2_b3b4_0000_4000_9000_0000_0000_0001);

    #[test]
    fn d59_what_is_asked_names_things_in_one_spelling() {
        let id: Guid = ID.to_string().to_uppercase().parse().expect("a GUID");
        let query: Value = from_str(&namespace_query(id)).expect("JSON");
        let filter = r#"{"ID":"b1b2b3b4-0000-4000-9000-000000000001"}"#;
        assert_eq!(query, json!({"SchemaVersion": {"Major": 2, "Minor": 0}, "Filter": filter}));
        let (path, body) = remove_endpoint(id, Guid::from_u128(0xe1));
        assert_eq!(path, "/namespaces/b1b2b3b4-0000-4000-9000-000000000001/removeresource");
        let expected = json!({"Type": "Endpoint", "Data": {"Id": "00000000-0000-0000-0000-0000000000e1"}});
        assert_eq!(from_str::<Value>(&body).expect("JSON"), expected);
    }

    #[test]
    fn an_endpoint_is_read_as_far_as_guests_are_told_and_kept_as_it_is() {
        let description = json!({"ID": "e", "Name": "n", "Namespace": {"ID": "ns", "CompartmentId": 4},
            "MacAddress": "00-15", "IPAddress": "10.0.0.2", "PrefixLength": 8, "GatewayAddress": "10.0.0.1",
            "IPv6Address": "fd00::4", "IPv6PrefixLength": 64, "GatewayAddressV6": "fd00::1", "DNSSuffix": "a,b",
            "DNSServerList": "1.1.1.1", "EnableLowMetric": true, "EncapOverhead": 50})
        .to_string();
        let endpoint = read_endpoint(&description).expect("an endpoint");
        let mut expected = Endpoint::new("e", "ns");
        expected.mac_address = "00-15".into();
        expected.ip_address = "10.0.0.2".parse().ok();
        expected.gateway = "10.0.0.1".parse().ok();
        expected.prefix_length = 8;
        expected.ipv6_address = "fd00::4".parse().ok();
        expected.ipv6_prefix_length = 64;
        expected.ipv6_gateway = "fd00::1".parse().ok();
        (expected.dns_suffix, expected.dns_servers) = ("a,b".into(), "1.1.1.1".into());
        (expected.low_metric, expected.encap_overhead) = (true, 50);
        expected.description = Some(description);
        assert_eq!(endpoint, expected);
        for bare in
            [r#"{"ID":"e"}"#, r#"{"ID":"e","Namespace":null,"IPAddress":""}"#, r#"{"ID":"e","Namespace":{"ID":""}}"#]
        {
            let mut expected = Endpoint::bare("e");
            expected.description = Some(bare.into());
            assert_eq!(read_endpoint(bare).expect("an endpoint"), expected);
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_name() {
        for (description, word) in [
            ("7", "no description"),
            (r#"{"Name":"x"}"#, "no id"),
            (r#"{"ID":"e7","IPAddress":"10.0.0"}"#, "e7"),
            (r#"{"ID":"e7","GatewayAddress":"<nil>"}"#, "GatewayAddress"),
            (r#"{"ID":"e7","IPv6Address":"10.0.0.1"}"#, "IPv6Address"),
        ] {
            let error = read_endpoint(description).expect_err(description).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn a_reply_is_an_object_or_a_refusal() {
        assert_eq!(read_reply(r#"{"Success":true,"Output":{"ID":"a"}}"#).as_deref(), Ok(r#"{"ID":"a"}"#));
        assert_eq!(read_reply(r#"{"Success":true}"#).as_deref(), Ok(""));
        for (reply, text) in [
            (r#"{"Success":false,"Error":"Element not found. "}"#, "Element not found. "),
            ("nonsense", "nonsense"),
            ("{}", "{}"),
        ] {
            assert_eq!(read_reply(reply), Err(ReplyError { text: text.into() }));
        }
    }
}
