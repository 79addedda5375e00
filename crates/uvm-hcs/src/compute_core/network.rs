//! The network service of the host.

use std::ffi::c_void;

use uvm_platform::BoxFuture;
use uvm_wire::{Guid, Hresult};

use super::blocking::blocking;
use super::libraries::ComputeNetworkLibrary;
use super::owned::{TaskText, wide};
use super::{ComputeCore, check, system_error, system_guid};
use crate::document::network::{ReplyError, read_reply};
use crate::host::{HcsError, HostNetwork};

/// The handle of a namespace.
struct Namespace {
    library: &'static ComputeNetworkLibrary,
    handle: *mut c_void,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // SAFETY: it was opened and is closed once. That it cannot be closed costs a handle.
        unsafe { (self.library.HcnCloseNamespace)(self.handle) };
    }
}

impl ComputeCore {
    fn network(&self, intent: &'static str) -> Result<&'static ComputeNetworkLibrary, HcsError> {
        self.libraries.network().map_err(|error| system_error(intent, "", &error))
    }
}

impl HostNetwork for ComputeCore {
    fn namespaces<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<Vec<String>, HcsError>> {
        Box::pin(async move {
            let intent = "list network namespaces";
            let (library, query) = (self.network(intent)?, wide(query));
            blocking(intent, move |intent| {
                let (mut found, mut record) = (TaskText::default(), TaskText::default());
                // SAFETY: the query is terminated, the others are valid for writes and freed by their owners.
                let status = unsafe { (library.HcnEnumerateNamespaces)(query.as_ptr(), found.slot(), record.slot()) };
                check(intent, "", status, &record.take())?;
                let found = found.take();
                serde_json::from_str(&found).map_err(|_| HcsError::new(intent, "", Hresult::INVALID_JSON, &found))
            })
            .await
        })
    }

    fn namespace<'a>(&'a self, id: Guid, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        Box::pin(async move {
            let intent = "read network namespace";
            let (library, query) = (self.network(intent)?, wide(query));
            blocking(intent, move |intent| {
                let (name, guid) = (id.to_string(), system_guid(id));
                let mut record = TaskText::default();
                let mut handle = std::ptr::null_mut();
                // SAFETY: the id is valid for a read, the others for writes.
                let status = unsafe { (library.HcnOpenNamespace)(&raw const guid, &raw mut handle, record.slot()) };
                check("open network namespace", &name, status, &record.take())?;
                let namespace = Namespace { library, handle };
                let (mut found, mut record) = (TaskText::default(), TaskText::default());
                // SAFETY: the namespace is open, the query terminated, the others valid for writes.
                let status = unsafe {
                    (library.HcnQueryNamespaceProperties)(namespace.handle, query.as_ptr(), found.slot(), record.slot())
                };
                check(intent, &name, status, &record.take()).map(|()| found.take())
            })
            .await
        })
    }

    fn request<'a>(&'a self, method: &'a str, path: &'a str, body: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        Box::pin(async move {
            let intent = "have the network service do";
            let object = format!("{method} {path}");
            let library = self.libraries.older_network().map_err(|error| system_error(intent, &object, &error))?;
            let (method, path, body) = (wide(method), wide(path), wide(body));
            blocking(intent, move |intent| {
                let mut reply = TaskText::default();
                // SAFETY: the texts are terminated, the reply is valid for a write and freed by its owner.
                let status = unsafe { (library.HNSCall)(method.as_ptr(), path.as_ptr(), body.as_ptr(), reply.slot()) };
                let reply = reply.take();
                check(intent, &object, status, &reply)?;
                read_reply(&reply).map_err(|ReplyError { text }| HcsError::new(intent, object, Hresult::FAIL, &text))
            })
            .await
        })
    }
}
