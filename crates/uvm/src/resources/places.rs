//! The numbered places a kind of device has: the lowest that is free is taken, or the one that was left longest ago.

use std::collections::BTreeMap;

/// Who sits where. `T` is who.
#[derive(Debug)]
pub(crate) struct Places<T> {
    count: u32,
    taken: BTreeMap<u32, T>,
    /// Places that somebody has left, the one that was left last at the end.
    left: Vec<u32>,
}

impl<T: PartialEq> Places<T> {
    /// Places 0 to `count` - 1, all free.
    pub(crate) fn new(count: u32) -> Self {
        Self { count, taken: BTreeMap::new(), left: Vec::new() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The lowest place that is free.
    pub(crate) fn free(&self) -> Option<u32> {
        // The places that are taken are in order: the first gap is the lowest free one.
        let gap = self.taken.keys().zip(0..).find(|(taken, at)| *taken != at).map(|(_, at)| at);
        let lowest = gap.or_else(|| u32::try_from(self.taken.len()).ok())?;
        (lowest < self.count).then_some(lowest)
    }

    /// The lowest free place that nobody had yet; else the one that was left longest ago.
    pub(crate) fn free_longest(&self) -> Option<u32> {
        let fresh = (0..self.count).find(|place| !self.taken.contains_key(place) && !self.left.contains(place));
        fresh.or_else(|| self.left.first().copied())
    }

    /// Takes a place.
    pub(crate) fn take(&mut self, place: u32, who: T) {
        self.left.retain(|left| *left != place);
        self.taken.insert(place, who);
    }

    /// Frees what `who` has taken.
    pub(crate) fn leave(&mut self, who: &T) {
        self.left.extend(self.taken.extract_if(.., |_, taken| taken == who).map(|(place, _)| place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_place_is_found_until_there_is_none() {
        let mut places = Places::new(3);
        for expected in 0..3 {
            assert_eq!(places.free(), Some(expected));
            places.take(expected, expected);
        }
        assert_eq!(places.free(), None);
        places.leave(&1);
        assert_eq!(places.free(), Some(1));
        places.leave(&0);
        assert_eq!(places.free(), Some(0));
        assert_eq!(Places::<u32>::new(0).free(), None);
    }

    #[test]
    fn the_place_that_was_left_last_is_taken_last() {
        let mut places = Places::new(3);
        places.take(0, 'x');
        places.take(1, 'y');
        places.leave(&'y');
        assert_eq!((places.free(), places.free_longest()), (Some(1), Some(2)));
        places.take(2, 'z');
        places.leave(&'x');
        assert_eq!((places.free(), places.free_longest()), (Some(0), Some(1)));
        places.take(1, 'x');
        places.leave(&'x');
        places.take(0, 'x');
        assert_eq!(places.free_longest(), Some(1));
        places.take(1, 'y');
        assert_eq!(places.free_longest(), None);
    }

    #[test]
    fn a_place_may_be_taken_out_of_order() {
        let mut places = Places::new(4);
        places.take(2, 'x');
        assert_eq!(places.free(), Some(0));
        places.take(0, 'y');
        places.take(1, 'z');
        assert_eq!(places.free(), Some(3));
    }
}
