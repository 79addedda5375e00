//! The networks of a Windows host.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use uvm_platform::network::{AdapterName, Endpoint, PlatformNetwork};
use uvm_platform::{BoxFuture, LastWords, PlatformError};
use uvm_wire::Guid;

use crate::document::network::{endpoint_path, namespace_path, namespace_query, read_endpoint, remove_endpoint};
use crate::home::Home;
use crate::host::{HcsError, HcsHost};
use crate::windows_build::WindowsBuild;

/// The networks of a Windows host, and where calls to them run.
pub(crate) struct HcsNetwork {
    host: Arc<dyn HcsHost>,
    place: Place,
    /// How long each call may take.
    limit: Duration,
}

/// Where calls run, so that they need no runtime of their caller.
enum Place {
    Home(Arc<Home>),
    Runtime(Handle),
    /// Each on a thread of its own.
    Thread,
}

impl HcsNetwork {
    /// Calls run at the home of a VM.
    pub(crate) fn at_home(host: Arc<dyn HcsHost>, home: Arc<Home>, limit: Duration) -> Self {
        Self { host, place: Place::Home(home), limit }
    }

    /// Calls run on this runtime, or each on a thread of its own.
    pub(crate) fn on(host: Arc<dyn HcsHost>, runtime: Option<Handle>, limit: Duration) -> Self {
        Self { host, place: runtime.map_or(Place::Thread, Place::Runtime), limit }
    }

    fn home(&self) -> Result<Arc<Home>, PlatformError> {
        Ok(match &self.place {
            Place::Home(home) => Arc::clone(home),
            Place::Runtime(runtime) => Arc::new(Home::on(runtime.clone())),
            Place::Thread => {
                Arc::new(Home::thread("network").map_err(|e| PlatformError::host("start a thread for a call", e))?)
            }
        })
    }

    /// Asks the host, within the limit. `None`: what was named is not there.
    async fn ask<T, F>(
        &self,
        intent: &'static str,
        call: impl FnOnce(Arc<dyn HcsHost>) -> F,
    ) -> Result<Option<T>, PlatformError>
    where
        T: Send + 'static,
        F: Future<Output = Result<Option<T>, HcsError>> + Send + 'static,
    {
        let (home, limit) = (self.home()?, self.limit);
        let call = call(Arc::clone(&self.host));
        let answer = home.run(async move { tokio::time::timeout(limit, call).await }).await;
        match answer {
            Some(Ok(Ok(found))) => Ok(found),
            Some(Ok(Err(error))) if error.is_not_found() => Ok(None),
            Some(Ok(Err(error))) => Err(PlatformError::host(intent, error)),
            Some(Err(_)) => {
                let what = format!("the network service, to {intent}");
                Err(PlatformError::Timeout { what, waited: limit, last_words: Box::new(LastWords::default()) })
            }
            None => Err(PlatformError::host(intent, "an internal error (panic)")),
        }
    }

    /// A request in the older style. `None`: what it names is not there.
    async fn request(
        &self,
        intent: &'static str,
        method: &'static str,
        path: String,
        body: String,
    ) -> Result<Option<String>, PlatformError> {
        let named = path.clone();
        let answer = self.ask(intent, |host| async move { host.request(method, &path, &body).await.map(Some) }).await?;
        if answer.is_none() && method != "GET" {
            tracing::warn!(method, path = named, "the host's network service knows nothing of it");
        }
        Ok(answer)
    }
}

impl PlatformNetwork for HcsNetwork {
    fn namespace<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<String>, PlatformError>> {
        Box::pin(async move {
            let id = guid(NAMESPACE, id)?;
            let look = |host: Arc<dyn HcsHost>| async move {
                let query = namespace_query(id);
                let found = host.namespaces(&query).await?;
                if found.iter().any(|found| found.parse() == Ok(id)) {
                    host.namespace(id, &query).await.map(Some)
                } else {
                    Ok(None)
                }
            };
            self.ask("look at a network namespace", look).await
        })
    }

    fn endpoint<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Endpoint>, PlatformError>> {
        Box::pin(async move {
            let path = endpoint_path(guid(ENDPOINT, id)?);
            let description = self.request("look at a network endpoint", "GET", path, String::new()).await?;
            Ok(description.as_deref().map(read_endpoint).transpose()?)
        })
    }

    fn remove_endpoint<'a>(
        &'a self,
        namespace: &'a str,
        endpoint: &'a str,
    ) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            let (path, body) = remove_endpoint(guid(NAMESPACE, namespace)?, guid(ENDPOINT, endpoint)?);
            self.request("take an endpoint out of a network namespace", "POST", path, body).await.map(drop)
        })
    }

    fn remove_namespace<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), PlatformError>> {
        Box::pin(async move {
            let path = namespace_path(guid(NAMESPACE, id)?);
            self.request("remove a network namespace", "DELETE", path, String::new()).await.map(drop)
        })
    }

    fn adapter_name(&self) -> AdapterName {
        if self.host.build() >= WindowsBuild::RS5 { AdapterName::Id } else { AdapterName::InstanceId }
    }
}

const NAMESPACE: &str = "id of a network namespace";
const ENDPOINT: &str = "id of a network endpoint";

fn guid(what: &'static str, id: &str) -> Result<Guid, PlatformError> {
    let bad =
        |e: uvm_wire::guid::InvalidGuid| PlatformError::BadInput { what, value: id.to_owned(), why: e.to_string() };
    id.parse().map_err(bad)
}
