//! A call of the host about one VM, and how long it may take.

use std::time::Duration;

use uvm_platform::{PlatformError, PlatformVm};

/// How long the host may take beyond a limit: it keeps that by itself, and says better what happened.
const GRACE: Duration = Duration::from_secs(1);

/// What the host does about "cannot `intent` the VM", for at most about `limit`.
pub(crate) async fn on_host<T>(
    vm: &dyn PlatformVm,
    intent: &'static str,
    limit: Duration,
    operation: impl Future<Output = Result<T, PlatformError>>,
) -> Result<T, PlatformError> {
    let done = tokio::time::timeout(limit + GRACE, operation).await;
    done.unwrap_or_else(|_| Err(too_late(vm, intent, limit)))
}

pub(super) fn too_late(vm: &dyn PlatformVm, intent: &'static str, waited: Duration) -> PlatformError {
    PlatformError::Timeout { what: format!("to {intent} the VM"), waited, last_words: Box::new(vm.last_words()) }
}
