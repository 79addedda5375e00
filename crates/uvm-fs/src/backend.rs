//! The device as the VM's host speaks to it: virtiofsd's, with less to say.

use std::collections::HashSet;
use std::io;
use std::process::exit;
use std::sync::{Mutex, PoisonError};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_queue::QueueT;
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::vhost_user::VhostUserFsBackend;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

/// The guest's memory, in the form that virtiofsd wants.
type Memory = GuestMemoryAtomic<GuestMemoryMmap<BitmapMmapRegion>>;

/// What may be negotiated: queues and answers. Neither the device's state nor requests of its own: it is not moved to another
/// host, and asks nothing. And memory only as a whole: who takes the device over is told of it once.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ.union(VhostUserProtocolFeatures::REPLY_ACK);

/// `VHOST_F_LOG_ALL`: that writes to memory are logged, for a move to another host.
const LOG_ALL: u64 = 1 << 26;

/// The exit code of a helper whose guest broke its queues.
pub(crate) const BROKEN_QUEUE: i32 = 3;

/// virtiofsd's device. The process ends with a guest's queues: it would only keep the guest waiting, which hears of an end.
pub(crate) struct Backend<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> {
    inner: VhostUserFsBackend<F>,
    queues: Queues,
    /// Of those taken over, which have been looked at.
    resumed: Mutex<HashSet<u16>>,
}

/// Whose a guest's queues have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queues {
    /// Nobody's.
    Own,
    /// Those of a process that has ended: what it has taken and not answered is taken again.
    TakenOver,
}

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> Backend<F> {
    pub(crate) fn new(inner: VhostUserFsBackend<F>, queues: Queues) -> Self {
        Self { inner, queues, resumed: Mutex::default() }
    }

    /// Goes back to the first request without an answer. They are answered in their order, so that is the one after those
    /// that were.
    fn resume(&self, event: u16, queues: &[VringMutex<Memory>]) {
        let Some(queue) = queues.get(usize::from(event)).filter(|_| self.queues == Queues::TakenOver) else { return };
        if self.resumed.lock().unwrap_or_else(PoisonError::into_inner).insert(event) {
            let mut state = queue.get_mut();
            let queue = state.get_queue_mut();
            queue.set_next_avail(queue.next_used());
        }
    }
}

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> VhostUserBackend for Backend<F> {
    type Bitmap = BitmapMmapRegion;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        self.inner.num_queues()
    }

    fn max_queue_size(&self) -> usize {
        self.inner.max_queue_size()
    }

    fn features(&self) -> u64 {
        self.inner.features() & !LOG_ALL
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.inner.protocol_features() & PROTOCOL
    }

    fn reset_device(&self) {
        self.inner.reset_device();
    }

    fn set_event_idx(&self, enabled: bool) {
        self.inner.set_event_idx(enabled);
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.inner.update_memory(memory)
    }

    fn exit_event(&self, thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.inner.exit_event(thread)
    }

    fn handle_event(
        &self,
        event: u16,
        events: EventSet,
        queues: &[VringMutex<Memory>],
        thread: usize,
    ) -> io::Result<()> {
        self.resume(event, queues);
        let handled = self.inner.handle_event(event, events, queues, thread);
        if let Err(error) = &handled {
            eprintln!("the guest's queue {event} cannot be served any more: {error}");
            exit(BROKEN_QUEUE);
        }
        handled
    }
}
