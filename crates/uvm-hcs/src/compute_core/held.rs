//! Handles that close by themselves.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::blocking::blocking;
use crate::host::HcsError;

/// A place for a handle, or for what goes with one, that is shared between threads. What is left in it is dropped on a
/// thread of its own: to close a handle may mean to wait for the service, which whoever gives something up does not.
pub(super) struct Held<T: Send + 'static>(Mutex<Option<T>>);

impl<T: Send + 'static> Held<T> {
    pub(super) fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(super) fn of(thing: T) -> Self {
        Self(Mutex::new(Some(thing)))
    }

    pub(super) fn put(&self, thing: T) {
        *self.lock() = Some(thing);
    }

    pub(super) fn take(&self) -> Option<T> {
        self.lock().take()
    }

    pub(super) fn get(&self) -> Option<T>
    where
        T: Clone,
    {
        self.lock().clone()
    }

    /// Drops what is in it, and waits for that.
    pub(super) async fn close(&self, intent: &'static str) -> Result<(), HcsError> {
        let thing = self.take();
        blocking(intent, move |_| {
            drop(thing);
            Ok(())
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Drop for Held<T> {
    fn drop(&mut self) {
        if let Some(thing) = self.take() {
            // Without a thread it is dropped here.
            drop(thread::Builder::new().name("uvm-hcs-close".into()).spawn(move || drop(thing)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::ThreadId;
    use std::time::Duration;

    use super::*;

    /// Tells where it is dropped.
    struct Tells(mpsc::Sender<ThreadId>);

    impl Drop for Tells {
        fn drop(&mut self) {
            // Whoever gave up does not want to know.
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn what_is_left_is_dropped_on_another_thread_and_what_was_taken_is_not() {
        let (sender, dropped) = mpsc::channel();
        let held = Held::of(Tells(sender.clone()));
        drop(held);
        let elsewhere = dropped.recv_timeout(Duration::from_secs(30)).expect("it is dropped");
        assert_ne!(elsewhere, thread::current().id());
        let held = Held::empty();
        held.put(Tells(sender));
        let taken = held.take();
        drop(held);
        assert_eq!(dropped.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(taken);
        assert_eq!(dropped.try_recv(), Ok(thread::current().id()));
    }
}
