//! The numbered places a kind of device has: the lowest that is free is taken.

use std::collections::BTreeMap;

/// Who sits where. `T` is who.
#[derive(Debug)]
pub(crate) struct Places<T> {
    count: u32,
    taken: BTreeMap<u32, T>,
}

impl<T: PartialEq> Places<T> {
    /// Places 0 to `count` - 1, all free.
    pub(crate) fn new(count: u32) -> Self {
        Self { count, taken: BTreeMap::new() }
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

    /// Takes a place.
    pub(crate) fn take(&mut self, place: u32, who: T) {
        self.taken.insert(place, who);
    }

    /// Frees what `who` has taken.
    pub(crate) fn leave(&mut self, who: &T) {
        self.taken.retain(|_, taken| taken != who);
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
    fn a_place_may_be_taken_out_of_order() {
        let mut places = Places::new(4);
        places.take(2, 'x');
        assert_eq!(places.free(), Some(0));
        places.take(0, 'y');
        places.take(1, 'z');
        assert_eq!(places.free(), Some(3));
    }
}
