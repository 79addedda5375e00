//! The device as the VM's host speaks to it: what may be negotiated, and whose queues it serves.

use std::collections::HashSet;
use std::io;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_queue::QueueT;
use virtiofsd::filesystem::FileSystem;
use virtiofsd::server::Server;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

use crate::ring::{self, Memory};

/// What may be negotiated: queues and answers. Neither the device's state nor requests of its own: it is not moved to another
/// host, and asks nothing. And memory only as a whole: who takes the device over is told of it once.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ.union(VhostUserProtocolFeatures::REPLY_ACK);

/// `VIRTIO_RING_F_INDIRECT_DESC`, `VIRTIO_RING_F_EVENT_IDX` and `VIRTIO_F_VERSION_1`. Nothing of the kind that logs what is
/// written to memory, which is for a move to another host.
const FEATURES: u64 = 1 << 28 | 1 << 29 | 1 << 32;

/// One for what is urgent, and one for requests.
const QUEUES: usize = 2;
/// The most that QEMU offers (`VIRTQUEUE_MAX_SIZE`).
const QUEUE_SIZE: usize = 1024;

/// The exit code of a helper whose guest broke its queues.
pub(crate) const BROKEN_QUEUE: i32 = 3;

/// A device that serves a file system. The process ends with a guest's queues: it would only keep the guest waiting, which hears
/// of an end.
pub(crate) struct Backend<F: FileSystem + Sync> {
    server: Server<F>,
    /// The guest's, once the host has told of it.
    memory: RwLock<Option<Memory>>,
    /// Each side says up to where it has to be told.
    event_idx: AtomicBool,
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

impl<F: FileSystem + Sync> Backend<F> {
    pub(crate) fn new(file_system: F, queues: Queues) -> Self {
        Self {
            server: Server::new(file_system),
            memory: RwLock::default(),
            event_idx: AtomicBool::default(),
            queues,
            resumed: Mutex::default(),
        }
    }

    /// Goes back to the first request without an answer. They are answered in their order, so that is the one after those
    /// that were.
    fn resume(&self, event: u16, queue: &VringMutex<Memory>) {
        if self.queues == Queues::TakenOver && self.resumed.lock().unwrap_or_else(PoisonError::into_inner).insert(event)
        {
            let mut state = queue.get_mut();
            let queue = state.get_queue_mut();
            queue.set_next_avail(queue.next_used());
        }
    }
}

impl<F: FileSystem + Send + Sync + 'static> VhostUserBackend for Backend<F> {
    type Bitmap = BitmapMmapRegion;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        FEATURES | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        PROTOCOL
    }

    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::Relaxed);
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.write().unwrap_or_else(PoisonError::into_inner) = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        queues: &[VringMutex<Memory>],
        _thread: usize,
    ) -> io::Result<()> {
        let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner).clone();
        // Neither is a guest's doing: the host has told of no such queue, or of no memory yet.
        let (Some(queue), Some(memory)) = (queues.get(usize::from(event)), memory) else { return Ok(()) };
        self.resume(event, queue);
        if let Err(broken) = ring::serve(&self.server, &memory, queue, self.event_idx.load(Ordering::Relaxed)) {
            eprintln!("the guest's queue {event} cannot be served any more: {broken}");
            exit(BROKEN_QUEUE);
        }
        Ok(())
    }
}
