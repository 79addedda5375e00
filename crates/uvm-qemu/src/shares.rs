//! 9P shares: directories of the host, served to the guest on a port of the agent's transport.
//!
//! The server reads what the guest sends, so it has a thread of its own, from the first share on: a panic there ends the
//! VM's shares and nothing else.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::task::{JoinError, JoinSet};
use uvm_p9::tree::{Access, Descriptors, TreeOptions};
use uvm_p9::{Ended, Limits, ServeError, Share, Shares as Exports};
use uvm_platform::requests::Plan9Export;
use uvm_platform::{GuestListener, PlatformError, Port, VmThread};

use crate::vm::Vm;

/// Shares of a VM at a time; one more is refused.
const SHARES: usize = 32;
/// Mounts that a guest may have at a time: one of each share, and some that are just being closed. Each takes of this
/// process what [`limits`] says, so a guest takes 160 threads at most, 160 MiB of messages and 40 of those that are being
/// read, and about 120 MiB for what it knows: files, locks, attributes, and what threads use to read these.
const MOUNTS: usize = SHARES + 8;

/// What one mount may take. There may be many, so it is less than what a client may take by default.
fn limits() -> Limits {
    Limits::default()
        .with_threads(4)
        .with_requests(32)
        .with_memory(4 * 1024 * 1024)
        .with_fids(2048)
        .with_locks(1024)
        .with_xattr_bytes(256 * 1024)
}

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

    /// Lets the guest mount it.
    fn export(&self, name: &str, share: Arc<Share>) -> Result<(), PlatformError> {
        // Two at once are both counted: whoever finds one too many takes its own back.
        self.exports
            .add(share)
            .map_err(|_| PlatformError::host(format!("share under the name {name:?}"), "a share has this name"))?;
        if self.exports.count() > SHARES {
            self.exports.remove(name.as_bytes());
            let why = format!("the VM has {SHARES} shares by 9P, and more are not served");
            return Err(PlatformError::host("share one more directory", why));
        }
        Ok(())
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
        let intent = format!("open share {}", export.path.display());
        let share = self.blocking_step(intent, move || open(export, descriptors)).await?;
        self.serve_shares(port)?;
        self.shares.export(&name, share)
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
    let mut complaints = Complaints { vm, warned: false };
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok(stream) = accepted else { break };
                if clients.len() >= MOUNTS {
                    complaints.note("a mount of a 9P share was refused", &format!("the guest has {MOUNTS} already"));
                    continue;
                }
                clients.spawn(uvm_p9::serve(stream, Arc::clone(&exports) as _, limits(), std::future::pending()));
            }
            Some(ended) = clients.join_next() => complaints.note_end(ended),
        }
    }
    // They end with their streams.
    while let Some(ended) = clients.join_next().await {
        complaints.note_end(ended);
    }
}

/// What went wrong with a guest's mounts. The guest decides how often that is, so only the first time is a warning.
struct Complaints {
    vm: String,
    warned: bool,
}

impl Complaints {
    /// The guest's mount is of no use once it was cut; whatever it did, it did to itself.
    fn note_end(&mut self, ended: Result<Result<Ended, ServeError>, JoinError>) {
        match ended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => self.note("a mount of a 9P share was cut", &with_causes(&error)),
            Err(error) => self.note("a mount of a 9P share was cut", &with_causes(&error)),
        }
    }

    fn note(&mut self, what: &str, why: &str) {
        let vm = &self.vm;
        if std::mem::replace(&mut self.warned, true) {
            tracing::debug!(vm, why, "{what}");
        } else {
            tracing::warn!(vm, why, "{what}; further ones of this VM are told at level debug");
        }
    }
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

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata};

    use super::*;
    use crate::test_listener;

    /// Counts warnings.
    struct Warnings(Arc<AtomicUsize>);

    impl tracing::Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    /// The attack: mounts beyond number, each cut by what it sends, and each a line in the owner's log.
    #[tokio::test]
    async fn a_guest_has_so_many_mounts_and_its_owner_one_warning() {
        let warnings = Arc::new(AtomicUsize::new(0));
        let _logged = tracing::subscriber::set_default(Warnings(Arc::clone(&warnings)));
        let (dial, listener) = test_listener::listen(Port(564));
        let mount = || {
            let (own, other) = tokio::io::duplex(64);
            dial.send(other).expect("the server listens");
            own
        };
        let server = tokio::spawn(serve(listener, Arc::default(), "vm".into()));
        let mut mounts: Vec<_> = (0..MOUNTS).map(|_| mount()).collect();
        for _ in 0..10 {
            assert_eq!(mount().read(&mut [0]).await.expect("the end"), 0, "one mount too many");
        }
        for mut mount in mounts.drain(..) {
            mount.write_all(&[0; 7]).await.expect("what is no message");
            assert_eq!(mount.read(&mut [0]).await.expect("the end"), 0);
        }
        drop(dial);
        server.await.expect("it ends with the listener");
        assert_eq!(warnings.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_share_too_many_is_refused_with_the_number_and_another_can_take_the_place_of_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let shares = Shares::default();
        let add = |name: &str| shares.export(name, Share::open(name, TreeOptions::new(dir.path())).expect("opened"));
        for number in 0..SHARES {
            add(&number.to_string()).expect("there is room");
        }
        let error = add("more").expect_err("one too many");
        assert!(with_causes(&error).contains("has 32 shares"), "{error:?}");
        assert!(shares.exports.remove(b"0"));
        add("more").expect("there is room again");
    }

    #[test]
    fn guests_have_half_of_the_descriptors_at_most() {
        assert_eq!(Most::of(1024), Most { process: 512, vm: 256, share: 128 });
        assert_eq!(Most::of(1 << 20), Most { process: 1 << 19, vm: 16_384, share: 4096 });
    }
}
