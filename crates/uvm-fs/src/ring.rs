//! A guest's queue: requests are taken, answered and given back one by one.
//!
//! What the guest writes there is not to be believed: a ring that cannot be, and a request that has no answer, is an error, not
//! something to look at again. The queue is held while a request is answered, so that no answer is written into memory that the
//! guest has taken back; and not much longer, so that a host that takes the queue away does not wait for all that is in it.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use virtiofsd::descriptor_utils::{self, Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::server::Server;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

/// The guest's memory, in the form that virtiofsd wants.
pub(crate) type Memory = GuestMemoryAtomic<GuestMemoryMmap<BitmapMmapRegion>>;

/// After so long, who waits for the queue gets it, which whoever holds it again at once would keep from it.
const LONG: Duration = Duration::from_millis(50);
const AFTER_LONG: Duration = Duration::from_millis(1);

/// Why a queue cannot be served any more: the guest, or the host, has broken it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("its ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("its ring says that there is a request, and has none that can be read")]
    NoRequest,
    #[error("the descriptors of a request: {0}")]
    Descriptors(#[from] descriptor_utils::Error),
    #[error("a request: {0}")]
    Request(#[from] virtiofsd::Error),
    #[error("an answer of {0} bytes")]
    Answer(usize),
    #[error("the guest cannot be told of an answer: {0}")]
    Call(#[from] std::io::Error),
}

/// Answers what is in the queue, until there is no more or the host has stopped it. With `event_idx` the guest is told that
/// it need not tell of each request meanwhile.
pub(crate) fn serve<F: FileSystem + Sync>(
    server: &Server<F>,
    memory: &Memory,
    queue: &VringMutex<Memory>,
    event_idx: bool,
) -> Result<(), Broken> {
    if event_idx {
        let mut state = queue.get_mut();
        if state.get_queue_mut().ready() {
            state.disable_notification()?;
        }
    }
    let mut began = Instant::now();
    loop {
        let mut state = queue.get_mut();
        // Stopped by the host, which says so in between. What is left is taken when it is started again: with that, QEMU says
        // that there may be something.
        if !state.get_queue_mut().ready() {
            return Ok(());
        }
        let more = answer_one(server, memory, &mut state, event_idx)?;
        if !more {
            // What has come since the last look is told of by this, and by nothing else.
            if !event_idx || !state.enable_notification()? {
                return Ok(());
            }
            state.disable_notification()?;
        }
        drop(state);
        if began.elapsed() > LONG {
            thread::sleep(AFTER_LONG);
            began = Instant::now();
        }
    }
}

/// Answers one request; whether there was one.
fn answer_one<F: FileSystem + Sync>(
    server: &Server<F>,
    memory: &Memory,
    state: &mut VringState<Memory>,
    event_idx: bool,
) -> Result<bool, Broken> {
    let mapped = memory.memory();
    let queue = state.get_queue_mut();
    if queue.avail_idx(&*mapped, Ordering::Acquire)?.0 == queue.next_avail() {
        return Ok(false);
    }
    let chain = queue.iter(mapped.clone())?.next().ok_or(Broken::NoRequest)?;
    let head = chain.head_index();
    let (reader, writer) = (Reader::new(&mapped, chain.clone())?, Writer::new(&mapped, chain)?);
    let written = server.handle_message(reader, writer, None::<&mut ()>)?;
    state.add_used(head, u32::try_from(written).map_err(|_| Broken::Answer(written))?)?;
    if !event_idx || state.needs_notification()? {
        state.signal_used_queue()?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use rustix::event::{EventfdFlags, eventfd};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::gone::Gone;

    /// Where in the guest's memory everything is.
    const DESCRIPTORS: u64 = 0;
    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;
    const REQUEST: u64 = 0x3000;
    const ANSWERS: u64 = 0x4000;
    const END: usize = 0x1_0000;
    const SIZE: u16 = 8;

    /// A guest with one queue, on which both sides say up to where they have to be told, or neither.
    struct Guest {
        memory: Memory,
        queue: VringMutex<Memory>,
        server: Server<Gone>,
        event_idx: bool,
    }

    impl Guest {
        fn new(event_idx: bool) -> Self {
            let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), END)]).expect("memory");
            let memory = Memory::new(memory);
            let queue = VringMutex::new(memory.clone(), SIZE).expect("a queue");
            queue.set_queue_size(SIZE);
            queue.set_queue_info(DESCRIPTORS, AVAILABLE, USED).expect("addresses");
            queue.set_queue_event_idx(event_idx);
            queue.set_queue_ready(true);
            Self { memory, queue, server: Server::new(Gone), event_idx }
        }

        fn write(&self, at: u64, bytes: &[u8]) {
            self.memory.memory().write_slice(bytes, GuestAddress(at)).expect("memory");
        }

        fn number(&self, at: u64) -> u16 {
            self.memory.memory().read_obj(GuestAddress(at)).expect("memory")
        }

        /// A chain of a request, which asks for attributes, and room for its answer.
        fn describe(&self, head: u16, request_len: u32) {
            let mut request = [56_u32, 3, u32::from(head), 0, 1].map(u32::to_ne_bytes).concat();
            request.resize(56, 0);
            self.write(REQUEST, &request);
            let answer = ANSWERS + 0x400 * u64::from(head);
            for (index, address, length, flags) in [(head, REQUEST, request_len, 1_u16), (head + 1, answer, 0x400, 2)] {
                let mut bytes = address.to_le_bytes().to_vec();
                bytes.extend(length.to_le_bytes());
                bytes.extend(flags.to_le_bytes());
                bytes.extend((head + 1).to_le_bytes());
                self.write(DESCRIPTORS + 16 * u64::from(index), &bytes);
            }
        }

        /// Offers chains by their first descriptors, and says that so many are offered by now.
        fn offer(&self, heads: &[u16], says: u16) {
            for (at, head) in (0..).zip(heads) {
                self.write(AVAILABLE + 4 + 2 * at, &head.to_le_bytes());
            }
            self.write(AVAILABLE + 2, &says.to_le_bytes());
        }

        fn serve(&self) -> Result<(), Broken> {
            serve(&self.server, &self.memory, &self.queue, self.event_idx)
        }

        fn answered(&self) -> u16 {
            self.number(USED + 2)
        }
    }

    #[test]
    fn requests_are_answered_in_their_order_and_the_guest_is_told() {
        for event_idx in [false, true] {
            let guest = Guest::new(event_idx);
            let told = File::from(eventfd(0, EventfdFlags::NONBLOCK).expect("an event"));
            guest.queue.set_call(Some(told.try_clone().expect("a second one")));
            guest.describe(0, 56);
            guest.describe(2, 56);
            guest.offer(&[2, 0], 2);
            guest.serve().expect("served");
            assert_eq!((guest.answered(), guest.number(USED + 4), guest.number(USED + 12)), (2, 2, 0));
            // The length of an answer that is an error, and its number.
            for head in [0, 2] {
                let answer = ANSWERS + 0x400 * head;
                let error = libc::ENOTCONN.cast_unsigned() as u16;
                assert_eq!((guest.number(answer), guest.number(answer + 4)), (16, error.wrapping_neg()));
            }
            (&told).read_exact(&mut [0; 8]).expect("the guest is told");
            guest.serve().expect("nothing more");
            assert_eq!(guest.answered(), 2);
        }
    }

    #[test]
    fn a_ring_that_cannot_be_is_an_error_and_no_reason_to_look_again() {
        for event_idx in [false, true] {
            let broken = |prepare: &dyn Fn(&Guest)| {
                let guest = Guest::new(event_idx);
                guest.describe(0, 56);
                prepare(&guest);
                guest.serve().expect_err("broken").to_string()
            };
            let more_than_fit = broken(&|guest| guest.offer(&[0], SIZE + 1));
            assert!(more_than_fit.contains("more descriptors to process than queue size"), "{more_than_fit}");
            let no_such = broken(&|guest| guest.offer(&[SIZE], 1));
            assert!(no_such.contains("request"), "{no_such}");
            let no_memory = broken(&|guest| {
                guest.offer(&[0], 1);
                guest.queue.set_queue_info(DESCRIPTORS, 0xff_0000, USED).expect("taken");
            });
            assert!(no_memory.contains("guest memory"), "{no_memory}");
            let short = broken(&|guest| {
                guest.describe(0, 20);
                guest.offer(&[0], 1);
            });
            assert!(short.starts_with("a request: "), "{short}");
        }
    }

    #[test]
    fn a_queue_that_the_host_has_stopped_is_left_as_it_is() {
        for event_idx in [false, true] {
            let guest = Guest::new(event_idx);
            guest.describe(0, 56);
            guest.offer(&[0], 1);
            guest.queue.set_queue_ready(false);
            guest.serve().expect("left");
            assert_eq!(guest.answered(), 0);
            guest.queue.set_queue_ready(true);
            guest.serve().expect("served");
            assert_eq!(guest.answered(), 1);
        }
    }
}
