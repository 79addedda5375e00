//! Services of virtual sockets (hvsocket): which port may be used, and from which side.
//!
//! The names and the four settings are the Host Compute Service's. Where there are only ports, a service stands for one
//! port, and a security descriptor for whether its side may be used at all: nobody but the VM's owner can use it there.

mod gate;

use std::collections::BTreeMap;
use std::fmt;

use crate::error::PlatformError;
use crate::stream::Port;

pub use gate::HvSocketGate;

/// The id of a service: a GUID, as text. Those of [`of_port`](Self::of_port) stand for ports of Linux guests. A host says
/// which others it takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HvSocketServiceId(String);

/// What follows the port in the id of a port's service (the template Linux has for Hyper-V sockets).
const PORT_TEMPLATE: &str = "-facb-11e6-bd58-64006a7986d3";

impl HvSocketServiceId {
    /// The service with this id.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The service that stands for `port` of a Linux guest.
    pub fn of_port(port: u32) -> Self {
        Self(format!("{port:08x}{PORT_TEMPLATE}"))
    }

    /// The port of a Linux guest that it stands for, if it does.
    pub fn port(&self) -> Option<u32> {
        let (port, template) = self.0.split_at_checked(8)?;
        let is_port = template.eq_ignore_ascii_case(PORT_TEMPLATE) && port.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_port { u32::from_str_radix(port, 16).ok() } else { None }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HvSocketServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who may use a service. The default is nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HvSocketServiceConfig {
    /// Who on the host may listen, so that the guest can dial: a security descriptor (SDDL). Empty: nobody.
    pub bind_security_descriptor: String,
    /// Who on the host may dial the guest. Empty: nobody.
    pub connect_security_descriptor: String,
    /// Whether a listener for all VMs takes this VM's dials. Without meaning on Linux, where each VM has its own.
    pub allow_wildcard_binds: bool,
    /// Refuse both sides, whatever the descriptors say. With empty descriptors the service is removed.
    pub disabled: bool,
}

impl HvSocketServiceConfig {
    /// Everything to the system and to administrators: the host's own default.
    pub const OWNER: &str = "D:P(A;;FA;;;SY)(A;;FA;;;BA)";

    /// Lets the guest dial, as far as the owner listens.
    pub fn guest_dials() -> Self {
        Self { bind_security_descriptor: Self::OWNER.into(), ..Self::default() }
    }

    /// Lets the owner dial the guest.
    pub fn host_dials() -> Self {
        Self { connect_security_descriptor: Self::OWNER.into(), ..Self::default() }
    }

    /// Lets either side dial.
    pub fn both_dial() -> Self {
        Self { connect_security_descriptor: Self::OWNER.into(), ..Self::guest_dials() }
    }

    /// Whether this asks for the service to be removed.
    pub fn is_removal(&self) -> bool {
        self.disabled && self.bind_security_descriptor.is_empty() && self.connect_security_descriptor.is_empty()
    }

    fn access(&self) -> Result<Access, PlatformError> {
        let guest_dials = allows(&self.bind_security_descriptor)?;
        let host_dials = allows(&self.connect_security_descriptor)?;
        Ok(Access { guest_dials: guest_dials && !self.disabled, host_dials: host_dials && !self.disabled })
    }
}

/// Whether a descriptor lets anybody in. Whom, only a host with accounts of that kind can tell.
fn allows(descriptor: &str) -> Result<bool, PlatformError> {
    if descriptor.is_empty() {
        return Ok(false);
    }
    let bad = |why: &str| PlatformError::BadInput {
        what: "security descriptor",
        value: descriptor.to_owned(),
        why: format!("{why}; allowed is SDDL with an access list, like {}", HvSocketServiceConfig::OWNER),
    };
    let list = descriptor.split_once("D:").ok_or_else(|| bad("it has no access list (D:)"))?.1;
    // A list of audit entries may follow.
    let list = list.split_once("S:(").map_or(list, |(list, _)| list);
    if list.starts_with("NO_ACCESS_CONTROL") {
        return Ok(true);
    }
    let (flags, entries) = list.split_at(list.find('(').unwrap_or(list.len()));
    if !flags.chars().all(|c| matches!(c, 'P' | 'A' | 'R' | 'I')) {
        return Err(bad("its access list does not begin with flags and entries"));
    }
    if entries.is_empty() {
        return Ok(false);
    }
    let inner = entries.strip_prefix('(').and_then(|entries| entries.strip_suffix(')'));
    let entries = inner.ok_or_else(|| bad("its entries are not in brackets"))?;
    let mut allows = false;
    for entry in entries.split(")(") {
        if entry.split(';').count() < 6 {
            return Err(bad("an entry of its access list has fewer than six parts"));
        }
        allows |= matches!(entry.split(';').next(), Some("A" | "OA" | "XA"));
    }
    Ok(allows)
}

/// A side of a port that somebody wants to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketUse {
    /// The owner listens, the guest dials.
    GuestDials,
    /// The guest listens, the owner dials.
    HostDials,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Access {
    guest_dials: bool,
    host_dials: bool,
}

/// The services of one VM, on a host that has ports. What is not in it is denied.
#[derive(Debug, Default)]
pub struct HvSocketServices(BTreeMap<u32, Access>);

impl HvSocketServices {
    /// Whether [`update`](Self::update) would take it.
    ///
    /// # Errors
    /// As there.
    pub fn check(service: &HvSocketServiceId, config: &HvSocketServiceConfig) -> Result<(), PlatformError> {
        port(service)?;
        config.access().map(drop)
    }

    /// Creates, changes or removes a service, as the Host Compute Service does. Gives its port.
    ///
    /// # Errors
    /// [`PlatformError::BadInput`]: the id stands for no port, or a descriptor is none. Nothing was changed.
    pub fn update(
        &mut self,
        service: &HvSocketServiceId,
        config: &HvSocketServiceConfig,
    ) -> Result<Port, PlatformError> {
        let port = port(service)?;
        let access = config.access()?;
        if config.is_removal() {
            self.0.remove(&port.0);
        } else {
            self.0.insert(port.0, access);
        }
        Ok(port)
    }

    /// Removes a service if it is there. Gives its port.
    ///
    /// # Errors
    /// [`PlatformError::BadInput`]: the id stands for no port.
    pub fn remove(&mut self, service: &HvSocketServiceId) -> Result<Port, PlatformError> {
        let port = port(service)?;
        self.0.remove(&port.0);
        Ok(port)
    }

    /// Whether `wanted` is allowed on `port`.
    pub fn is_allowed(&self, port: Port, wanted: SocketUse) -> bool {
        let access = self.0.get(&port.0).copied().unwrap_or_default();
        match wanted {
            SocketUse::GuestDials => access.guest_dials,
            SocketUse::HostDials => access.host_dials,
        }
    }

    /// Passes if `wanted` is allowed on `port`.
    ///
    /// # Errors
    /// [`PlatformError::NotAllowed`].
    pub fn require(&self, port: Port, wanted: SocketUse) -> Result<(), PlatformError> {
        if self.is_allowed(port, wanted) {
            return Ok(());
        }
        let (intent, side) = match wanted {
            SocketUse::GuestDials => ("listen on", "guest dial it"),
            SocketUse::HostDials => ("dial", "host dial it"),
        };
        Err(PlatformError::NotAllowed {
            intent: format!("{intent} port {port} of the virtual sockets"),
            why: format!("no service lets the {side}; give the VM service {}", HvSocketServiceId::of_port(port.0)),
        })
    }
}

fn port(service: &HvSocketServiceId) -> Result<Port, PlatformError> {
    service.port().map(Port).ok_or_else(|| PlatformError::BadInput {
        what: "hvsocket service",
        value: service.to_string(),
        why: format!("it stands for no port of a Linux guest; PPPPPPPP{PORT_TEMPLATE} does, P being the port in hex"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_service_ids_and_back() {
        let id = HvSocketServiceId::of_port(0x4000_0000);
        assert_eq!(id.as_str(), "40000000-facb-11e6-bd58-64006a7986d3");
        assert_eq!(id.port(), Some(0x4000_0000));
        let upper = HvSocketServiceId::new("00001388-FACB-11E6-BD58-64006A7986D3");
        assert_eq!(upper.port(), Some(5000));
        for other in [
            "",
            "5000",
            "acef5661-84a1-4e44-856b-6245e69f4620",
            "+0001388-facb-11e6-bd58-64006a7986d3",
            "é".repeat(18).as_str(),
        ] {
            assert_eq!(HvSocketServiceId::new(other).port(), None, "{other}");
        }
    }

    #[test]
    fn a_descriptor_allows_if_an_entry_does() {
        let everybody = "O:SYG:SYD:NO_ACCESS_CONTROL";
        let audited = "D:(A;;GA;;;WD)S:(AU;SAFA;FA;;;WD)";
        for (descriptor, expected) in [
            ("", false),
            ("D:P", false),
            ("D:", false),
            (HvSocketServiceConfig::OWNER, true),
            ("D:(D;;FA;;;WD)", false),
            ("D:(D;;FA;;;AN)(A;;FA;;;WD)", true),
            ("O:BAG:SYD:PAI(A;;FA;;;SY)", true),
            (everybody, true),
            (audited, true),
        ] {
            assert_eq!(allows(descriptor).expect("a descriptor"), expected, "{descriptor}");
        }
        for bad in ["everybody", "O:SYG:SY", "D:x(A;;FA;;;SY)", "D:P(A;;FA;;;SY", "D:(A)"] {
            let error = allows(bad).expect_err("no descriptor").to_string();
            assert!(error.contains(bad) && error.contains("allowed is SDDL"), "{error}");
        }
    }

    #[test]
    fn what_no_service_allows_is_denied_by_name() {
        let mut services = HvSocketServices::default();
        let id = HvSocketServiceId::of_port(5000);
        let denied = services.require(Port(5000), SocketUse::GuestDials).expect_err("denied").to_string();
        assert!(denied.contains("listen on port 5000") && denied.contains(id.as_str()), "{denied}");
        services.update(&id, &HvSocketServiceConfig::guest_dials()).expect("updated");
        services.require(Port(5000), SocketUse::GuestDials).expect("allowed");
        let denied = services.require(Port(5000), SocketUse::HostDials).expect_err("denied").to_string();
        assert!(denied.contains("dial port 5000") && denied.contains("host dial it"), "{denied}");
        let disabled = HvSocketServiceConfig { disabled: true, ..HvSocketServiceConfig::both_dial() };
        services.update(&id, &disabled).expect("updated");
        assert!(!services.is_allowed(Port(5000), SocketUse::GuestDials) && services.0.contains_key(&5000));
        services.update(&id, &HvSocketServiceConfig { disabled: true, ..Default::default() }).expect("removed");
        assert!(services.0.is_empty());
        services.update(&id, &HvSocketServiceConfig::both_dial()).expect("updated");
        services.remove(&id).expect("there");
        services.remove(&id).expect("already gone is fine");
        let other = HvSocketServiceId::new("acef5661-84a1-4e44-856b-6245e69f4620");
        let error = services.update(&other, &HvSocketServiceConfig::both_dial()).expect_err("no port").to_string();
        assert!(error.contains("acef5661") && error.contains("PPPPPPPP"), "{error}");
    }
}
