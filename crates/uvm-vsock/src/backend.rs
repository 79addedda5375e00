//! The device as the VM's process sees it: vhost-user messages, and a thread that watches the rings.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::error::Down;
use crate::shared::{FROM_GUEST, Memory, Shared, TO_GUEST};

/// Entries of a ring; what Linux and QEMU use.
const RING_SIZE: usize = 128;
/// The event of [`Backend::resume`]: past those of the rings, and the one that the library keeps for itself.
const RESUME: u16 = 3;

pub(crate) struct Backend {
    shared: Arc<Shared>,
    /// The same that the daemon keeps up to date.
    memory: Memory,
    cid: u64,
    /// What the guest sent is to be read on, or the thread is to end.
    resume: EventConsumer,
    /// The thread is to end.
    ended: AtomicBool,
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        // The third one, for events, is the VM's process's own affair.
        2
    }

    fn max_queue_size(&self) -> usize {
        RING_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know it themselves.
    }

    /// The configuration space holds the guest's context id. Virtio 1.2, section 5.10.4.
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = self.cid.to_le_bytes();
        let end = offset.saturating_add(size) as usize;
        config.get(offset as usize..end).map(<[u8]>::to_vec).unwrap_or_default()
    }

    fn update_memory(&self, _memory: Memory) -> io::Result<()> {
        // What is kept here sees it.
        Ok(())
    }

    /// None: the library never closes the descriptor that it takes from here. [`Served`] ends the thread.
    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        None
    }

    /// Not said of a VM that is paused, whose rings stop, too.
    fn reset_device(&self) {
        self.shared.reset();
    }

    fn stop_vring(&self, _queue_index: u32) -> io::Result<()> {
        self.shared.rings_stopped();
        Ok(())
    }

    fn handle_event(&self, event: u16, _events: EventSet, vrings: &[VringRwLock], _thread: usize) -> io::Result<()> {
        if event == RESUME {
            self.resume.consume()?;
            if self.ended.load(Ordering::Acquire) {
                // What ends the library's loop; nobody is told of it.
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        if let TO_GUEST | FROM_GUEST | RESUME = event {
            self.shared.kicked(&self.memory, vrings);
        }
        Ok(())
    }
}

/// The library's daemon, with a thread that watches the rings, which ends with this.
struct Served {
    daemon: VhostUserDaemon<Arc<Backend>>,
    backend: Arc<Backend>,
    resume: Arc<EventNotifier>,
}

impl Served {
    fn new(shared: &Arc<Shared>, cid: u64) -> io::Result<Self> {
        let (consumer, notifier) = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?;
        let wakes = consumer.as_raw_fd();
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let (shared, ended) = (Arc::clone(shared), AtomicBool::new(false));
        let backend = Arc::new(Backend { shared, memory: memory.clone(), cid, resume: consumer, ended });
        let daemon =
            VhostUserDaemon::new("uvm-vsock".into(), Arc::clone(&backend), memory).map_err(|error| other(&error))?;
        for handler in daemon.get_epoll_handlers() {
            if let Err(error) = handler.register_listener(wakes, EventSet::IN, u64::from(RESUME)) {
                // Its thread sleeps for good: nothing can wake it, and dropping the daemon would wait for it.
                std::mem::forget(daemon);
                return Err(error);
            }
        }
        Ok(Self { daemon, backend, resume: Arc::new(notifier) })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.backend.ended.store(true, Ordering::Release);
        let _ = self.resume.notify(); // fails only if its count is at the limit: then it is readable
        // Dropping the daemon waits for the thread.
    }
}

/// Serves the one connection that waits at `listener`, from threads of its own, until it closes or the device ends.
pub(crate) fn serve(shared: &Arc<Shared>, cid: u64, listener: UnixListener) -> io::Result<()> {
    let mut served = Served::new(shared, cid)?;
    served.daemon.start(&mut Listener::from(listener)).map_err(|error| other(&error))?;
    shared.served(served.daemon.shutdown_handle(), Arc::clone(&served.resume));
    let shared = Arc::clone(shared);
    thread::Builder::new().name("uvm-vsock-end".into()).spawn(move || {
        let why = match served.daemon.wait() {
            Ok(()) => Down::Detached,
            Err(error) => ended_by(&error),
        };
        shared.end(why);
        drop(served);
    })?;
    Ok(())
}

fn other(error: &vhost_user_backend::Error) -> io::Error {
    io::Error::other(error.to_string())
}

fn ended_by(error: &vhost_user_backend::Error) -> Down {
    use vhost::vhost_user::Error as Message;
    match error {
        vhost_user_backend::Error::HandleRequest(Message::Disconnected | Message::PartialMessage) => Down::Detached,
        vhost_user_backend::Error::WaitDaemon(_) => Down::Panicked,
        error => Down::Protocol { message: error.to_string() },
    }
}
