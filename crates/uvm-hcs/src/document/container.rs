//! The document that creates a container in a VM whose guest connection the service owns.

use uvm_platform::UvmId;
use uvm_wire::RawJson;

use super::schema::{ComputeSystem, Version};
use super::to_text;

/// The document of a container with these settings, in the shape of the guest, hosted by the VM `host`.
pub fn create_container(host: &UvmId, owner: &str, settings: &RawJson) -> String {
    to_text(&ComputeSystem {
        owner,
        schema_version: Version::V2_1,
        hosting_system_id: host.as_str(),
        hosted_system: Some(settings),
        virtual_machine: None,
        should_terminate_on_last_handle_closed: true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_str, json};

    use super::*;

    #[test]
    fn a_container_is_hosted_by_its_vm() {
        let settings = RawJson::parse(r#"{"OciBundlePath":"/run/gcs/c/c1","n":18446744073709551615}"#).expect("JSON");
        let document = create_container(&UvmId::new("vm").expect("an id"), "me", &settings);
        assert_eq!(
            from_str::<Value>(&document).expect("JSON"),
            json!({
                "Owner": "me",
                "SchemaVersion": {"Major": 2, "Minor": 1},
                "HostingSystemId": "vm",
                "HostedSystem": {"OciBundlePath": "/run/gcs/c/c1", "n": u64::MAX},
                "ShouldTerminateOnLastHandleClosed": true
            })
        );
    }
}
