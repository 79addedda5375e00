//! Requests to the guest's agent about the VM's own resources, as they go over the bridge.

use uvm_wire::ContainerId;
use uvm_wire::modify::{Modification, ModifySettings, Resource};

use super::UtilityVm;
use crate::error::UvmError;

impl UtilityVm {
    /// Has the guest's agent add, remove or update one resource: mount a disk, combine layers, ... Only the guest's half of
    /// it: what a disk or an adapter needs of the host must be there, and this library keeps no account of what is done
    /// so, undoes nothing, and does not know when it is in use.
    ///
    /// Waits at most [`rpc`](crate::Deadlines::rpc). A caller that gives up does not call the request back.
    ///
    /// ```no_run
    /// # async fn example(vm: uvm::UtilityVm) -> Result<(), uvm::UvmError> {
    /// use uvm::wire::modify::{CombinedLayers, Layer, Modification, Resource};
    ///
    /// let layers = CombinedLayers {
    ///     container_root_path: "/run/gcs/c/web/rootfs".into(),
    ///     layers: vec![Layer { path: "/run/layers/p1".into(), ..Layer::default() }],
    ///     scratch_path: "/run/gcs/c/web/scratch".into(),
    ///     ..CombinedLayers::default()
    /// };
    /// vm.guest_request(Modification::add(Resource::CombinedLayers(layers))).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UvmError::GuestRequest`]: it names no resource, has `null` for its settings, or is for a container, which
    /// [`Container::update`](crate::Container::update) is for; the guest was not asked. [`UvmError::Guest`]: the guest
    /// refused, or did not answer, in which case it may yet be done. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn guest_request(&self, request: Modification) -> Result<(), UvmError> {
        let intent = "modify";
        let guest = self.inner.guest(intent)?;
        if let Some(why) = senseless(&request.resource) {
            let resource = request.resource.name().to_owned();
            return Err(UvmError::GuestRequest { id: self.inner.id.clone(), resource, why });
        }
        let call = ModifySettings { modification: request };
        self.inner.call(&guest, &ContainerId::UVM, intent, call).await.map(drop)
    }
}

/// What no agent can make sense of, where the type does not rule it out already.
fn senseless(resource: &Resource) -> Option<&'static str> {
    match resource {
        Resource::Other { resource_type, .. } if resource_type.is_empty() => Some("it has no name"),
        Resource::Other { settings: Some(settings), .. } if settings.get() == "null" => Some("its settings are null"),
        Resource::ContainerConstraints(_) => Some("it is one of a container, not of the VM"),
        _ => None,
    }
}
