//! What is known of a VM without asking anybody.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uvm_platform::{Accelerator, UvmId};
use uvm_wire::negotiate::{Capabilities, GuestOs, PROTOCOL_VERSION};

use super::UtilityVm;
use crate::options::MemoryBacking;

impl UtilityVm {
    /// The VM's id.
    pub fn id(&self) -> &UvmId {
        &self.inner.id
    }

    /// The guest's operating system.
    pub fn os(&self) -> GuestOs {
        self.inner.os
    }

    /// Whether processes are described by an OCI specification: never those of a VM itself.
    pub fn is_oci(&self) -> bool {
        false
    }

    /// How many processors the VM has: those asked for, or as many as the host has if that is less.
    pub fn processor_count(&self) -> u32 {
        self.inner.processor_count
    }

    /// Whether its memory was taken from the host when it was created.
    pub fn physically_backed(&self) -> bool {
        self.inner.backing.is_physical()
    }

    /// Whether devices that are added have to be backed physically, too.
    pub fn devices_physically_backed(&self) -> bool {
        self.inner.backing == MemoryBacking::FullyPhysical
    }

    /// What runs the guest's instructions.
    pub fn accelerator(&self) -> Accelerator {
        self.inner.vm.accelerator()
    }

    /// What the guest's agent can do; `None` before it was asked, at the end of [`start`](Self::start).
    pub fn capabilities(&self) -> Option<Arc<Capabilities>> {
        let by_bridge = self.inner.status.borrow().guest.as_ref().map(|guest| Arc::clone(&guest.capabilities));
        by_bridge.or_else(|| self.inner.host_connection.get().map(|host| Arc::clone(&host.capabilities)))
    }

    /// The version of the protocol that was agreed on with the guest's agent; `None` before.
    pub fn protocol_version(&self) -> Option<u32> {
        let by_bridge = self.inner.status.borrow().guest.as_ref().map(|_| PROTOCOL_VERSION);
        by_bridge.or_else(|| self.inner.host_connection.get().map(|host| host.protocol_version))
    }

    /// Whether the guest's agent can signal processes of containers.
    pub fn signal_process_supported(&self) -> bool {
        self.capabilities().is_some_and(|capabilities| capabilities.guest_defined.signal_process)
    }

    /// Whether [`delete_container_state`](Self::delete_container_state) works: by this library's own connection only.
    pub fn delete_container_state_supported(&self) -> bool {
        let guest = self.inner.status.borrow().guest.clone();
        guest.is_some_and(|guest| guest.capabilities.guest_defined.delete_container_state)
    }

    /// A number for a container, never given before, from 1 on: where its files are laid out in the guest.
    pub fn container_counter(&self) -> u64 {
        self.inner.containers_counted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A number for a mount, never given before, from 1 on: where it is in the guest.
    pub fn mount_counter(&self) -> u64 {
        self.inner.mounts_counted.fetch_add(1, Ordering::Relaxed) + 1
    }
}
