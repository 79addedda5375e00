//! The last bytes of an endless output, kept for error messages.

use std::collections::{BTreeSet, VecDeque};
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

    /// As [`last_lines`](Self::last_lines), but beginning with the lines that tell of the end, if there are some: a kernel's
    /// trace of it may be longer than what is quoted. What was said right before a kernel panicked is among them: when its
    /// init ended, that is the reason.
    pub(crate) fn telling_lines(&self, count: usize) -> Vec<String> {
        let all = self.last_lines(usize::MAX);
        let tells = |line: &String| TELLING.iter().any(|word| line.contains(word));
        let panic = all.iter().rposition(|line| line.contains(PANIC));
        let before = panic.map_or(0..0, |at| at.saturating_sub(BEFORE_PANIC)..at);
        let telling: Vec<usize> =
            (0..all.len()).filter(|at| before.contains(at) || all.get(*at).is_some_and(tells)).collect();
        // The last of them, and no more than half of what is quoted; then the end, as far as there is room.
        let mut quoted: BTreeSet<usize> = telling.into_iter().rev().take(count.div_ceil(2)).collect();
        for at in (0..all.len()).rev() {
            if quoted.len() >= count {
                break;
            }
            quoted.insert(at);
        }
        all.into_iter().enumerate().filter(|(at, _)| quoted.contains(at)).map(|(_, line)| line).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a dying guest says: its kernel, its agent.
const TELLING: [&str; 3] = [PANIC, "uvm-agent: ", "Out of memory: "];
const PANIC: &str = "Kernel panic";
/// Lines right before a panic that may give its reason.
const BEFORE_PANIC: usize = 3;
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
    fn the_lines_that_tell_of_the_end_are_quoted_first() {
        let ring = Ring::default();
        ring.push(b"boot\nKernel panic - not syncing: oh\nCall Trace:\n a\n b\n c\n");
        assert_eq!(ring.telling_lines(4), ["boot", "Kernel panic - not syncing: oh", " b", " c"]);
        assert_eq!(ring.telling_lines(1), ["Kernel panic - not syncing: oh"]);
        assert_eq!(ring.telling_lines(6), ring.last_lines(6), "they are in there by themselves");
        assert_eq!(ring.telling_lines(5).len(), 5);
        ring.push(b"d\n");
        assert_eq!(ring.telling_lines(100).len(), 7);
        let quiet = Ring::default();
        quiet.push(b"one\ntwo\n");
        assert_eq!(quiet.telling_lines(1), ["two"]);
    }

    #[test]
    fn what_init_said_before_it_ended_is_quoted() {
        let ring = Ring::default();
        ring.push(b"boot\n".repeat(50).as_slice());
        ring.push(b"init: no such flag\nKernel panic - not syncing: Attempted to kill init!\n");
        ring.push(b" trace\n".repeat(50).as_slice());
        let lines = ring.telling_lines(12);
        assert!(lines.len() == 12 && lines.contains(&"init: no such flag".to_owned()), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some(" trace"));
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
