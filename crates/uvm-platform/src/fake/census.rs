//! What there is of fake VMs, so that tests can see that nothing is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// How many there are of each kind of thing. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Census(Arc<watch::Sender<BTreeMap<&'static str, usize>>>);

impl Default for Census {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }
}

impl Census {
    /// Counts one thing for as long as the result lives.
    pub(super) fn count(&self, kind: &'static str) -> Counted {
        self.0.send_modify(|counts| *counts.entry(kind).or_default() += 1);
        Counted { census: self.clone(), kind }
    }

    /// What there is, by kind. Kinds of which there is none are left out.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.0.borrow().clone()
    }

    /// Waits until there is nothing.
    pub(super) async fn empty(&self) {
        // The sender is alive: `self` holds it.
        let _ = self.0.subscribe().wait_for(BTreeMap::is_empty).await;
    }
}

/// Something that is counted.
#[derive(Debug)]
pub(super) struct Counted {
    census: Census,
    kind: &'static str,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.census.0.send_modify(|counts| {
            if let Some(count) = counts.get_mut(self.kind) {
                *count -= 1;
            }
            counts.retain(|_, count| *count > 0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn things_are_counted_while_they_live() {
        let census = Census::default();
        let (a, b, c) = (census.count("ports"), census.count("ports"), census.count("vms"));
        assert_eq!(census.counts(), [("ports", 2), ("vms", 1)].into());
        drop((a, c));
        assert_eq!(census.counts(), [("ports", 1)].into());
        let waiting = tokio::spawn({
            let census = census.clone();
            async move { census.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(b);
        waiting.await.expect("joined");
    }
}
