//! Who has how much of one thing.

use std::collections::BTreeMap;

/// How many have each part of a thing. `K` is a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Counts<K>(BTreeMap<K, usize>);

impl<K> Default for Counts<K> {
    /// Nobody has anything.
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Counts<K> {
    /// So many have this part, and nobody has another.
    pub(super) fn of(part: K, count: usize) -> Self {
        Self(BTreeMap::from([(part, count)]))
    }

    /// How many have this part.
    pub(super) fn get(&self, part: &K) -> usize {
        self.0.get(part).copied().unwrap_or_default()
    }

    /// How many have any part.
    pub(super) fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// One more has this part.
    pub(super) fn add(&mut self, part: K) {
        *self.0.entry(part).or_default() += 1;
    }

    /// One less has this part.
    pub(super) fn take(&mut self, part: &K) {
        match self.0.get_mut(part) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.0.remove(part)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_apart_and_together() {
        let mut counts = Counts::of('a', 2);
        counts.add('b');
        assert_eq!((counts.get(&'a'), counts.get(&'b'), counts.get(&'c'), counts.total()), (2, 1, 0, 3));
        for (left, part) in [(2, 'b'), (2, 'b'), (1, 'a'), (0, 'a'), (0, 'a')] {
            counts.take(&part);
            assert_eq!(counts.total(), left);
        }
    }
}
