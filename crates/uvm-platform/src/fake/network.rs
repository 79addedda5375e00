//! The networks of the fake host: what tests put there.

use super::FakePlatform;
use crate::BoxFuture;
use crate::capabilities::Feature;
use crate::error::PlatformError;
use crate::network::{AdapterName, Endpoint, PlatformNetwork};

impl FakePlatform {
    /// Puts a namespace on the host, with the description that Windows guests are told.
    pub fn add_namespace(&self, id: &str, description: &str) {
        self.lock().namespaces.insert(id.to_lowercase(), description.to_owned());
    }

    /// Puts an endpoint on the host.
    pub fn add_endpoint(&self, endpoint: Endpoint) {
        self.lock().endpoints.insert(endpoint.id.to_lowercase(), endpoint);
    }

    pub(super) fn networks(&self) -> Result<&dyn PlatformNetwork, PlatformError> {
        self.capabilities.require(Feature::NetworkAdapters)?;
        Ok(self)
    }
}

impl PlatformNetwork for FakePlatform {
    fn namespace<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<String>, PlatformError>> {
        Box::pin(async move {
            self.call(&format!("look at namespace {id}")).await?;
            Ok(self.lock().namespaces.get(&id.to_lowercase()).cloned())
        })
    }

    fn endpoint<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Endpoint>, PlatformError>> {
        Box::pin(async move {
            self.call(&format!("look at endpoint {id}")).await?;
            Ok(self.lock().endpoints.get(&id.to_lowercase()).cloned())
        })
    }

    fn remove_endpoint<'a>(
        &'a self,
        namespace: &'a str,
        endpoint: &'a str,
    ) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            self.call(&format!("take endpoint {endpoint} out of namespace {namespace}")).await?;
            if let Some(endpoint) = self.lock().endpoints.get_mut(&endpoint.to_lowercase())
                && endpoint.namespace.as_ref().is_some_and(|of| of.eq_ignore_ascii_case(namespace))
            {
                endpoint.namespace = None;
            }
            Ok(())
        })
    }

    fn remove_namespace<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            self.call(&format!("remove namespace {id}")).await?;
            self.lock().namespaces.remove(&id.to_lowercase());
            Ok(())
        })
    }

    fn adapter_name(&self) -> AdapterName {
        AdapterName::Id
    }
}
