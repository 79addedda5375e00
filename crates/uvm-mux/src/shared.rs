//! The connection behind its lock, and who is woken when it changes.
//!
//! Handles and driver call the connection under one lock that is never held across an `await`. Whoever changed something
//! also writes what there is to send, if the channel takes it: a message leaves in the task that wrote it, without a
//! hop to the driver. The driver sends what may wait, and waits for the channel when that is full. Tasks are woken after
//! the lock is let go.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

use std::io;
use std::sync::Arc;
use std::task::Waker;

use tokio::sync::watch;

use crate::channel::Channel;
use crate::connection::{Connection, ToSend};
use crate::error::{Down, Link};

/// Wakers taken per turn of the lock.
const BATCH: usize = 8;

pub(crate) struct Shared {
    state: Mutex<State>,
    link: watch::Sender<Link>,
}

struct State {
    connection: Connection,
    /// `None` once the link is down for good, so that the other end sees the channel close.
    channel: Option<Arc<dyn Channel>>,
    /// The channel was full. Only the driver waits for that to change.
    blocked: bool,
    /// The driver, when it sleeps.
    driver: Option<Waker>,
    /// No handle is left: close as soon as everything is sent.
    closing: bool,
}

impl Shared {
    pub(crate) fn new(connection: Connection, channel: Arc<dyn Channel>) -> Self {
        let link = watch::Sender::new(connection.link());
        let state = State { connection, channel: Some(channel), blocked: false, driver: None, closing: false };
        Self { state: Mutex::new(state), link }
    }

    pub(crate) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// Calls the connection, then sends what there is to send and wakes whom there is to wake.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut Connection) -> R) -> R {
        self.change(|state| call(&mut state.connection))
    }

    /// Sends also what may wait, for the driver. Gives `true` if the channel is full. The driver will be woken when there
    /// is something for it to do.
    pub(crate) fn drive(&self, driver: &Waker, room: bool) -> bool {
        self.change(|state| {
            state.blocked &= !room;
            state.send_all();
            if state.driver.as_ref().is_none_or(|old| !old.will_wake(driver)) {
                state.driver = Some(driver.clone());
            }
            state.blocked
        })
    }

    /// The last handle is gone.
    pub(crate) fn close_when_flushed(&self) {
        self.change(|state| state.closing = true);
    }

    /// Looks at the connection without changing it.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&Connection) -> R) -> R {
        look(&self.lock().connection)
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let _buried = BuryOnPanic(self); // dropped after the lock
        let mut state = self.lock();
        let result = change(&mut state);
        self.settle(state);
        result
    }

    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) {
        state.send();
        if state.connection.take_link_change() {
            self.link.send_replace(state.connection.link());
        }
        if state.connection.dead().is_some() && state.channel.take().is_some() {
            state.wake_driver();
        }
        loop {
            let mut batch = [const { None }; BATCH];
            let n = state.connection.take_woken(&mut batch);
            drop(state);
            batch.into_iter().flatten().for_each(Waker::wake);
            if n < BATCH {
                return;
            }
            state = self.lock();
        }
    }

    /// Takes the lock. If a panic left the connection half changed, it is replaced by one that is down.
    fn lock(&self) -> MutexGuard<'_, State> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => {
                let mut state = poisoned.into_inner();
                state.connection.bury();
                #[cfg(not(loom))]
                self.state.clear_poison();
                state
            }
        }
    }
}

impl State {
    /// Writes what there is to send, or has the driver do it where that may wait.
    fn send(&mut self) {
        if self.blocked {
            return; // the driver goes on when the channel takes more
        }
        match self.connection.to_send() {
            ToSend::Now => {
                self.send_all();
                if self.blocked {
                    self.wake_driver(); // it waits for the channel to take more
                }
            }
            ToSend::Later => self.wake_driver(),
            ToSend::Nothing if self.closing => self.connection.fail(Down::ClosedHere),
            ToSend::Nothing => {}
        }
    }

    /// Writes until nothing is left or the channel is full.
    fn send_all(&mut self) {
        let Some(channel) = &self.channel else { return };
        while !self.blocked {
            let bytes = self.connection.transmit();
            if bytes.is_empty() {
                if self.closing {
                    self.connection.fail(Down::ClosedHere);
                }
                return;
            }
            match channel.try_write(bytes) {
                Ok(0) => self.connection.fail(channel_failed(&io::ErrorKind::WriteZero.into())),
                Ok(n) => self.connection.transmitted(n),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(error) => self.connection.fail(channel_failed(&error)),
            }
        }
    }

    /// Has the driver woken with the others, after the lock is let go.
    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            self.connection.wake(driver);
        }
    }
}

/// If the code under the lock panics, tells everybody that the link is down.
struct BuryOnPanic<'a>(&'a Shared);

impl Drop for BuryOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.settle(self.0.lock());
        }
    }
}

pub(crate) fn channel_failed(error: &io::Error) -> Down {
    Down::Channel { kind: error.kind(), message: error.to_string() }
}
