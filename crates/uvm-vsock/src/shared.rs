//! The device behind its lock, with the guest's rings, and who is woken when it changes.
//!
//! Handles and the thread that watches the rings call the device under one lock, which is never held across an `await`.
//! Whoever changed something also puts packets into the guest's ring: a message leaves in the task that wrote it, without
//! a hop to another thread. Tasks are woken after the lock is let go.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::sync::watch;
use vhost_user_backend::{ShutdownHandle, VringRwLock, VringT};
use virtio_queue::QueueT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::event::EventNotifier;

use crate::config::Config;
use crate::device::Device;
use crate::error::{Down, Link};
use crate::rings::{self, Turn};

/// The guest receives on this ring.
pub(crate) const TO_GUEST: u16 = 0;
/// The guest sends on this one.
pub(crate) const FROM_GUEST: u16 = 1;

pub(crate) type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

pub(crate) struct Shared {
    state: Mutex<State>,
    link: watch::Sender<Link>,
}

struct State {
    device: Device,
    rings: Option<Rings>,
    /// Ends the connection to the VM's process.
    hang_up: Option<ShutdownHandle>,
    /// Has the rings' thread go on.
    resume: Option<Arc<EventNotifier>>,
}

struct Rings {
    memory: Memory,
    to_guest: Ring,
    from_guest: Ring,
    /// The guest has sent what was not taken, since its answers waited.
    stalled: bool,
}

struct Ring {
    vring: VringRwLock,
    /// Where it was left. A driver that starts anew starts elsewhere.
    at: u16,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        let device = Device::new(config);
        let link = watch::Sender::new(device.link());
        Self { state: Mutex::new(State { device, rings: None, hang_up: None, resume: None }), link }
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Calls the device, then sends what there is to send and wakes whom there is to wake.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut Device) -> R) -> R {
        self.change(|state| call(&mut state.device))
    }

    /// Looks at the device without changing it.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&Device) -> R) -> R {
        look(&self.lock().device)
    }

    pub(crate) fn served(&self, hang_up: Option<ShutdownHandle>, resume: Arc<EventNotifier>) {
        let mut state = self.lock();
        state.hang_up = hang_up;
        state.resume = Some(resume);
        if state.rings.is_some() {
            state.resume(); // the guest was quicker, and what its rings' thread left could not be resumed
        }
    }

    /// Ends the device. The VM's process sees the connection close.
    pub(crate) fn end(&self, why: Down) {
        let handle = self.change(|state| {
            state.device.end(why);
            (state.rings, state.resume) = (None, None);
            state.hang_up.take()
        });
        if let Some(handle) = handle {
            handle.shutdown();
        }
    }

    /// The guest has kicked a ring, or one was enabled.
    pub(crate) fn kicked(&self, memory: &Memory, vrings: &[VringRwLock]) {
        let [to_guest, from_guest, ..] = vrings else { return };
        loop {
            let more = self.change(|state| {
                state.attach(memory, to_guest, from_guest);
                state.receive()
            });
            if !more {
                return;
            }
        }
    }

    /// The device was reset.
    pub(crate) fn reset(&self) {
        self.change(|state| {
            state.rings = None;
            state.device.driver_gone();
        });
    }

    /// Waits until nobody uses the rings any more. They must have been marked as not ready before.
    pub(crate) fn rings_stopped(&self) {
        drop(self.lock());
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let _buried = BuryOnPanic(self); // dropped after the lock
        let mut state = self.lock();
        let result = change(&mut state);
        self.settle(state);
        result
    }

    fn settle(&self, mut state: MutexGuard<'_, State>) {
        state.send();
        if state.device.take_link_change() {
            self.link.send_replace(state.device.link());
        }
        let woken = state.device.take_woken();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Takes the lock. If a panic left the device half changed, it is at its end.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut state: MutexGuard<'_, State> = poisoned.into_inner();
            state.rings = None;
            state.device.end(Down::Panicked);
            self.state.clear_poison();
            state
        })
    }
}

impl State {
    fn attach(&mut self, memory: &Memory, to_guest: &VringRwLock, from_guest: &VringRwLock) {
        if self.device.dead().is_some() || !(usable(to_guest) && usable(from_guest)) {
            return;
        }
        let here = [to_guest, from_guest].map(|vring| vring.get_ref().get_queue().next_avail());
        let goes_on = self.rings.as_ref().is_some_and(|rings| [rings.to_guest.at, rings.from_guest.at] == here);
        if !goes_on {
            let ring = |vring: &VringRwLock, at| Ring { vring: vring.clone(), at };
            self.rings = Some(Rings {
                memory: memory.clone(),
                to_guest: ring(to_guest, here[0]),
                from_guest: ring(from_guest, here[1]),
                stalled: false,
            });
            self.device.driver_started();
        }
    }

    /// Takes some of what the guest sent. `true` if there is more.
    fn receive(&mut self) -> bool {
        let Some(rings) = self.rings.as_mut().filter(|rings| usable(&rings.from_guest.vring)) else { return false };
        let memory = rings.memory.memory();
        let mut vring = rings.from_guest.vring.get_mut();
        let turn = (|| {
            vring.disable_notification()?;
            let mut turn = rings::receive(&mut self.device, vring.get_queue_mut(), &memory)?;
            if !turn.more {
                // What came before the guest was asked to kick again would be missed.
                turn.more = vring.enable_notification()? && self.device.can_receive();
            }
            if turn.used > 0 && vring.needs_notification()? {
                // An interrupt that cannot be raised is a VM that ends; its socket tells.
                let _ = vring.signal_used_queue();
            }
            Ok::<Turn, virtio_queue::Error>(turn)
        })();
        rings.from_guest.at = vring.get_queue().next_avail();
        drop(vring);
        rings.stalled = !self.device.can_receive();
        turn.map_or_else(|error| self.broken(&error), |turn| turn.more)
    }

    /// Sends what there is to send, as far as the guest has room.
    fn send(&mut self) {
        let Some(rings) = self.rings.as_mut().filter(|rings| usable(&rings.to_guest.vring)) else { return };
        if !self.device.has_packet() {
            return;
        }
        let memory = rings.memory.memory();
        let mut vring = rings.to_guest.vring.get_mut();
        let sent = rings::send(&mut self.device, vring.get_queue_mut(), &memory).and_then(|turn| {
            if turn.used > 0 && vring.needs_notification()? {
                let _ = vring.signal_used_queue();
            }
            Ok(turn.more)
        });
        rings.to_guest.at = vring.get_queue().next_avail();
        drop(vring);
        match sent {
            Err(error) => {
                self.broken(&error);
            }
            // There is more than one turn's worth, or the answers have gone out and the packets that waited for that
            // are read: not by a task of a handle.
            Ok(more) if more || rings.stalled && self.device.can_receive() => {
                rings.stalled &= !self.device.can_receive();
                self.resume();
            }
            Ok(_) => {}
        }
    }

    /// Has the rings' thread go on.
    fn resume(&self) {
        if let Some(resume) = &self.resume {
            let _ = resume.notify(); // fails only if its count is at the limit: then it is readable
        }
    }

    fn broken(&mut self, error: &impl Display) -> bool {
        self.rings = None;
        self.device.end(Down::BadRing { message: error.to_string() });
        false
    }
}

fn usable(vring: &VringRwLock) -> bool {
    let state = vring.get_ref();
    state.is_enabled() && state.get_queue().ready()
}

/// If the code under the lock panics, tells everybody that the device is at its end.
struct BuryOnPanic<'a>(&'a Shared);

impl Drop for BuryOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.settle(self.0.lock());
        }
    }
}

/// Keeps the device as long as there is a handle, a stream or a listener.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(Down::ClosedHere);
    }
}
