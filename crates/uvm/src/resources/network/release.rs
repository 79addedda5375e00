//! Endpoints that were in a namespace of the host, to be let go of when it is not needed any more.

use uvm_platform::Platform;

use crate::error::UvmError;

/// A network namespace of the host and its endpoints, which [`release`](Self::release) takes out of it before it removes it.
/// Plain data: it belongs to no VM, and nothing happens when it is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkEndpoints {
    /// The namespace's id.
    pub namespace: String,
    /// The ids of its endpoints. They are not removed themselves.
    pub endpoint_ids: Vec<String>,
}

impl NetworkEndpoints {
    /// These endpoints of this namespace.
    pub fn new(namespace: impl Into<String>, endpoint_ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { namespace: namespace.into(), endpoint_ids: endpoint_ids.into_iter().map(Into::into).collect() }
    }

    /// Takes the endpoints out of the namespace, one by one, then removes it. What is not there any more is passed over, so
    /// this can be called again after it failed, or was given up: what is under way then goes on, the rest is not begun.
    ///
    /// # Errors
    /// [`UvmError::Host`]: this host has no such networks ([`Unsupported`](crate::ErrorKind::Unsupported)), an id is none,
    /// or the host refuses. What came after was not done.
    pub async fn release(&self) -> Result<(), UvmError> {
        let host =
            crate::host::blocking(crate::host::default_host).await.and_then(|host| host).map_err(UvmError::Host)?;
        self.release_on(&*host).await
    }

    /// As [`release`](Self::release), on `host`.
    ///
    /// # Errors
    /// As there.
    pub async fn release_on(&self, host: &dyn Platform) -> Result<(), UvmError> {
        let network = host.network().map_err(UvmError::Host)?;
        for endpoint in &self.endpoint_ids {
            network.remove_endpoint(&self.namespace, endpoint).await.map_err(UvmError::Host)?;
        }
        network.remove_namespace(&self.namespace).await.map_err(UvmError::Host)
    }
}
