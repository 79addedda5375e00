//! New limits of a container.

use super::options::object;
use super::{Container, Way};
use crate::error::UvmError;

impl Container {
    /// Changes its limits: `resources` is the `linux.resources` of an OCI specification as JSON, of which only what is to
    /// change must be there.
    ///
    /// A caller that gives up does not call the change back.
    ///
    /// # Errors
    /// [`UvmError::Container`]: it is no JSON object; or the guest refused, also one that cannot change limits; or did not
    /// answer, in which case they may yet change. [`UvmError::GuestUnsupported`] where the host's service holds the guest
    /// connection: it does not pass new limits on.
    pub async fn update(&self, resources: &str) -> Result<(), UvmError> {
        let intent = "update";
        let (resources, _) = object("resources", resources).map_err(|e| self.failed(intent, e))?;
        match &self.way {
            Way::Bridge(container) => container.update(&self.vm, intent, resources).await,
            Way::Host(_) => Err(self.unsupported("changing the limits of a container")),
        }
    }
}
