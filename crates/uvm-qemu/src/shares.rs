//! 9P shares: directories of the host, served to the guest on a port of the agent's transport.
//!
//! The server reads what the guest sends, so it has a thread of its own, from the first share on: a panic there ends the
//! VM's shares and nothing else.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinSet;
use uvm_p9::tree::{Access, Descriptors, TreeOptions};
use uvm_p9::{Limits, Share, Shares as Exports};
use uvm_platform::requests::Plan9Export;
use uvm_platform::{GuestListener, PlatformError, Port, VmThread};

use crate::vm::Vm;

/// Mounts that a guest may have at a time: each takes threads and memory of this process.
const MOUNTS: usize = 128;

/// The shares of one VM, and who serves them.
pub(crate) struct Shares {
    exports: Arc<Exports>,
    /// What the VM's shares draw on.
    descriptors: Descriptors,
    server: Mutex<Option<Server>>,
}

/// Serves on one port until it is dropped.
struct Server {
    port: Port,
    _thread: VmThread,
}

impl Default for Shares {
    fn default() -> Self {
        let descriptors = PROCESS.part(Most::of_process().vm);
        Self { exports: Arc::default(), descriptors, server: Mutex::default() }
    }
}

impl Shares {
    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything: the VM has ended.
    pub(crate) fn close(&self) {
        drop(self.server().take());
    }
}

impl Vm {
    /// Serves a directory under a name.
    pub(crate) async fn add_share(&self, export: Plan9Export) -> Result<(), PlatformError> {
        let (name, port) = (export.name.clone(), export.port);
        let descriptors = self.shares.descriptors.part(Most::of_process().share);
        let opened = tokio::task::spawn_blocking(move || open(export, descriptors)).await;
        let share = opened.unwrap_or_else(|e| Err(PlatformError::host("open a share", e)))?;
        self.serve_shares(port)?;
        self.shares
            .exports
            .add(share)
            .map_err(|_| PlatformError::host(format!("share under the name {name:?}"), "a share has this name"))
    }

    /// Ends a share, and whatever the guest has open there. One that is not there has ended.
    pub(crate) fn remove_share(&self, export: &Plan9Export) {
        self.shares.exports.remove(export.name.as_bytes());
    }

    /// Listens, if nobody does yet.
    fn serve_shares(&self, port: Port) -> Result<(), PlatformError> {
        let mut server = self.shares.server();
        match &*server {
            Some(server) if server.port == port => return Ok(()),
            Some(server) => {
                let why = format!("shares are served on port {} already", server.port);
                return Err(PlatformError::host(format!("serve shares on port {port}"), why));
            }
            None => {}
        }
        let listener = self.transport.get().listen(port)?;
        let thread = VmThread::start(&format!("{}-9p", self.id))
            .map_err(|e| PlatformError::host("start the thread of a VM's shares", e))?;
        thread.handle().spawn(serve(listener, Arc::clone(&self.shares.exports), self.id.to_string()));
        *server = Some(Server { port, _thread: thread });
        Ok(())
    }
}

/// Serves each mount of the guest, on a connection of its own, until the VM is gone.
async fn serve(mut listener: GuestListener, exports: Arc<Exports>, vm: String) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok(stream) = accepted else { break };
                if clients.len() >= MOUNTS {
                    tracing::warn!(vm, most = MOUNTS, "a mount of a 9P share was refused: the guest has too many");
                    continue;
                }
                let (exports, vm) = (Arc::clone(&exports), vm.clone());
                clients.spawn(async move {
                    // The guest's mount is of no use from here on; whatever it did, it did to itself.
                    if let Err(e) = uvm_p9::serve(stream, exports, Limits::default(), std::future::pending()).await {
                        tracing::warn!(vm, error = with_causes(&e), "a mount of a 9P share was cut");
                    }
                });
            }
            Some(_) = clients.join_next() => {}
        }
    }
    // They end with their streams.
    while clients.join_next().await.is_some() {}
}

/// Opens a share. Blocking.
fn open(export: Plan9Export, descriptors: Descriptors) -> Result<Arc<Share>, PlatformError> {
    let Plan9Export { name, path, read_only, allowed_files, .. } = export;
    let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
    let mut options = TreeOptions::new(&path).with_access(access).with_descriptors(descriptors);
    if let Some(names) = allowed_files {
        options = options.restricted_to(names);
    }
    Share::open(name, options).map_err(|e| PlatformError::BadInput {
        what: "share",
        value: path.display().to_string(),
        why: with_causes(&e),
    })
}

/// What the shares of all VMs of this process draw on.
static PROCESS: LazyLock<Descriptors> = LazyLock::new(|| Descriptors::new(Most::of_process().process));

/// How many descriptors guests have open at most, each of these a part of the one before.
#[derive(Debug, PartialEq, Eq)]
struct Most {
    /// By all shares of this process, which has more to do.
    process: usize,
    /// By the shares of a VM, so that one guest does not take what is meant for all.
    vm: usize,
    /// By one share.
    share: usize,
}

impl Most {
    fn of_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::of(limit.unwrap_or(u64::MAX))
    }

    /// Where the process may have `limit` altogether.
    fn of(limit: u64) -> Self {
        let part = |of| usize::try_from(limit / of).unwrap_or(usize::MAX);
        Self { process: part(2), vm: part(4).min(16_384), share: part(8).min(4096) }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_have_half_of_the_descriptors_at_most() {
        assert_eq!(Most::of(1024), Most { process: 512, vm: 256, share: 128 });
        assert_eq!(Most::of(1 << 20), Most { process: 1 << 19, vm: 16_384, share: 4096 });
    }
}
