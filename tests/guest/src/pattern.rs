//! Bytes that tell where they belong: a counter, mixed, so that a piece that is lost, doubled, swapped or of another stream
//! is seen at its first byte.

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the guest to the host.
    Up,
    /// From the host to the guest.
    Down,
}

/// The bytes of one direction of one stream, from where the last call ended.
#[derive(Clone, Debug)]
pub struct Pattern {
    key: u64,
    at: u64,
}

impl Pattern {
    /// From the first byte on.
    pub fn new(seed: u64, stream: u32, direction: Direction) -> Self {
        let key = mix(seed ^ u64::from(stream) << 1 ^ u64::from(direction == Direction::Down));
        Self { key, at: 0 }
    }

    /// Bytes made or checked so far.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Makes the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let (word, n) = self.piece(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&word[8 - n..]);
            self.at += n as u64;
            rest = later;
        }
    }

    /// Whether these are the next bytes; if not, where the first wrong one is.
    pub fn check(&mut self, bytes: &[u8]) -> Result<(), u64> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (word, n) = self.piece(rest.len());
            let (now, later) = rest.split_at(n);
            if let Some(wrong) = now.iter().zip(&word[8 - n..]).position(|(found, wanted)| found != wanted) {
                return Err(self.at + wrong as u64);
            }
            self.at += n as u64;
            rest = later;
        }
        Ok(())
    }

    /// The next up to 8 bytes, of which `most` are wanted: they end where the array ends.
    fn piece(&self, most: usize) -> ([u8; 8], usize) {
        let mut word = mix(self.key.wrapping_add(self.at / 8)).to_le_bytes();
        let from = (self.at % 8) as usize;
        let n = most.min(8 - from);
        word.copy_within(from..from + n, 8 - n);
        (word, n)
    }
}

/// How many bytes each of `streams` carries: an equal share of half of `total`, and the other half cut at random points.
pub fn lengths(seed: u64, streams: u32, total: u64, direction: Direction) -> Vec<u64> {
    let key = mix(seed ^ u64::from(direction == Direction::Down) ^ 0x6c65_6e67);
    let share = total / 2 / u64::from(streams).max(1);
    let rest = total - share * u64::from(streams);
    let mut cuts: Vec<u64> = (1..u64::from(streams)).map(|n| mix(key ^ n) % (rest + 1)).collect();
    cuts.push(rest);
    cuts.sort_unstable();
    let mut before = 0;
    cuts.into_iter().map(|cut| share + cut - std::mem::replace(&mut before, cut)).collect()
}

/// The finisher of splitmix64: each bit of the result depends on all bits.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_are_the_same_bytes() {
        let mut whole = vec![0; 4096];
        Pattern::new(7, 3, Direction::Up).fill(&mut whole);
        let (mut pattern, mut checked) = (Pattern::new(7, 3, Direction::Up), Pattern::new(7, 3, Direction::Up));
        let (mut at, mut size) = (0, 1);
        while at < whole.len() {
            let n = size.min(whole.len() - at);
            let mut piece = vec![0; n];
            pattern.fill(&mut piece);
            assert_eq!(piece, whole[at..at + n]);
            assert_eq!(checked.check(&piece), Ok(()));
            (at, size) = (at + n, size % 29 + 1);
        }
        assert_eq!((pattern.at(), checked.at()), (4096, 4096));
    }

    #[test]
    fn what_belongs_elsewhere_is_seen_at_its_first_byte() {
        let mut bytes = vec![0; 64];
        Pattern::new(7, 3, Direction::Up).fill(&mut bytes);
        for other in [(8, 3, Direction::Up), (7, 4, Direction::Up), (7, 3, Direction::Down)] {
            assert!(Pattern::new(other.0, other.1, other.2).check(&bytes).is_err_and(|at| at < 2), "{other:?}");
        }
        let mut lost = bytes.clone();
        lost.drain(8..16);
        assert!(Pattern::new(7, 3, Direction::Up).check(&lost).is_err_and(|at| (8..10).contains(&at)));
        bytes[20] ^= 1;
        assert_eq!(Pattern::new(7, 3, Direction::Up).check(&bytes), Err(20));
    }

    #[test]
    fn lengths_add_up_and_differ() {
        let lengths = lengths(1, 64, 16 << 20, Direction::Up);
        assert_eq!((lengths.len(), lengths.iter().sum::<u64>()), (64, 16 << 20));
        assert!(lengths.iter().max() > lengths.iter().min() && lengths.iter().min() >= Some(&(128 << 10)));
        assert_ne!(lengths, super::lengths(2, 64, 16 << 20, Direction::Up));
        assert_ne!(lengths, super::lengths(1, 64, 16 << 20, Direction::Down));
        assert_eq!(super::lengths(1, 1, 5, Direction::Up), [5]);
    }
}
