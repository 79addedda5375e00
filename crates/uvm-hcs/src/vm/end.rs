//! How a VM ends: what the service tells, terminate, close.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use uvm_platform::requests::{Change, CpuGroup, Setting};
use uvm_platform::{BoxFuture, ExitStatus, PlatformError, VmEvent};

use super::Vm;
use crate::host::{HcsError, Notification, NotificationKind};
use crate::life::{Life, classify};

impl Vm {
    /// Follows what the service tells, from the creation on, until the VM has ended.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut notifications: mpsc::UnboundedReceiver<Notification>,
        events: mpsc::Sender<VmEvent>,
    ) {
        let mut ending = self.ending();
        loop {
            let told = tokio::select! {
                biased;
                told = notifications.recv() => told,
                // Something else than the service knows.
                status = &mut ending => return self.end(status, &events).await,
            };
            let Some(told) = told else { break };
            match told.kind {
                NotificationKind::SystemExited => {
                    let status = classify(&told, *self.evidence());
                    return self.end(status, &events).await;
                }
                NotificationKind::CrashInitiated | NotificationKind::CrashReport => {
                    let first = !std::mem::replace(&mut self.evidence().crashed, true);
                    if first {
                        // A full or closed channel means that nobody is interested.
                        let _ = events.try_send(VmEvent::GuestPanicked);
                    }
                }
                NotificationKind::ServiceDisconnect => {
                    self.evidence().service_lost = true;
                    let why = String::from("lost communication with the compute service");
                    let _ = events.try_send(VmEvent::Broken { why: why.clone() });
                    return self.end(ExitStatus::Abnormal(why), &events).await;
                }
                kind => tracing::debug!(vm = %self.parts.id, ?kind, status = %told.status, "the compute service tells"),
            }
        }
        // The system is closed, which ends it.
        self.end(ExitStatus::Terminated, &events).await;
    }

    async fn end(&self, status: ExitStatus, events: &mpsc::Sender<VmEvent>) {
        // Terminate may have found that it is gone.
        let is_news = self.life.send_if_modified(|life| {
            let lives = !life.has_ended();
            if lives {
                *life = Life::Ended(status.clone());
            }
            lives
        });
        let status = match &*self.life.borrow() {
            Life::Ended(known) if !is_news => known.clone(),
            _ => status,
        };
        tracing::info!(vm = %self.parts.id, %status, "utility VM ended");
        // A closed channel means that nobody is interested.
        let _ = events.send(VmEvent::Exited(status)).await;
    }

    /// How the VM has ended, once it has.
    pub(super) fn ending(&self) -> BoxFuture<'static, ExitStatus> {
        let mut life = self.life.subscribe();
        Box::pin(async move {
            match life.wait_for(Life::has_ended).await.map(|life| life.clone()) {
                Ok(Life::Ended(status)) => status,
                // Not even its shared part is left, so its system was closed.
                _ => ExitStatus::Terminated,
            }
        })
    }

    async fn await_end(&self, deadline: Duration) -> Option<ExitStatus> {
        tokio::time::timeout(deadline, self.ending()).await.ok()
    }

    pub(super) async fn terminate(&self) -> Result<(), PlatformError> {
        if self.closed.initialized() || self.evidence().service_lost {
            return Ok(());
        }
        if self.nothing_to_end.load(Ordering::Relaxed) {
            // There is nothing to end: it is let go of when it is closed.
            self.life.send_if_modified(|life| {
                let is_news = !life.has_ended();
                if is_news {
                    *life = Life::Ended(ExitStatus::Terminated);
                }
                is_news
            });
            return Ok(());
        }
        self.tell_to_end().await
    }

    /// Has the service end it, whatever is known of it.
    async fn tell_to_end(&self) -> Result<(), PlatformError> {
        let deadline = self.parts.deadlines.terminate;
        let had_ended = self.life.borrow().has_ended();
        self.evidence().terminated = true;
        // Also a VM that has ended: as long as its system is open, the service may hold something for it.
        let told = tokio::time::timeout(deadline, self.parts.system.terminate()).await;
        if had_ended {
            tracing::debug!(vm = %self.parts.id, ?told, "a VM that has ended was told to");
            return Ok(());
        }
        let gone = match told {
            Ok(Ok(())) => false,
            Ok(Err(error)) if error.is_any(&[HcsError::PENDING]) => {
                // It is under way: its end is told when it comes, and nothing is wrong if that takes longer.
                let _ = self.await_end(deadline).await;
                return Ok(());
            }
            Ok(Err(error)) if error.is_ending() => true,
            Ok(Err(error)) => return Err(PlatformError::host("terminate it", error)),
            Err(_) => return Err(self.timeout("the compute service, to terminate it", deadline)),
        };
        match self.await_end(deadline).await {
            Some(_) => Ok(()),
            // It has ended before, and that is never told again.
            None if gone => {
                self.life.send_replace(Life::Ended(ExitStatus::Terminated));
                Ok(())
            }
            None => Err(self.timeout("the end of the VM after it was terminated", deadline)),
        }
    }

    /// Ends the VM, closes its system and takes back what it was given. The second time does nothing; after a failure
    /// it tries what is left.
    pub(super) async fn close(self: &Arc<Self>, ended: Box<dyn FnOnce() + Send>) -> Result<(), PlatformError> {
        let deadline = self.parts.deadlines.close;
        let close = self.closed.get_or_try_init(|| async {
            match tokio::time::timeout(deadline, self.close_once(ended)).await {
                Ok(result) => result,
                Err(_) => Err(self.timeout("the VM to close", deadline)),
            }
        });
        close.await.copied()
    }

    async fn close_once(self: &Arc<Self>, ended: Box<dyn FnOnce() + Send>) -> Result<(), PlatformError> {
        if self.in_cpu_group.load(Ordering::Relaxed) && !self.life.borrow().has_ended() {
            let leave = Change::Update(Setting::CpuGroup(CpuGroup { id: None }));
            if let Err(error) = self.change(&leave, None).await {
                tracing::warn!(vm = %self.parts.id, %error, "the VM stays in its CPU group until it has ended");
            }
        }
        // Closing ends it in any case; that it could not be terminated is told all the same.
        let is_lost = self.evidence().service_lost;
        let terminated = if is_lost { Ok(()) } else { self.tell_to_end().await };
        ended();
        self.close_hosted().await;
        let closed = self.call("close it", self.parts.deadlines.host_call, self.parts.system.close()).await;
        if let Some(scratch) = &self.parts.scratch {
            scratch.release().await;
        }
        terminated.and(closed)
    }
}
