//! Start, pause, resume: from one state to another by a call to the service.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uvm_platform::PlatformError;
use uvm_platform::requests::{Change, CpuGroup, Setting};

use super::Vm;
use crate::document::creates_in_cpu_group;
use crate::host::HcsError;
use crate::life::Life;

/// A way from one state to another.
struct Transition {
    intent: &'static str,
    from: Life,
    to: Life,
    deadline: Duration,
}

/// What a transition begins with.
enum Claim {
    /// The caller is to make it.
    Ours,
    /// It is made already.
    Done,
    /// Another is under way.
    Wait,
}

impl Vm {
    /// Powers the VM on, and has it join its CPU group where it was not created in it.
    pub(super) async fn start(&self) -> Result<(), PlatformError> {
        let deadline = self.parts.deadlines.start;
        let transition = Transition { intent: "start it", from: Life::Created, to: Life::Running, deadline };
        let start = async {
            let started = self.parts.system.start().await;
            self.nothing_to_end.store(started.is_err(), Ordering::Relaxed);
            started
        };
        self.enter(transition, start).await?;
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let Some(group) = self.parts.cpu_group.clone().filter(|_| !creates_in_cpu_group(self.parts.build)) else {
            return Ok(());
        };
        let join = Change::Update(Setting::CpuGroup(CpuGroup { id: Some(group) }));
        if let Err(error) = self.change(&join, None).await {
            // It must not run where it was not meant to. What fails here is told, the first error counts.
            match self.terminate().await {
                Ok(()) => self.nothing_to_end.store(true, Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(vm = %self.parts.id, %error, "a VM that could not join its CPU group still runs");
                }
            }
            return Err(error);
        }
        self.in_cpu_group.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) async fn pause(&self) -> Result<(), PlatformError> {
        let deadline = self.parts.deadlines.host_call;
        let transition = Transition { intent: "pause it", from: Life::Running, to: Life::Paused, deadline };
        self.enter(transition, self.parts.system.pause()).await
    }

    pub(super) async fn resume(&self) -> Result<(), PlatformError> {
        let deadline = self.parts.deadlines.host_call;
        let transition = Transition { intent: "resume it", from: Life::Paused, to: Life::Running, deadline };
        self.enter(transition, self.parts.system.resume()).await
    }

    /// Makes the transition. Being there already is success, but for the first start.
    async fn enter(
        &self,
        transition: Transition,
        call: impl Future<Output = Result<(), HcsError>> + Send,
    ) -> Result<(), PlatformError> {
        let Transition { intent, from, to, deadline } = transition;
        loop {
            self.require_open(intent)?;
            match self.claim(intent, &from, &to)? {
                Claim::Done => return Ok(()),
                Claim::Ours => break,
                Claim::Wait => {
                    // Whoever makes it has a deadline, so this wait has one too. The sender is alive: `self` holds it.
                    let _ = self.life.subscribe().wait_for(|life| *life != Life::Changing).await;
                }
            }
        }
        let result = self.call(intent, deadline, call).await;
        let next = if result.is_ok() { to } else { from };
        // The VM may have ended meanwhile.
        self.life.send_if_modified(|life| {
            let is_ours = *life == Life::Changing;
            if is_ours {
                *life = next;
            }
            is_ours
        });
        match (&*self.life.borrow(), result) {
            (Life::Ended(status), Err(_)) => Err(self.ended(intent, status.clone())),
            (_, result) => result,
        }
    }

    fn claim(&self, intent: &'static str, from: &Life, to: &Life) -> Result<Claim, PlatformError> {
        let mut claim = Ok(Claim::Ours);
        self.life.send_if_modified(|life| {
            if life == from {
                *life = Life::Changing;
                return true;
            }
            claim = match life {
                Life::Changing => Ok(Claim::Wait),
                life if life == to && *from != Life::Created => Ok(Claim::Done),
                life => Err(PlatformError::WrongState { intent, state: life.name() }),
            };
            false
        });
        claim
    }
}
