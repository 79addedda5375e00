//! Limits and security policy of Linux guests.

use crate::json::RawJson;
use crate::object::omitting_object;

omitting_object! {
    /// New limits of a container. Newer agents (2021-05).
    pub struct ContainerConstraints {
        /// The `windows.resources` of an OCI specification; an empty object for Linux guests.
        pub windows: Option<RawJson> = "Windows",
        /// The `linux.resources` of an OCI specification.
        pub linux: Option<RawJson> = "Linux",
    }
}

impl ContainerConstraints {
    /// Those of a container in a Linux guest: the `linux.resources` of an OCI specification.
    #[expect(clippy::missing_panics_doc, reason = "the text is a constant")]
    pub fn linux(resources: RawJson) -> Self {
        let windows = RawJson::parse("{}").expect("an empty object is JSON");
        Self { windows: Some(windows), linux: Some(resources) }
    }
}

omitting_object! {
    /// The security policy, accepted once in the life of a VM. Newer agents (2021-08).
    pub struct SecurityPolicy {
        /// Who enforces it.
        pub enforcer_type: String = "EnforcerType",
        /// The policy: Rego in base64.
        pub encoded_security_policy: String = "EncodedSecurityPolicy",
        /// Reference values of the VM, in base64.
        pub encoded_uvm_reference: String = "EncodedUVMReference",
        /// The hash envelope of the reference values, in base64. Newer agents (2026-06).
        pub encoded_uvm_hash_envelope_reference: String = "EncodedUVMHashEnvelopeReference",
    }
}

omitting_object! {
    /// A piece of security policy, loaded beside the policy. Newer agents (2022-09).
    pub struct SecurityPolicyFragment {
        /// A `COSE_Sign1` document in base64.
        pub fragment: String = "Fragment",
        /// What is in it; empty: `application/cose-x509+rego`. Newer agents (2026).
        pub media_type: String = "MediaType",
    }
}
