//! Calls that may wait, on threads of their own.

use std::thread;

use tokio::sync::oneshot;
use uvm_wire::Hresult;

use crate::host::HcsError;

/// Makes a call on a thread of its own, under any runtime or none. A caller that gives up does not stop it.
pub(super) async fn blocking<T: Send + 'static>(
    intent: &'static str,
    call: impl FnOnce(&'static str) -> Result<T, HcsError> + Send + 'static,
) -> Result<T, HcsError> {
    let (reply, answer) = oneshot::channel();
    let call = move || {
        // A caller that gave up does not want the answer.
        let _ = reply.send(call(intent));
    };
    let spawned = thread::Builder::new().name("uvm-hcs-call".into()).spawn(call);
    spawned.map_err(|error| super::system_error(intent, "", &error))?;
    answer.await.unwrap_or_else(|_| Err(HcsError::new(intent, "", Hresult::FAIL, "an internal error (panic)")))
}
