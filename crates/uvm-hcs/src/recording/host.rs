//! The parts of a host in memory besides its systems and sockets.

use std::io;
use std::sync::Arc;

use uvm_platform::BoxFuture;
use uvm_wire::{Guid, Hresult};

use super::{RecordedCall, RecordingHcs};
use crate::host::{
    AccessGrants, FileKind, FileStat, Guids, HcsError, HcsHost, HostFiles, HostNetwork, HostProcesses, MemoryProcess,
    ServiceProperties,
};
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

impl HcsHost for RecordingHcs {
    fn build(&self) -> WindowsBuild {
        self.build
    }
}

impl ServiceProperties for RecordingHcs {
    fn service_properties<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        let call = RecordedCall::new("hcs", "get_service_properties").with(query);
        let own = || format!(r#"{{"Properties":[{{"LogicalProcessorCount":{}}}]}}"#, self.logical_processors);
        Box::pin(self.ask(call, "read properties of the compute service", own))
    }

    fn modify_service<'a>(&'a self, settings: &'a str) -> BoxFuture<'a, Result<(), HcsError>> {
        let call = RecordedCall::new("hcs", "modify_service_settings").with(settings);
        Box::pin(self.call(call, "change the compute service"))
    }
}

impl RecordingHcs {
    fn grant(&self, op: &str, vm: Option<&str>, path: &WinPath, intent: &'static str) -> Granting<'_> {
        let call = RecordedCall { id: vm.map(str::to_owned), ..RecordedCall::new("grant", op) };
        // A path is no JSON, even if it looks like some.
        let call = RecordedCall { json: uvm_wire::RawJson::of(&path.as_str()).ok(), ..call };
        let path = path.clone();
        Box::pin(async move {
            let failed = |error| HcsError { object: path.to_string(), ..error };
            self.call(call, intent).await.map_err(failed)
        })
    }
}

type Granting<'a> = BoxFuture<'a, Result<(), HcsError>>;

impl AccessGrants for RecordingHcs {
    fn grant_vm<'a>(&'a self, vm: &'a str, path: &'a WinPath) -> Granting<'a> {
        self.grant("vm", Some(vm), path, "let a VM open")
    }

    fn revoke_vm<'a>(&'a self, vm: &'a str, path: &'a WinPath) -> Granting<'a> {
        self.grant("revoke vm", Some(vm), path, "keep a VM from opening")
    }

    fn grant_vm_group<'a>(&'a self, path: &'a WinPath) -> Granting<'a> {
        self.grant("vmgroup", None, path, "let VMs open")
    }
}

impl HostNetwork for RecordingHcs {
    /// Without a script there is no namespace.
    fn namespaces<'a>(&'a self, query: &'a str) -> BoxFuture<'a, Result<Vec<String>, HcsError>> {
        Box::pin(async move {
            let intent = "list network namespaces";
            let call = RecordedCall::new("hcn", "enumerate_namespaces").with(query);
            let answer = self.ask(call, intent, || "[]".to_owned()).await?;
            serde_json::from_str(&answer).map_err(|_| HcsError::new(intent, query, Hresult::INVALID_JSON, &answer))
        })
    }

    /// Without a script every namespace is an empty object.
    fn namespace<'a>(&'a self, id: Guid, query: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        Box::pin(async move {
            let open = RecordedCall::new("hcn", "open_namespace").on(id.to_string());
            self.call(open, "open network namespace").await?;
            let ask = RecordedCall::new("hcn", "query_namespace").on(id.to_string()).with(query);
            self.ask(ask, "read network namespace", || "{}".to_owned()).await
        })
    }

    fn request<'a>(&'a self, method: &'a str, path: &'a str, body: &'a str) -> BoxFuture<'a, Result<String, HcsError>> {
        let call = RecordedCall::new("hns", method).on(path);
        let call = if body.is_empty() { call } else { call.with(body) };
        Box::pin(self.ask(call, "have the network service do", String::new))
    }
}

impl HostProcesses for RecordingHcs {
    fn memory_process(&self, runtime_id: Guid) -> BoxFuture<'_, Result<Arc<dyn MemoryProcess>, HcsError>> {
        Box::pin(async move {
            let intent = "find the memory process of";
            self.call(RecordedCall::new("process", "enumerate"), intent).await?;
            if !self.lock().working_sets.contains_key(&runtime_id) {
                return Err(HcsError::new(intent, runtime_id.to_string(), Hresult::NOT_FOUND, ""));
            }
            Ok(Arc::new(RecordedMemoryProcess { host: self.clone(), runtime_id }) as Arc<dyn MemoryProcess>)
        })
    }
}

struct RecordedMemoryProcess {
    host: RecordingHcs,
    runtime_id: Guid,
}

impl MemoryProcess for RecordedMemoryProcess {
    fn working_set(&self) -> BoxFuture<'_, Result<u64, HcsError>> {
        Box::pin(async move {
            let intent = "read the working set of the memory process of";
            self.host.call(RecordedCall::new("process", "memory_info of vmmem"), intent).await?;
            let bytes = self.host.lock().working_sets.get(&self.runtime_id).copied();
            bytes.ok_or_else(|| HcsError::new(intent, self.runtime_id.to_string(), Hresult::NOT_FOUND, ""))
        })
    }
}

impl Guids for RecordingHcs {
    /// They count up: `00000000-0000-4000-8000-000000000001` is the first.
    fn new_guid(&self) -> io::Result<Guid> {
        let mut state = self.lock();
        state.guids_drawn += 1;
        Ok(Guid::from_u128(0x4000_8000_0000_0000_0000 | u128::from(state.guids_drawn)))
    }
}

impl RecordingHcs {
    /// Only what changes files is written down.
    fn change_files<'a>(
        &'a self,
        op: &'static str,
        path: &'a WinPath,
        change: impl FnOnce(&mut super::State) -> io::Result<()> + Send + 'a,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.call(RecordedCall::new("files", op).on(path.as_str()), op).await.map_err(io::Error::other)?;
            change(&mut self.lock())
        })
    }
}

impl HostFiles for RecordingHcs {
    fn stat<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<Option<FileStat>>> {
        Box::pin(async move { Ok(self.lock().files.stat(path)) })
    }

    fn create_directory<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        self.change_files("create_directory", path, |state| state.files.create_directory(path))
    }

    fn copy_new<'a>(&'a self, from: &'a WinPath, to: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        self.change_files("copy", to, |state| state.files.copy_new(from, to))
    }

    fn remove_file<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        self.change_files("remove_file", path, |state| state.files.remove(path, FileKind::File))
    }

    fn remove_directory<'a>(&'a self, path: &'a WinPath) -> BoxFuture<'a, io::Result<()>> {
        self.change_files("remove_directory", path, |state| state.files.remove(path, FileKind::Directory))
    }

    fn has_file_ids<'a>(&'a self, directory: &'a WinPath) -> BoxFuture<'a, io::Result<bool>> {
        Box::pin(async move {
            let state = self.lock();
            match state.files.stat(directory) {
                Some(_) => Ok(!state.has_no_file_ids),
                None => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }
}
