//! New limits of a container.

use uvm_wire::modify::{ContainerConstraints, Modification, ModifySettings, Resource};
use uvm_wire::system::UpdateContainer;

use super::Container;
use super::options::object;
use crate::error::UvmError;

impl Container {
    /// Changes its limits: `resources` is the `linux.resources` of an OCI specification as JSON, of which only what is to
    /// change must be there.
    ///
    /// A caller that gives up does not call the change back.
    ///
    /// # Errors
    /// [`UvmError::Container`]: it is no JSON object; or the guest refused, also one that cannot change limits; or did not
    /// answer, in which case they may yet change.
    pub async fn update(&self, resources: &str) -> Result<(), UvmError> {
        let intent = "update";
        let (resources, _) = object("resources", resources).map_err(|e| self.failed(intent, e))?;
        if self.guest.capabilities.guest_defined.update_container {
            let call = UpdateContainer { resources: Some(resources) };
            return self.call(intent, call).await.map(drop);
        }
        let constraints = Resource::ContainerConstraints(ContainerConstraints::linux(resources));
        let modification = Modification::update(constraints);
        self.call(intent, ModifySettings { modification }).await.map(drop)
    }
}
