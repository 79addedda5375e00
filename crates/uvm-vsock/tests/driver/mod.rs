//! A guest's driver and a VM's process in one: it speaks vhost-user with the device, and puts packets into rings by hand.

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uvm_vsock::header::{HEADER_LEN, HOST_CID, Header, Op, TYPE_STREAM};
use uvm_vsock::{Config, Vsock};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

pub(crate) const CID: u64 = 3;
const MEMORY: usize = 8 << 20;
pub(crate) const ENTRIES: u16 = 64;
/// Bytes of a buffer.
const BUFFER: u64 = 0x2000;
/// How long the device may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a ring and its buffers are.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    base: u64,
    buffers: u64,
}

impl Layout {
    pub(crate) fn descriptor(self, index: u16) -> GuestAddress {
        GuestAddress(self.base + 16 * u64::from(index))
    }

    fn available(self) -> GuestAddress {
        GuestAddress(self.base + 0x1000)
    }

    fn used(self) -> GuestAddress {
        GuestAddress(self.base + 0x2000)
    }

    pub(crate) fn buffer(self, index: u16) -> u64 {
        self.buffers + BUFFER * u64::from(index)
    }
}

/// The device sends here.
pub(crate) const TO_GUEST: Layout = Layout { base: 0, buffers: 0x10_0000 };
/// The guest sends here.
pub(crate) const FROM_GUEST: Layout = Layout { base: 0x8000, buffers: 0x20_0000 };
/// Flags of a descriptor.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

struct Ring {
    layout: Layout,
    kick: EventFd,
    call: EventFd,
    /// Chains made available, and those seen to be used; modulo 2^16.
    available: u16,
    used: u16,
}

/// The guest's end.
pub(crate) struct Guest {
    frontend: Frontend,
    memory: GuestMemoryMmap,
    up: Ring,
    down: Ring,
}

/// A device and a guest whose driver has started.
pub(crate) fn start(config: Config) -> (Vsock, Guest) {
    let (vsock, connection) = device(config);
    let mut guest = Guest::attach(connection);
    guest.start_driver();
    (vsock, guest)
}

/// A device, and the VM's end of the connection to it.
pub(crate) fn device(config: Config) -> (Vsock, UnixStream) {
    let (listener, connection) = connection();
    (Vsock::serve(config, listener).expect("it starts"), connection)
}

/// A listener with one connection waiting.
pub(crate) fn connection() -> (UnixListener, UnixStream) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vsock");
    let listener = UnixListener::bind(&path).expect("it is free");
    let connection = UnixStream::connect(&path).expect("it waits");
    (listener, connection)
}

/// A processor of the guest that gives buffers back.
pub(crate) struct Refill {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Refill {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking(), "the thread ended early");
    }
}

impl Guest {
    /// The VM's process takes the device: what comes before a driver.
    pub(crate) fn attach(connection: UnixStream) -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("memory"));
        ftruncate(&file, MEMORY as u64).expect("memory");
        let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).expect("memory");
        let mut frontend = Frontend::from_stream(connection, 2);
        frontend.set_owner().expect("answered");
        let features = frontend.get_features().expect("answered");
        // Version 1, and vhost-user's own; no event indices, so that every chain is told of.
        frontend.set_features(features & (1 << 32 | 1 << 30)).expect("taken");
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE;
        let offered = frontend.get_protocol_features().expect("answered");
        frontend.set_protocol_features(wanted & offered).expect("taken");
        // Each message from now on is answered, also with an error.
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let ring = |layout| {
            let event = || EventFd::new(nonblocking()).expect("an event");
            Ring { layout, kick: event(), call: event(), available: 0, used: 0 }
        };
        Self { frontend, memory, up: ring(FROM_GUEST), down: ring(TO_GUEST) }
    }

    /// The driver sets its rings up anew and gives the device buffers.
    pub(crate) fn start_driver(&mut self) {
        self.try_start_driver().expect("the device takes the rings");
    }

    /// The same, with a device that may refuse.
    pub(crate) fn try_start_driver(&mut self) -> vhost::Result<()> {
        let region = self.memory.iter().next().expect("one");
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).expect("it has a file");
        self.frontend.set_mem_table(&[region])?;
        for index in 0..2 {
            let layout = self.ring(index).layout;
            self.memory.write_slice(&[0; 0x3000], GuestAddress(layout.base)).expect("memory");
            (self.ring(index).available, self.ring(index).used) = (0, 0);
            let at = |address| self.memory.get_host_address(address).expect("memory") as u64;
            let addresses = VringConfigData {
                queue_max_size: ENTRIES,
                queue_size: ENTRIES,
                flags: 0,
                desc_table_addr: at(layout.descriptor(0)),
                used_ring_addr: at(layout.used()),
                avail_ring_addr: at(layout.available()),
                log_addr: None,
            };
            self.frontend.set_vring_num(index, ENTRIES)?;
            self.frontend.set_vring_base(index, 0)?;
            self.frontend.set_vring_addr(index, &addresses)?;
            let ring = if index == 0 { &self.down } else { &self.up };
            self.frontend.set_vring_call(index, &ring.call)?;
            self.frontend.set_vring_kick(index, &ring.kick)?;
        }
        for index in 0..2 {
            self.frontend.set_vring_enable(index, true)?;
        }
        for index in 0..ENTRIES {
            self.give_buffer(index, BUFFER as u32);
        }
        Ok(())
    }

    /// What QEMU does when the guest writes 0 into the device's status: both rings are taken away.
    pub(crate) fn reset_device(&mut self) {
        for index in 0..2 {
            self.frontend.set_vring_enable(index, false).expect("taken");
            self.frontend.get_vring_base(index).expect("answered");
        }
    }

    /// What a VM's process that tells of resets says after that.
    pub(crate) fn tell_reset(&mut self) {
        self.frontend.reset_device().expect("taken");
        self.frontend.set_features(1 << 32 | 1 << 30).expect("taken");
    }

    fn ring(&mut self, index: usize) -> &mut Ring {
        if index == 0 { &mut self.down } else { &mut self.up }
    }

    /// Writes a descriptor.
    pub(crate) fn describe(&self, at: GuestAddress, address: u64, length: u32, flags: u16, next: u16) {
        self.memory.write_obj(address, at).expect("memory");
        let rest = [length.to_le_bytes(), [flags.to_le_bytes(), next.to_le_bytes()].concat().try_into().expect("4")];
        self.memory.write_slice(&rest.concat(), GuestAddress(at.0 + 8)).expect("memory");
    }

    /// Makes the chain that begins at `head` available, `steps` places further than is honest if that is not 1.
    pub(crate) fn offer(&mut self, to_guest: bool, head: u16, steps: u16) {
        let memory = self.memory.clone();
        let ring = if to_guest { &mut self.down } else { &mut self.up };
        let place = ring.layout.available().0 + 4 + 2 * u64::from(ring.available % ENTRIES);
        memory.write_obj(head, GuestAddress(place)).expect("memory");
        ring.available = ring.available.wrapping_add(steps);
        memory.store(ring.available, GuestAddress(ring.layout.available().0 + 2), Ordering::Release).expect("memory");
        ring.kick.write(1).expect("an event");
    }

    /// Gives the device a buffer.
    pub(crate) fn give_buffer(&mut self, index: u16, length: u32) {
        self.describe(TO_GUEST.descriptor(index), TO_GUEST.buffer(index), length, WRITE, 0);
        self.offer(true, index, 1);
    }

    /// Gives all buffers of the device back as fast as they are used, whatever is in them, until what this gives is
    /// dropped: the index of what is available is always as far ahead as it may be.
    pub(crate) fn refill_for_ever(&self) -> Refill {
        let (memory, stop) = (self.memory.clone(), Arc::new(AtomicBool::new(false)));
        let kick = self.down.kick.try_clone().expect("an event");
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (available, used) = (TO_GUEST.available().0 + 2, TO_GUEST.used().0 + 2);
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..1000 {
                    let used: u16 = memory.load(GuestAddress(used), Ordering::Acquire).expect("memory");
                    let ahead = used.wrapping_add(ENTRIES - 1);
                    memory.store(ahead, GuestAddress(available), Ordering::Release).expect("memory");
                }
                kick.write(1).expect("an event");
            }
        });
        Refill { stop, thread: Some(thread) }
    }

    /// The next chain that was used, and how many bytes are in it.
    fn next_used(&mut self, to_guest: bool) -> Option<(u16, u32)> {
        let ring = if to_guest { &mut self.down } else { &mut self.up };
        let used = ring.layout.used();
        let order = Ordering::Acquire;
        let index: u16 = self.memory.load(GuestAddress(used.0 + 2), order).expect("memory");
        if index == ring.used {
            return None;
        }
        let at = used.0 + 4 + 8 * u64::from(ring.used % ENTRIES);
        ring.used = ring.used.wrapping_add(1);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).expect("memory");
        let length: u32 = self.memory.read_obj(GuestAddress(at + 4)).expect("memory");
        Some((head as u16, length))
    }

    /// Waits until a chain was used.
    pub(crate) fn used(&mut self, to_guest: bool) -> (u16, u32) {
        let began = Instant::now();
        loop {
            if let Some(used) = self.next_used(to_guest) {
                return used;
            }
            assert!(began.elapsed() < PATIENCE, "the device used no chain");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Sends a packet, in two descriptors, and waits until it was taken.
    pub(crate) fn send(&mut self, header: &Header, payload: &[u8]) {
        let at = FROM_GUEST.buffer(0);
        self.memory.write_slice(&header.encode(), GuestAddress(at)).expect("memory");
        self.memory.write_slice(payload, GuestAddress(at + 0x100)).expect("memory");
        self.describe(FROM_GUEST.descriptor(0), at, HEADER_LEN as u32, NEXT, 1);
        self.describe(FROM_GUEST.descriptor(1), at + 0x100, payload.len() as u32, 0, 0);
        self.offer(false, 0, 1);
        assert_eq!(self.used(false), (0, 0));
    }

    /// Says something about a stream, with that payload.
    pub(crate) fn say(&mut self, op: Op, host: u32, guest: u32, payload: &[u8]) {
        self.send(&Header { length: payload.len() as u32, ..header(op, host, guest) }, payload);
    }

    /// The next packet of the device. Its buffer is given back.
    pub(crate) fn receive(&mut self) -> (Header, Vec<u8>) {
        let (index, length) = self.used(true);
        let mut bytes = vec![0; length as usize];
        self.memory.read_slice(&mut bytes, GuestAddress(TO_GUEST.buffer(index))).expect("memory");
        self.give_buffer(index, BUFFER as u32);
        let (head, payload) = bytes.split_at(HEADER_LEN);
        (Header::decode(head.try_into().expect("a header")), payload.to_vec())
    }

    /// Dials the host's port, and is accepted.
    pub(crate) fn dial(&mut self, host: u32, guest: u32) {
        self.say(Op::Request, host, guest, &[]);
        let (answer, _) = self.receive();
        assert_eq!((answer.op, answer.to_port), (Some(Op::Response), guest));
    }
}

pub(crate) fn header(op: Op, host: u32, guest: u32) -> Header {
    Header {
        from_cid: CID,
        to_cid: HOST_CID,
        from_port: guest,
        to_port: host,
        length: 0,
        kind: TYPE_STREAM,
        op: Some(op),
        flags: 0,
        window: 1 << 16,
        consumed: 0,
    }
}

/// `EFD_NONBLOCK`.
fn nonblocking() -> i32 {
    rustix::event::EventfdFlags::NONBLOCK.bits().cast_signed()
}
