//! Work that outlives its caller but not the VM.

use std::sync::{Arc, Weak};

use uvm_platform::PlatformVm;

/// Where a VM's own I/O runs. It does not keep the VM: one that nobody has a handle of ends, whatever is under way.
#[derive(Clone)]
pub(crate) struct Background(Weak<dyn PlatformVm>);

impl Background {
    pub(super) fn new(vm: &Arc<dyn PlatformVm>) -> Self {
        Self(Arc::downgrade(vm))
    }

    /// Runs `task`, unless the VM is gone: then there is nothing to do in it any more.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(vm) = self.0.upgrade() {
            vm.spawn(Box::pin(task));
        }
    }
}
