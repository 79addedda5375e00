//! Requests that need containers or mounts: judged as the newer originals judge them, and refused by name where these
//! would succeed.

use crate::support::{Host, Over, ZERO, over_each_link, request};

over_each_link! {
    a_container_is_refused_for_what_is_wrong_with_it_first
    a_change_is_refused_for_its_shape_its_type_its_container_its_kind_in_this_order
    an_update_of_a_container_is_not_even_read
}

const CREATE: u32 = 0x1010_0101;
const MODIFY: u32 = 0x1010_0a01;
const UPDATE: u32 = 0x1010_0e01;

const NOT_IMPLEMENTED: u32 = 0x8000_4001;
const FAILED: u32 = 0x8000_4005;
const INVALID_JSON: u32 = 0xc037_010d;
const NO_CONTAINER: u32 = 0xc037_010e;

async fn expect(host: &mut Host, kind: u32, body: &str, code: u32, word: &str) {
    host.send(&request(kind, 7, body)).await;
    let failure = host.expect_failure(kind + 0x1000_0000, 7, code).await;
    let text = failure.json()["ErrorMessage"].as_str().expect("text").to_owned();
    assert!(text.contains(word), "{body}: {text}");
}

async fn a_container_is_refused_for_what_is_wrong_with_it_first(over: Over) {
    let mut host = Host::negotiated(over).await;
    let whole = r#"{"SchemaVersion":{"Major":2,"Minor":1},"OciBundlePath":"/run/gcs/c/c1","OciSpecification":{"ociVersion":"1.0.2","process":{"args":["sh"],"cwd":"/"},"root":{"path":"/run/gcs/c/c1/rootfs"},"linux":{}}}"#;
    for (config, code, word) in [
        (whole.to_owned(), NOT_IMPLEMENTED, "no containers"),
        (whole.replace("\"Minor\":1", "\"Minor\":0"), INVALID_JSON, "2.0"),
        (whole.replace("\"Major\":2", "\"Major\":1"), INVALID_JSON, "1.1"),
        (whole.replace("SchemaVersion", "Other"), INVALID_JSON, "schema version"),
        (whole.replace("OciSpecification", "Other"), INVALID_JSON, "OciSpecification"),
        (whole.replace("OciBundlePath", "Other"), INVALID_JSON, "OciBundlePath"),
        (whole.replace("\"/run/gcs/c/c1\"", "7"), INVALID_JSON, "7"),
        (String::new(), INVALID_JSON, "ContainerConfig"),
        ("{".into(), INVALID_JSON, "ContainerConfig"),
    ] {
        let config = serde_json::Value::String(config);
        let body = format!(r#"{{"ContainerId":"c1","ActivityId":"{ZERO}","ContainerConfig":{config}}}"#);
        expect(&mut host, CREATE, &body, code, word).await;
    }
    let body = format!(r#"{{"ContainerId":"c1","ActivityId":"{ZERO}"}}"#);
    expect(&mut host, CREATE, &body, INVALID_JSON, "ContainerConfig").await;
}

async fn a_change_is_refused_for_its_shape_its_type_its_container_its_kind_in_this_order(over: Over) {
    let mut host = Host::negotiated(over).await;
    for (container, change, code, word) in [
        // Each resource there is; no kind means Add.
        (
            ZERO,
            r#"{"ResourceType":"MappedVirtualDisk","Settings":{"Encrypted":true}}"#,
            NOT_IMPLEMENTED,
            "encryption of a disk",
        ),
        (
            ZERO,
            r#"{"ResourceType":"MappedVirtualDisk","Settings":{"EnsureFilesystem":true,"Filesystem":"xfs"}}"#,
            FAILED,
            "\"xfs\" cannot be made",
        ),
        (ZERO, r#"{"ResourceType":"MappedSocket","Settings":{"MountPath":"m"}}"#, FAILED, "mount path \"m\""),
        (ZERO, r#"{"ResourceType":"VPCIDevice","Settings":{"Port":"../x"}}"#, FAILED, "\"../x\" is no PCI address"),
        (ZERO, r#"{"ResourceType":"DiskSize","Settings":{}}"#, FAILED, "\"Add\""),
        (
            ZERO,
            r#"{"ResourceType":"MappedVirtualDisk","RequestType":"Remove","Settings":{"MountPath":"m"}}"#,
            FAILED,
            "mount path \"m\"",
        ),
        (ZERO, r#"{"ResourceType":"MappedDirectory","Settings":{"Port":564}}"#, FAILED, "mount path \"\""),
        (ZERO, r#"{"ResourceType":"MappedDirectory","Settings":{"MountPath":"/s","Port":564}}"#, FAILED, "port 564"),
        (
            ZERO,
            r#"{"ResourceType":"MappedDirectory","Settings":{"Port":564,"ShareName":"0,trans=unix"}}"#,
            FAILED,
            "a comma",
        ),
        (ZERO, r#"{"ResourceType":"VPMemDevice","Settings":{}}"#, FAILED, "mount path \"\""),
        (
            ZERO,
            r#"{"ResourceType":"VPMemDevice","Settings":{"MountPath":"/run/p","MappingInfo":{"DeviceSizeInBytes":1}}}"#,
            NOT_IMPLEMENTED,
            "a part of a memory-backed disk",
        ),
        (
            ZERO,
            r#"{"ResourceType":"VPMemDevice","Settings":{"MountPath":"/run/p","PciPath":"../03.0"}}"#,
            FAILED,
            "PCI path \"../03.0\"",
        ),
        (ZERO, r#"{"ResourceType":"CombinedLayers","Settings":{}}"#, FAILED, "mount path \"\""),
        (ZERO, r#"{"ResourceType":"CombinedLayers","Settings":{"ContainerRootPath":"/run/r"}}"#, FAILED, "0 layers"),
        (ZERO, r#"{"ResourceType":"Network","Settings":{}}"#, NOT_IMPLEMENTED, "Network"),
        (ZERO, r#"{"ResourceType":"VPCIDevice","Settings":{}}"#, NOT_IMPLEMENTED, "VPCIDevice"),
        (ZERO, r#"{"ResourceType":"SecurityPolicy","Settings":{}}"#, NOT_IMPLEMENTED, "SecurityPolicy"),
        (ZERO, r#"{"ResourceType":"SecurityPolicyFragment","Settings":{}}"#, NOT_IMPLEMENTED, "SecurityPolicyFragment"),
        (ZERO, r#"{"ResourceType":"PodCgroupMemoryLimit","RequestType":"Update"}"#, NOT_IMPLEMENTED, "PodCgroupMemory"),
        // Kinds that a resource has not; an unknown one.
        (ZERO, r#"{"ResourceType":"SCSIDevice","Settings":{}}"#, FAILED, "\"Add\""),
        (ZERO, r#"{"ResourceType":"VPCIDevice","RequestType":"Remove","Settings":{}}"#, FAILED, "\"Remove\""),
        (ZERO, r#"{"ResourceType":"Network","RequestType":"Update","Settings":{}}"#, FAILED, "\"Update\""),
        (ZERO, r#"{"ResourceType":"PodCgroupMemoryLimit"}"#, FAILED, "\"Add\""),
        (ZERO, r#"{"ResourceType":"Network","RequestType":"Replace","Settings":{}}"#, FAILED, "\"Replace\""),
        // Types of Windows guests, one that nobody knows, none.
        (ZERO, r#"{"ResourceType":"NetworkNamespace","Settings":{}}"#, FAILED, "NetworkNamespace"),
        (ZERO, r#"{"ResourceType":"HvSocket","RequestType":"Update","Settings":{}}"#, FAILED, "HvSocket"),
        (ZERO, r#"{"ResourceType":"Telepathy","Settings":{}}"#, FAILED, "Telepathy"),
        (ZERO, r#"{"RequestType":"Add","Settings":{}}"#, FAILED, "ResourceType"),
        (ZERO, "{}", FAILED, "ResourceType"),
        // What is for a container goes to one, and the VM is none.
        (ZERO, r#"{"ResourceType":"ContainerConstraints","RequestType":"Update","Settings":{}}"#, FAILED, "the VM"),
        ("c1", r#"{"ResourceType":"ContainerConstraints","Settings":{}}"#, NO_CONTAINER, "0xc037010e"),
        ("c1", r#"{"ResourceType":"Network","RequestType":"Replace","Settings":{}}"#, NO_CONTAINER, "0xc037010e"),
        ("c1", r#"{"ResourceType":"Telepathy","Settings":{}}"#, FAILED, "Telepathy"),
        // Settings of the wrong shape come before everything else.
        (ZERO, r#"{"ResourceType":"Network","Settings":[]}"#, INVALID_JSON, "Network"),
        (ZERO, r#"{"ResourceType":"MappedVirtualDisk","Settings":{"Lun":256}}"#, INVALID_JSON, "256"),
        (ZERO, r#"{"ResourceType":"CombinedLayers","Settings":{"Layers":[7]}}"#, INVALID_JSON, "CombinedLayers"),
        ("c1", r#"{"ResourceType":"VPMemDevice","RequestType":"Replace","Settings":""}"#, INVALID_JSON, "VPMemDevice"),
        (ZERO, r#"{"ResourceType":7}"#, INVALID_JSON, "7"),
        (ZERO, "7", INVALID_JSON, "7"),
    ] {
        let body = format!(r#"{{"ContainerId":"{container}","ActivityId":"{ZERO}","Request":{change}}}"#);
        expect(&mut host, MODIFY, &body, code, word).await;
    }
    let body = format!(r#"{{"ContainerId":"{ZERO}","ActivityId":"{ZERO}"}}"#);
    expect(&mut host, MODIFY, &body, INVALID_JSON, "Request").await;
}

/// Agents since 2021-05 do not know it, and so read none of it.
async fn an_update_of_a_container_is_not_even_read(over: Over) {
    let mut host = Host::negotiated(over).await;
    for rest in [r#","Resources":"{}""#, r#","Resources":7"#, r#","Resources":"""#, ""] {
        let body = format!(r#"{{"ContainerId":"c1","ActivityId":"{ZERO}"{rest}}}"#);
        expect(&mut host, UPDATE, &body, NOT_IMPLEMENTED, "UpdateContainer").await;
    }
    expect(&mut host, UPDATE, "{", NOT_IMPLEMENTED, "UpdateContainer").await;
}
