//! The memory that bytes wait in: blocks, taken when there is something to hold and given back when it is gone.

use crate::frame::MAX_FRAME;

/// Size of a block for short messages.
const SMALL: usize = 2 * 1024;
/// Full blocks kept for reuse.
const KEEP_FULL: usize = 4;
/// Small blocks kept for reuse.
const KEEP_SMALL: usize = 16;

/// A piece of initialised memory with a filled part.
#[derive(Debug, Default)]
pub(crate) struct Block {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Block {
    fn with_room(room: usize) -> Self {
        Self { memory: vec![0; room].into_boxed_slice(), start: 0, end: 0 }
    }

    /// `n` zeros.
    pub(crate) fn zeros(n: usize) -> Self {
        Self { end: n, ..Self::with_room(n) }
    }

    /// What it holds.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room behind the filled part.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        &mut self.memory[self.end..]
    }

    pub(crate) fn spare_len(&self) -> usize {
        self.memory.len() - self.end
    }

    /// Counts the first `n` bytes of the room as filled.
    pub(crate) fn grow(&mut self, n: usize) {
        self.end = self.memory.len().min(self.end + n);
    }

    /// Drops the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
    }

    pub(crate) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Bytes it takes, filled or not.
    pub(crate) fn memory(&self) -> usize {
        self.memory.len()
    }

    /// Copies as much of `data` as there is room for and returns how much that was.
    pub(crate) fn append(&mut self, data: &[u8]) -> usize {
        let n = data.len().min(self.spare_len());
        self.spare()[..n].copy_from_slice(&data[..n]);
        self.end += n;
        n
    }

    /// Overwrites the first bytes of what it holds.
    pub(crate) fn set_head(&mut self, head: &[u8]) {
        self.memory[self.start..][..head.len()].copy_from_slice(head);
    }
}

/// Blocks that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    full: Vec<Block>,
    small: Vec<Block>,
}

impl Pool {
    /// An empty block with room for `room` bytes, or [`MAX_FRAME`] where that is less.
    pub(crate) fn take(&mut self, room: usize) -> Block {
        let (kept, size) = if room <= SMALL { (&mut self.small, SMALL) } else { (&mut self.full, MAX_FRAME) };
        kept.pop().unwrap_or_else(|| Block::with_room(size))
    }

    /// Takes a block back.
    pub(crate) fn give(&mut self, mut block: Block) {
        block.clear();
        let (kept, most) = match block.memory.len() {
            SMALL => (&mut self.small, KEEP_SMALL),
            MAX_FRAME => (&mut self.full, KEEP_FULL),
            _ => return, // none, or filler
        };
        if kept.len() < most {
            kept.push(block);
        }
    }

    /// Bytes that are kept.
    pub(crate) fn memory(&self) -> usize {
        self.full.iter().chain(&self.small).map(Block::memory).sum()
    }

    /// Frees what is kept.
    pub(crate) fn trim(&mut self) {
        self.full = Vec::new();
        self.small = Vec::new();
    }
}
