//! A request that takes time: its turn, its limit, and what becomes of it when nobody waits for it any more.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::turns::{Place, Turn, Turns};
use super::{StorageError, path};
use crate::log;

/// How long a request may take in all, its wait for earlier ones included: shorter than the 30 s that a host waits for the
/// answer, so that it hears of what was not done, and why.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(25);
/// How much earlier its single steps give up, because their errors say more.
const STEPS_EARLIER: Duration = Duration::from_secs(1);
/// How long what has been given up may take to end before that is answered.
const ABANDONED_WITHIN: Duration = Duration::from_secs(1);

/// A request whose turn it is.
#[derive(Debug)]
pub(super) struct Request {
    until: Instant,
    turn: Turn,
}

impl Request {
    /// Waits for the turn of a request about these places.
    pub(super) async fn begin(turns: &Turns, places: Vec<Place>) -> Result<Self, StorageError> {
        let until = Instant::now() + ANSWERED_WITHIN;
        Ok(Self { until, turn: take(turns, until, places).await? })
    }

    /// Finds what the kernel calls these paths, and waits for the turn of a request about what it finds. The paths themselves
    /// have to be this request's already: else a later one could overtake it.
    pub(super) async fn find(self, turns: &Turns, paths: Vec<PathBuf>) -> Result<(Self, Vec<PathBuf>), StorageError> {
        let Self { until, turn } = self;
        let named = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ");
        // On a thread: a path may lead over a share of the host.
        let finding = move || paths.iter().map(|path| path::resolved(path)).collect::<Result<Vec<_>, _>>();
        let found = timeout_at(until, tokio::task::spawn_blocking(finding)).await;
        let found = found.map_err(|_| {
            StorageError::Late(format!("what leads to {named} has not been found within {ANSWERED_WITHIN:?}"))
        })?;
        let found = found.map_err(StorageError::because)??;
        let turn = turn.and(take(turns, until, found.iter().cloned().map(Place::Found).collect()).await?);
        Ok((Self { until, turn }, found))
    }

    /// When its steps are to give up.
    pub(super) fn steps_until(&self) -> Instant {
        self.until - STEPS_EARLIER
    }

    /// Does `work` on a thread. If it takes too long, that is an error which says that `task` was waited for, and `abandon`
    /// is called to end it; should it succeed after all, `undo` follows, and what cannot be undone is told on the console.
    /// The turn is over when all that is.
    pub(super) async fn run(
        self,
        task: &str,
        work: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
        abandon: impl FnOnce(),
        undo: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let Self { until, turn } = self;
        let late = task.to_owned();
        let (answer, mut answered) = oneshot::channel();
        let thread = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Err(Ok(())) = answer.send(work())
                && let Err(e) = undo()
            {
                log::console(format_args!("{late} came too late, and stays: {e}"));
            }
        });
        let outcome = if let Ok(outcome) = timeout_at(until, &mut answered).await {
            outcome.ok()
        } else {
            answered.close();
            match answered.try_recv() {
                // It came at the last moment.
                Ok(outcome) => Some(outcome),
                Err(oneshot::error::TryRecvError::Closed) if thread.is_finished() => None,
                Err(_) => {
                    abandon();
                    // If that does not end it, the next request about these places waits.
                    let _ = timeout(ABANDONED_WITHIN, thread).await;
                    return Err(StorageError::Late(format!("{task} took longer than {ANSWERED_WITHIN:?}")));
                }
            }
        };
        outcome.unwrap_or_else(|| Err(StorageError::Bad(format!("{task} ended without an outcome"))))
    }
}

async fn take(turns: &Turns, until: Instant, places: Vec<Place>) -> Result<Turn, StorageError> {
    let named = places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    let turn = timeout_at(until, turns.take(places)).await;
    turn.map_err(|_| {
        StorageError::Late(format!("an earlier request about {named} has not ended within {ANSWERED_WITHIN:?}"))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use uvm_wire::Hresult;

    use super::*;

    fn place() -> Vec<Place> {
        vec![Place::Path("/mnt".into())]
    }

    /// One whose time is over.
    async fn late(turns: &Turns) -> Request {
        Request { until: Instant::now(), turn: turns.take(place()).await }
    }

    #[tokio::test]
    async fn what_succeeds_after_it_was_given_up_is_undone_before_the_next() {
        let turns = Turns::default();
        let request = late(&turns).await;
        let (release, stuck) = mpsc::channel::<()>();
        let (undone, is_undone) = mpsc::channel();
        let work = move || {
            let _ = stuck.recv();
            Ok(())
        };
        let undo = move || {
            undone.send(()).expect("somebody listens");
            Ok(())
        };
        let error = request.run("the task", work, || (), undo).await.expect_err("too late");
        assert_eq!(error.told(), (Hresult::TIMEOUT, "HRESULT 0xc0370109: the task took longer than 25s".into()));
        // It goes on, so the next waits.
        let next = tokio::spawn(async move { Request::begin(&turns, place()).await.map(drop) });
        drop(release);
        next.await.expect("joined").expect("its turn");
        is_undone.try_recv().expect("undone");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_in_vain_is_named() {
        let turns = Turns::default();
        let _held = Request::begin(&turns, place()).await.expect("free");
        let (result, message) = Request::begin(&turns, place()).await.expect_err("busy").told();
        assert_eq!(result, Hresult::TIMEOUT);
        assert!(message.ends_with(": an earlier request about /mnt has not ended within 25s"), "{message}");
    }

    #[tokio::test]
    async fn paths_that_lead_to_one_place_are_one_place() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().canonicalize().expect("there");
        std::fs::create_dir(root.join("run")).expect("made");
        std::os::unix::fs::symlink("run", root.join("link")).expect("linked");
        let turns = Turns::default();
        let begin = async |path: PathBuf| {
            let request = Request::begin(&turns, vec![Place::Path(path.clone())]).await.expect("free");
            request.find(&turns, vec![path]).await
        };
        let (earlier, found) = begin(root.join("run/a")).await.expect("found");
        assert_eq!(found, [root.join("run/a")]);
        let mut later = std::pin::pin!(begin(root.join("link/a")));
        assert!(timeout(Duration::from_millis(100), &mut later).await.is_err(), "it did not wait");
        drop(earlier);
        let (_request, found) = later.await.expect("found");
        assert_eq!(found, [root.join("run/a")]);
    }

    #[tokio::test]
    async fn what_is_given_up_is_told_so() {
        let request = late(&Turns::default()).await;
        let (release, stuck) = mpsc::channel::<()>();
        let work = move || {
            let _ = stuck.recv();
            Err(StorageError::Bad("cut".into()))
        };
        let error = request.run("the task", work, || drop(release), || panic!("nothing was done")).await;
        assert_eq!(error.expect_err("too late").told().0, Hresult::TIMEOUT);
    }

    #[tokio::test]
    async fn outcomes_are_told() {
        let begin = async || Request::begin(&Turns::default(), place()).await.expect("free");
        let undo = || panic!("it was told");
        begin().await.run("a", || Ok(()), || (), undo).await.expect("done");
        let bad = || Err(StorageError::Bad("why".into()));
        let error = begin().await.run("a", bad, || (), undo).await.expect_err("bad");
        assert_eq!(error.told(), (Hresult::FAIL, "why".into()));
    }
}
