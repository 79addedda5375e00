//! Layers put over each other in the guest: a container's root file system.

use uvm_wire::modify::{CombinedLayers as GuestLayers, Layer, Modification, Resource};

use super::{Held, Plan, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

/// Layers to combine. Everything is a path of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlay {
    pub(crate) layers: Vec<Layer>,
    pub(crate) scratch: String,
    pub(crate) root: String,
}

pub(super) fn plan(overlay: &Overlay) -> Plan {
    let all = GuestLayers {
        container_root_path: overlay.root.clone(),
        layers: overlay.layers.clone(),
        scratch_path: overlay.scratch.clone(),
        ..GuestLayers::default()
    };
    let root = GuestLayers { container_root_path: overlay.root.clone(), ..GuestLayers::default() };
    Plan {
        guest_add: Some(Modification::add(Resource::CombinedLayers(all))),
        guest_remove: Some(Modification::remove(Resource::CombinedLayers(root))),
        ..Plan::default()
    }
}

/// Layers that are combined. Dropping it takes them apart in the background.
/// What cannot be given back then is tried again, as with a [`ScsiMount`](crate::ScsiMount).
#[derive(Debug)]
pub struct CombinedLayers {
    held: Held,
    root: String,
}

impl CombinedLayers {
    /// Where the result is in the guest.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Has the guest take them apart.
    ///
    /// Cancel-safe, as [`ScsiMount::release`](crate::ScsiMount::release).
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest did not do it; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Combines layers of a Linux guest, the top one first, at `root`; what is written goes to `scratch`, and an empty one
    /// makes the result read-only. All are paths of the guest. Each call is one of its own: whether the guest puts a second
    /// one over the first at the same root is up to the guest. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the guest refused, and nothing is left. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn combine_layers_lcow(
        &self,
        layers: &[String],
        scratch: &str,
        root: &str,
    ) -> Result<CombinedLayers, UvmError> {
        let layers = layers.iter().map(|path| Layer { path: path.clone(), ..Layer::default() }).collect();
        self.combine(Overlay { layers, scratch: scratch.into(), root: root.into() }).await
    }

    /// Combines layers of a Windows guest, each an id and a path of the guest, at `root`. Cancel-safe.
    ///
    /// # Errors
    /// As [`combine_layers_lcow`](Self::combine_layers_lcow).
    pub async fn combine_layers_wcow(
        &self,
        layers: &[(String, String)],
        root: &str,
    ) -> Result<CombinedLayers, UvmError> {
        let layers = layers.iter().map(|(id, path)| Layer { id: id.clone(), path: path.clone() }).collect();
        self.combine(Overlay { layers, scratch: String::new(), root: root.into() }).await
    }

    async fn combine(&self, overlay: Overlay) -> Result<CombinedLayers, UvmError> {
        let root = overlay.root.clone();
        let held = self.attach(format!("layers combined at {root}"), Wanted::Layers(overlay)).await?;
        Ok(CombinedLayers { held, root })
    }

    /// Takes apart what was combined at `root` last, whoever has it.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not combined, or as [`CombinedLayers::release`].
    pub async fn remove_combined_layers(&self, root: &str) -> Result<(), UvmError> {
        self.detach_layers(format!("layers combined at {root}"), root).await
    }
}
