//! Network namespaces in the guest, and adapters, by which endpoints of the host's networks are in them.
//!
//! Both are things of the one table. An adapter is there only with its namespace: it is added to one that is there, and the
//! namespace goes after the last. Ids are compared without regard to case, as guests and hosts do.

mod guest;
mod release;

use uvm_platform::PlatformError;
use uvm_platform::network::{Endpoint, PlatformNetwork};
use uvm_platform::requests::{Device, NetworkAdapter};
use uvm_wire::RawJson;
use uvm_wire::modify::{Modification, RequestType};
use uvm_wire::negotiate::GuestOs;

use super::table::Fit;
use super::{Held, Key, Plan, ResourceError, Wanted};
use crate::error::UvmError;
use crate::vm::{UtilityVm, on_host, random_guid};

use guest::Addresses;
pub use release::NetworkEndpoints;

/// A namespace or an adapter.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(super) key: Key,
    pub(super) plan: Box<Plan>,
}

/// A namespace is added once; an adapter that is there is had by whoever asks for it.
pub(super) fn fit(part: &Part) -> Result<Fit, ResourceError> {
    match part.key {
        Key::Namespace(_) => Err(ResourceError::NamespaceAlreadyAdded),
        _ => Ok(Fit::AsIs),
    }
}

/// What is told of a namespace when it goes: as the host describes it then, or as it was, if the host has it no more.
pub(super) fn namespace_removed(description: Option<&str>, otherwise: &Modification) -> Modification {
    let description = description.and_then(|text| RawJson::parse(text).ok());
    description.map_or_else(|| otherwise.clone(), |now| Modification::remove(guest::windows_namespace(now)))
}

pub(super) fn namespace_key(id: &str) -> Key {
    Key::Namespace(id.to_lowercase())
}

fn adapter_key(namespace: &str, endpoint: &str) -> Key {
    Key::Adapter { namespace: namespace.to_lowercase(), endpoint: endpoint.to_lowercase() }
}

fn namespace_name(id: &str) -> String {
    format!("network namespace {id}")
}

fn endpoint_name(id: &str) -> String {
    format!("network endpoint {id}")
}

impl UtilityVm {
    /// Adds a network namespace to the guest, by the id of a namespace of the host, for containers to be put into. A Windows
    /// guest that knows namespaces is told how the host describes it; others learn of it from their first adapter.
    /// Cancel-safe: what was done is undone in the background.
    ///
    /// ```no_run
    /// # async fn example(vm: uvm::UtilityVm) -> Result<(), uvm::UvmError> {
    /// let (namespace, endpoint) = ("b1b2b3b4-0000-4000-9000-000000000001", "a1b2c3d4-0000-4000-9000-0000000000e1");
    /// vm.add_network_namespace(namespace).await?;
    /// let found = vm.find_endpoint(endpoint).await?;
    /// vm.add_endpoints(namespace, found.as_slice()).await?;
    /// // ... containers whose specification names the namespace ...
    /// vm.remove_network_namespace(namespace).await?;
    /// uvm::NetworkEndpoints::new(namespace, [endpoint]).release().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UvmError::Resource`], and nothing is left: the namespace was added before
    /// ([`ResourceError::NamespaceAlreadyAdded`]), the host has none of this id ([`ResourceError::NotOnHost`]) or no
    /// networks for VMs ([`Unsupported`](crate::ErrorKind::Unsupported)), the id is empty, the host or the guest refused.
    /// [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_network_namespace(&self, id: &str) -> Result<(), UvmError> {
        let what = namespace_name(id);
        let fail = |source| self.inner.resource_error("add", &what, source);
        check_id("id of a network namespace", id).map_err(fail)?;
        let network = self.network().map_err(fail)?;
        if self.adapters(id).await?.is_some() {
            return Err(fail(ResourceError::NamespaceAlreadyAdded));
        }
        let mut plan = Plan::default();
        if self.os() == GuestOs::Windows && self.knows_namespaces() {
            let looked = on_host(
                &*self.inner.vm,
                "look at a network namespace for",
                self.inner.deadlines.host_call,
                network.namespace(id),
            );
            let description = looked.await.map_err(|e| fail(ResourceError::Host(e)))?;
            let description =
                description.ok_or_else(|| fail(ResourceError::NotOnHost { what: "network namespace" }))?;
            let description = RawJson::parse(&description).map_err(|e| {
                fail(ResourceError::Host(PlatformError::host("read the description of a network namespace", e)))
            })?;
            plan.namespace = Some(id.to_owned());
            plan.guest_add = Some(Modification::add(guest::windows_namespace(description.clone())));
            plan.guest_remove = Some(Modification::remove(guest::windows_namespace(description)));
        }
        self.attach(what.clone(), Wanted::Network(Part { key: namespace_key(id), plan: Box::new(plan) })).await?.keep();
        Ok(())
    }

    /// Removes all adapters of a network namespace, in the order in which they were added, then the namespace; nothing is
    /// done if it is not there. One that the host has no more goes, too. Cancel-safe: what is under way goes on, the rest is
    /// not begun; call it again.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest or the host did not let go, or an endpoint was added or was still going meanwhile
    /// ([`ResourceError::NamespaceInUse`]). What had gone before is gone; this can be called again for the rest.
    /// [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn remove_network_namespace(&self, id: &str) -> Result<(), UvmError> {
        let Some(adapters) = self.adapters(id).await? else { return Ok(()) };
        for adapter in adapters {
            self.remove_adapter(adapter).await?;
        }
        gone(self.detach(namespace_name(id), namespace_key(id)).await).map(drop)
    }

    /// Gives the VM an adapter for each of these endpoints, in a namespace that was added, unless it has one there already.
    /// A Linux guest is told the namespace of the endpoint itself. Cancel-safe: adapters that this call added are removed in
    /// the background.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the namespace was not added ([`ResourceError::NamespaceNotFound`]); an endpoint cannot be
    /// used: no id, in no namespace (Linux guests), no description of the host's (Windows guests); or the host or the guest
    /// refused one. Adapters that this call added are removed again, so that the namespace is as it was.
    /// [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_endpoints(&self, namespace: &str, endpoints: &[Endpoint]) -> Result<(), UvmError> {
        self.known_adapters("add endpoints to", namespace).await?;
        let make = |endpoint: &Endpoint| {
            let what = endpoint_name(&endpoint.id);
            match self.adapter(namespace, endpoint) {
                Ok(part) => Ok((what, part)),
                Err(source) => Err(self.inner.resource_error("add", &what, source)),
            }
        };
        // All are looked at before the first is added.
        let parts = endpoints.iter().map(make).collect::<Result<Vec<_>, _>>()?;
        let mut added: Vec<Held> = Vec::with_capacity(parts.len());
        for (what, part) in parts {
            match self.attach(what, Wanted::Network(part)).await {
                Ok(held) => added.push(held),
                Err(error) => {
                    while let Some(held) = added.pop() {
                        if let Err(e) = held.release().await {
                            // Dropping it tries once more.
                            tracing::warn!(error = crate::error::chain(&e), "an endpoint that was added stays");
                        }
                    }
                    return Err(error);
                }
            }
        }
        added.into_iter().for_each(Held::keep);
        Ok(())
    }

    /// Takes the adapters of the endpoints with these ids from the VM; one that is not in the namespace is passed over.
    /// Cancel-safe: what is under way goes on, the rest is not begun; call it again.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the namespace was not added ([`ResourceError::NamespaceNotFound`]), or the guest or the host
    /// did not let go of one. Those before it are gone; this can be called again for the rest. [`UvmError::Refused`],
    /// [`UvmError::Exited`].
    pub async fn remove_endpoints(&self, namespace: &str, ids: &[impl AsRef<str>]) -> Result<(), UvmError> {
        let there = self.known_adapters("remove endpoints from", namespace).await?;
        for id in ids {
            let key = adapter_key(namespace, id.as_ref());
            if there.contains(&key) {
                self.remove_adapter(key).await?;
            }
        }
        Ok(())
    }

    /// How the host describes the endpoint of this id; `None`: it has none.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: it has no networks for VMs ([`Unsupported`](crate::ErrorKind::Unsupported)), no endpoint can
    /// have such an id, or the host fails.
    pub async fn find_endpoint(&self, id: &str) -> Result<Option<Endpoint>, UvmError> {
        let fail = |source| self.inner.resource_error("find", &endpoint_name(id), source);
        let network = self.network().map_err(fail)?;
        let (vm, limit) = (&*self.inner.vm, self.inner.deadlines.host_call);
        let found = on_host(vm, "look at a network endpoint for", limit, network.endpoint(id)).await;
        found.map_err(|e| fail(ResourceError::Host(e)))
    }

    fn network(&self) -> Result<&dyn PlatformNetwork, ResourceError> {
        self.inner.vm.network().map_err(ResourceError::Host)
    }

    fn knows_namespaces(&self) -> bool {
        self.capabilities().is_some_and(|guest| guest.guest_defined.namespace_add_request)
    }

    fn adapter(&self, namespace: &str, endpoint: &Endpoint) -> Result<Part, ResourceError> {
        check_id("id of a network endpoint", &endpoint.id)?;
        let id = self.inner.vm.new_guid().unwrap_or_else(random_guid).map_err(ResourceError::Host)?;
        let (mut guest_before, mut guest_add, mut guest_remove) = (None, None, None);
        match self.os() {
            GuestOs::Windows => {
                let name = self.network()?.adapter_name();
                let tell = |kind, endpoint| Some(guest::windows(&id, name, kind, endpoint));
                guest_before = tell(RequestType::PreAdd, Some(description_of(endpoint)?));
                guest_add = tell(RequestType::Add, None);
                guest_remove = tell(RequestType::Remove, None);
            }
            GuestOs::Linux if self.knows_namespaces() => {
                let capabilities = self.capabilities().map(|guest| guest.guest_defined.clone()).unwrap_or_default();
                let addresses = Addresses::understood_by(&capabilities);
                // Guests look for it in lower case.
                let of = endpoint.namespace.as_deref().unwrap_or_default().to_lowercase();
                guest_add = Some(guest::linux_added(&id, &of, endpoint, addresses)?);
                guest_remove = Some(guest::linux_removed(&id, &of));
            }
            GuestOs::Linux => {}
        }
        let (endpoint_id, mac_address) = (endpoint.id.clone(), endpoint.mac_address.clone());
        let device = Some(Device::Network(NetworkAdapter { adapter_id: id, endpoint_id, mac_address }));
        let plan = Plan { guest_before, device, guest_add, guest_remove, ..Plan::default() };
        Ok(Part { key: adapter_key(namespace, &endpoint.id), plan: Box::new(plan) })
    }

    /// The adapters of a namespace that must be there.
    async fn known_adapters(&self, intent: &'static str, namespace: &str) -> Result<Vec<Key>, UvmError> {
        let unknown =
            || self.inner.resource_error(intent, &namespace_name(namespace), ResourceError::NamespaceNotFound);
        self.adapters(namespace).await?.ok_or_else(unknown)
    }

    async fn remove_adapter(&self, key: Key) -> Result<(), UvmError> {
        let Key::Adapter { endpoint, .. } = &key else { return Ok(()) };
        let what = endpoint_name(endpoint);
        // Whoever added it has a count of it.
        while gone(self.detach(what.clone(), key.clone()).await)? == Gone::Now {}
        Ok(())
    }
}

/// Since when something is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gone {
    Now,
    Before,
}

fn gone(detached: Result<(), UvmError>) -> Result<Gone, UvmError> {
    match detached {
        Ok(()) => Ok(Gone::Now),
        Err(UvmError::Resource { source, .. }) if matches!(*source, ResourceError::NotAttached) => Ok(Gone::Before),
        Err(error) => Err(error),
    }
}

fn check_id(what: &'static str, id: &str) -> Result<(), ResourceError> {
    if !id.is_empty() {
        return Ok(());
    }
    Err(ResourceError::BadInput { what, value: String::new(), allowed: "it must not be empty" })
}

fn description_of(endpoint: &Endpoint) -> Result<RawJson, ResourceError> {
    let description = endpoint.description.as_deref();
    description.and_then(|text| RawJson::parse(text).ok()).ok_or_else(|| ResourceError::BadInput {
        what: "network endpoint",
        value: endpoint.id.clone(),
        allowed: "for a Windows guest it must have the host's description, which is JSON",
    })
}
