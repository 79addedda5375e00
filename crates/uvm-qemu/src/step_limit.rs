//! One limit for a change of a VM, which its steps share.
//!
//! A change is several QMP commands and waits, each with a limit of its own. Whoever asked for the change waits for as long as
//! one of them may take; were the steps' limits added up, that would end first, with an error that does not know the step. So
//! a change has one deadline, and a step that begins late in it has what is left. What a change leaves to other tasks is not
//! waited for, and keeps its own limits.

use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static SHARED: StepLimit;
}

/// How long a step may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepLimit {
    until: Instant,
    /// What it is, for people to read: of a change's last step, that of the change.
    pub(crate) limit: Duration,
}

impl StepLimit {
    fn from_now(limit: Duration) -> Self {
        let now = Instant::now();
        // Beyond what a clock can tell, it is none.
        let until = now.checked_add(limit).unwrap_or_else(|| now + FAR);
        Self { until, limit }
    }

    /// That of a step which begins now: `own`, or what its change has left.
    pub(crate) fn of(own: Duration) -> Self {
        let own = Self::from_now(own);
        SHARED.try_with(|shared| if shared.until < own.until { *shared } else { own }).unwrap_or(own)
    }

    /// What is left of it. Where that is nothing, a step is not worth beginning.
    pub(crate) fn left(self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Does a step; `None` if it takes too long.
    pub(crate) async fn keep<F: Future>(self, step: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.until, step).await.ok()
    }
}

/// Makes a change whose steps have `limit` altogether.
pub(crate) async fn within<F: Future>(limit: Duration, change: F) -> F::Output {
    SHARED.scope(StepLimit::from_now(limit), change).await
}

/// As good as never: 30 years.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a step that never ends is waited for, and what is told of that.
    async fn step(own: Duration) -> (Duration, Duration) {
        let (began, limit) = (Instant::now(), StepLimit::of(own));
        assert!(limit.keep(pending::<()>()).await.is_none());
        (began.elapsed(), limit.limit)
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_has_its_own_limit_or_what_is_left_of_the_changes() {
        assert_eq!(step(10 * SECOND).await, (10 * SECOND, 10 * SECOND));
        within(10 * SECOND, async {
            assert_eq!(step(4 * SECOND).await, (4 * SECOND, 4 * SECOND));
            assert_eq!(StepLimit::of(10 * SECOND).left(), 6 * SECOND);
            // The number that can be looked up, not one that depends on the steps before.
            assert_eq!(step(10 * SECOND).await, (6 * SECOND, 10 * SECOND));
            assert_eq!(step(10 * SECOND).await, (Duration::ZERO, 10 * SECOND));
            assert_eq!(StepLimit::of(10 * SECOND).left(), Duration::ZERO);
            let apart = tokio::spawn(step(4 * SECOND));
            assert_eq!(apart.await.expect("it ends"), (4 * SECOND, 4 * SECOND));
        })
        .await;
        assert!(StepLimit::of(Duration::MAX).keep(async {}).await.is_some());
    }
}
