//! Whose turn it is: requests about one place of the VM are done one after the other, in the order they came.
//!
//! Without that, the removal that follows an addition which the host has given up would find nothing, and what the addition
//! then mounts would be nobody's; and two additions would both see that a path is free.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// What a request is about, and no other request may touch meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    Disk {
        controller: u8,
        lun: u8,
    },
    /// By where it is, or its number.
    Memory(String),
    /// As it is asked for. Paths that differ in slashes alone are the same one.
    Path(PathBuf),
    /// As the kernel names it, whatever it is asked for by. It is looked for when it is the turn of the others, and so has to
    /// be the last in order.
    Found(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk { controller, lun } => write!(f, "the disk at controller {controller}, LUN {lun}"),
            Self::Memory(name) => write!(f, "the memory-backed disk {name}"),
            Self::Path(path) | Self::Found(path) => path.display().fmt(f),
        }
    }
}

/// The places that requests are about now. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<Place, Arc<tokio::sync::Mutex<()>>>>>);

/// Places are somebody's while this lives.
#[must_use = "the next request begins when it is dropped"]
#[derive(Debug)]
pub(super) struct Turn {
    places: Vec<OwnedMutexGuard<()>>,
}

impl Turn {
    /// Both at once.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.places.extend(other.places);
        self
    }
}

impl Turns {
    /// Waits until all these places are free. Cancel-safe: whoever gives up leaves the line.
    pub(super) async fn take(&self, mut places: Vec<Place>) -> Turn {
        // Everybody takes them in one order, so that no two wait for each other.
        places.sort();
        places.dedup();
        let mut taken = Vec::with_capacity(places.len());
        for place in places {
            taken.push(self.of(place).lock_owned().await);
        }
        Turn { places: taken }
    }

    fn of(&self, place: Place) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody holds or waits for.
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(all.entry(place).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Vec<Place> {
        vec![Place::Path(path.into())]
    }

    #[tokio::test]
    async fn requests_about_one_place_are_done_in_the_order_they_came() {
        let turns = Turns::default();
        let disk = Place::Disk { controller: 0, lun: 1 };
        let first = turns.take(vec![Place::Path("/a".into()), disk.clone()]).await;
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (number, places) in [(2, vec![disk.clone(), Place::Path("/b".into())]), (3, vec![disk]), (4, path("/a/"))] {
            let (turns, done) = (turns.clone(), done.clone());
            tokio::spawn(async move {
                let _turn = turns.take(places).await;
                let _ = done.send(number);
            });
        }
        // Another place is free meanwhile; and the others have lined up when this has yielded.
        drop(turns.take(path("/c")).await);
        tokio::task::yield_now().await;
        assert!(order.try_recv().is_err(), "somebody did not wait");
        drop(first);
        let mut came = Vec::new();
        for _ in 0..3 {
            came.push(order.recv().await.expect("one more"));
        }
        assert!(came.iter().position(|n| *n == 2) < came.iter().position(|n| *n == 3), "{came:?}");
    }

    #[tokio::test]
    async fn places_that_nobody_asks_for_are_forgotten() {
        let turns = Turns::default();
        let held = turns.take(path("/held")).await;
        for number in 0..100 {
            drop(turns.take(path(&format!("/{number}"))).await);
        }
        assert_eq!(turns.0.lock().expect("whole").len(), 2);
        drop(held);
    }
}
