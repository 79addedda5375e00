//! The last bytes of an endless output, kept for error messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps the last [`Ring::CAPACITY`] bytes written to it. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Ring(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    total: u64,
}

impl Ring {
    /// How many bytes are kept.
    pub(crate) const CAPACITY: usize = 64 * 1024;

    /// Appends, dropping the oldest bytes beyond the capacity.
    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut state = self.lock();
        state.total += bytes.len() as u64;
        let tail = bytes.get(bytes.len().saturating_sub(Self::CAPACITY)..).unwrap_or_default();
        let excess = (state.bytes.len() + tail.len()).saturating_sub(Self::CAPACITY);
        state.bytes.drain(..excess);
        state.bytes.extend(tail);
    }

    /// How many bytes were ever written.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    /// Everything that is kept.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.iter().copied().collect()
    }

    /// The last `count` lines that hold something to read, control characters taken out: the bytes are a guest's.
    pub(crate) fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes = self.bytes();
        let text = String::from_utf8_lossy(&bytes);
        let printable = |line: &str| -> String {
            line.chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .take(MAX_LINE)
                .collect::<String>()
                .trim_end()
                .to_owned()
        };
        let mut lines: Vec<String> = text.lines().rev().map(printable).filter(|l| !l.is_empty()).take(count).collect();
        lines.reverse();
        lines
    }

    /// As [`last_lines`](Self::last_lines), but beginning with the last line that tells of the end, if there is one: a
    /// kernel's trace of it may be longer than what is quoted.
    pub(crate) fn telling_lines(&self, count: usize) -> Vec<String> {
        let all = self.last_lines(usize::MAX);
        let tail = all.len().saturating_sub(count);
        match all.iter().rposition(|line| TELLING.iter().any(|word| line.contains(word))) {
            Some(cause) if cause < tail => {
                let mut lines = vec![all[cause].clone()];
                lines.extend(all.into_iter().skip(tail + 1));
                lines
            }
            _ => all.into_iter().skip(tail).collect(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a dying guest says: its kernel, its agent.
const TELLING: [&str; 3] = ["Kernel panic", "uvm-agent: ", "Out of memory: "];
/// The longest line quoted, in characters.
const MAX_LINE: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_lines_without_control_characters() {
        let ring = Ring::default();
        ring.push(b"one\r\n\x1b[31mtwo\x07\n\n   \nthr");
        ring.push(b"ee");
        assert_eq!(ring.last_lines(2), ["[31mtwo", "three"]);
        assert_eq!(ring.last_lines(9), ["one", "[31mtwo", "three"]);
    }

    #[test]
    fn the_line_that_tells_of_the_end_is_quoted_first() {
        let ring = Ring::default();
        ring.push(b"boot\nKernel panic - not syncing: oh\nCall Trace:\n a\n b\n c\n");
        assert_eq!(ring.telling_lines(3), ["Kernel panic - not syncing: oh", " b", " c"]);
        assert_eq!(ring.telling_lines(5), ring.last_lines(5), "it is in there by itself");
        ring.push(b"d\n");
        assert_eq!(ring.telling_lines(100).len(), 7);
        let quiet = Ring::default();
        quiet.push(b"one\ntwo\n");
        assert_eq!(quiet.telling_lines(1), ["two"]);
    }

    #[test]
    fn never_holds_more_than_its_capacity() {
        let ring = Ring::default();
        for chunk in [10, Ring::CAPACITY - 1, 3 * Ring::CAPACITY, 1] {
            ring.push(&vec![b'x'; chunk]);
            assert!(ring.lock().bytes.len() <= Ring::CAPACITY);
        }
        ring.push(b"\nend");
        assert_eq!(ring.last_lines(1), ["end"]);
        assert_eq!(ring.total(), (10 + 4 * Ring::CAPACITY + 4) as u64);
    }
}
