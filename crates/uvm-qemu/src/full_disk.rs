//! A disk of the host that is full: QEMU stops the guest then, and the write is tried again until there is room.
//!
//! A guest would take the error for a broken disk, and its file system may be lost by it; stopped, it loses nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::qmp::QmpEvent;
use crate::vm::{Life, Vm};

/// How often the write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a guest waits for that is stopped because of it.
#[derive(Default)]
pub(crate) struct FullDisk {
    wait: Mutex<Wait>,
    /// Somebody will try again.
    is_tried: AtomicBool,
}

#[derive(Default)]
struct Wait {
    /// The image whose file system has no room.
    image: Option<PathBuf>,
    /// When the guest last went on.
    went_on: Option<Instant>,
}

impl Wait {
    /// The guest was stopped for `image`. Whether that is news: not when it was let go on only to try again.
    fn begins(&mut self, image: PathBuf, now: Instant) -> bool {
        let is_tried = self.went_on.is_some_and(|at| now.saturating_duration_since(at) < RETRY);
        self.image.replace(image).is_none() && !is_tried
    }

    fn ends(&mut self, now: Instant) {
        if self.image.take().is_some() {
            self.went_on = Some(now);
        }
    }
}

impl FullDisk {
    fn lock(&self) -> MutexGuard<'_, Wait> {
        self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image that there is no room for, while the guest is stopped for it.
    pub(crate) fn image(&self) -> Option<PathBuf> {
        self.lock().image.clone()
    }

    /// The guest runs again.
    pub(crate) fn is_over(&self) {
        self.lock().ends(Instant::now());
    }
}

impl Vm {
    /// An error of a disk. Others than a full host are told to the guest.
    pub(crate) fn disk_failed(self: &Arc<Self>, event: &QmpEvent) {
        let text = |key: &str| event.data.get(key).and_then(Value::as_str).unwrap_or_default();
        let image = self.disks.image_of(text("node-name")).unwrap_or_default();
        let (operation, reason) = (text("operation"), text("reason"));
        let is_full = event.data.get("nospace").and_then(Value::as_bool).unwrap_or(false);
        if !is_full || text("action") != "stop" {
            tracing::warn!(vm = %self.id, image = %image.display(), operation, reason, "a disk failed");
            return;
        }
        if self.full_disk.lock().begins(image.clone(), Instant::now()) {
            tracing::warn!(vm = %self.id, image = %image.display(), "no room on the host for a disk: the VM waits for some");
        }
        self.try_again_later();
    }

    /// Events were missed: one of them may have told that the guest was stopped, or that it goes on.
    pub(crate) async fn look_after_missed_events(self: &Arc<Self>) {
        let Ok(status) = self.qmp.call("query-status", Value::Null).await else { return };
        match status.get("status").and_then(Value::as_str) {
            Some("io-error") => {
                self.full_disk.lock().image.get_or_insert_default();
                self.try_again_later();
            }
            Some("running") => self.full_disk.is_over(),
            _ => {}
        }
    }

    /// Several writes fail at the same time, and one tries again for all.
    fn try_again_later(self: &Arc<Self>) {
        if self.full_disk.is_tried.swap(true, Ordering::AcqRel) {
            return;
        }
        let vm = Arc::clone(self);
        tokio::spawn(async move {
            let waits = || vm.full_disk.image().is_some() && !matches!(vm.life(), Life::Ended(_));
            loop {
                while waits() {
                    tokio::time::sleep(RETRY).await;
                    vm.try_again().await;
                }
                vm.full_disk.is_tried.store(false, Ordering::Release);
                // It may wait anew, and whoever saw that took this for the one who tries.
                if !waits() || vm.full_disk.is_tried.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    /// Lets the guest go on: if there is still no room, QEMU says so again.
    async fn try_again(&self) {
        let _turn = self.power.lock().await;
        // Who has paused it meanwhile lets it go on, too.
        if self.life() == Life::Running
            && self.full_disk.image().is_some()
            && let Err(e) = self.qmp.call("cont", Value::Null).await
        {
            tracing::warn!(vm = %self.id, error = %e, "a VM that waits for room on the host cannot go on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_once_however_often_it_is_tried_again() {
        let mut wait = Wait::default();
        let mut now = Instant::now();
        assert!(wait.begins("a".into(), now));
        assert!(!wait.begins("a".into(), now), "a second write that fails");
        for _ in 0..3 {
            now += RETRY;
            wait.ends(now);
            now += RETRY / 10;
            assert!(!wait.begins("a".into(), now), "tried again");
        }
        wait.ends(now);
        wait.ends(now + RETRY);
        assert!(wait.begins("a".into(), now + RETRY), "it had gone on");
    }
}
