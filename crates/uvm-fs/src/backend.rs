//! The device as the VM's host speaks to it: virtiofsd's, with less to say.

use std::io;
use std::process::exit;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VhostUserBackend, VringMutex};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::vhost_user::VhostUserFsBackend;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

/// The guest's memory, in the form that virtiofsd wants.
type Memory = GuestMemoryAtomic<GuestMemoryMmap<BitmapMmapRegion>>;

/// What may be negotiated: queues, answers, memory. Neither the device's state nor requests of its own: it is not moved to
/// another host, and asks nothing.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::RESET_DEVICE);

/// `VHOST_F_LOG_ALL`: that writes to memory are logged, for a move to another host.
const LOG_ALL: u64 = 1 << 26;

/// The exit code of a helper whose guest broke its queues.
pub(crate) const BROKEN_QUEUE: i32 = 3;

/// virtiofsd's device. The process ends with a guest's queues: it would only keep the guest waiting, which hears of an end.
pub(crate) struct Backend<F: FileSystem + SerializableFileSystem + Send + Sync + 'static>(
    pub(crate) VhostUserFsBackend<F>,
);

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> VhostUserBackend for Backend<F> {
    type Bitmap = BitmapMmapRegion;
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        self.0.num_queues()
    }

    fn max_queue_size(&self) -> usize {
        self.0.max_queue_size()
    }

    fn features(&self) -> u64 {
        self.0.features() & !LOG_ALL
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.0.protocol_features() & PROTOCOL
    }

    fn reset_device(&self) {
        self.0.reset_device();
    }

    fn set_event_idx(&self, enabled: bool) {
        self.0.set_event_idx(enabled);
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.0.update_memory(memory)
    }

    fn exit_event(&self, thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.0.exit_event(thread)
    }

    fn handle_event(
        &self,
        event: u16,
        events: EventSet,
        queues: &[VringMutex<Memory>],
        thread: usize,
    ) -> io::Result<()> {
        let handled = self.0.handle_event(event, events, queues, thread);
        if let Err(error) = &handled {
            eprintln!("the guest's queue {event} cannot be served any more: {error}");
            exit(BROKEN_QUEUE);
        }
        handled
    }
}
