//! Bytes that were received and not yet read.

use std::collections::VecDeque;

use super::block::{Block, Pool};

/// A queue of bytes in blocks. Its owner bounds it: by the stream's window.
#[derive(Debug, Default)]
pub(crate) struct ReceiveQueue {
    blocks: VecDeque<Block>,
    len: usize,
}

impl ReceiveQueue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn append(&mut self, mut data: &[u8], pool: &mut Pool) {
        self.len += data.len();
        while !data.is_empty() {
            if self.blocks.back().is_none_or(|block| block.spare_len() == 0) {
                self.blocks.push_back(pool.take(data.len()));
            }
            if let Some(block) = self.blocks.back_mut() {
                data = &data[block.append(data)..];
            }
        }
    }

    /// The bytes to read next; not all of them.
    pub(crate) fn front(&self) -> &[u8] {
        self.blocks.front().map_or(&[], Block::filled)
    }

    /// Drops `n` bytes of [`front`](Self::front).
    pub(crate) fn consume(&mut self, n: usize, pool: &mut Pool) {
        let Some(block) = self.blocks.front_mut() else { return };
        let before = block.len();
        block.consume(n);
        self.len -= before - block.len();
        if block.is_empty()
            && let Some(block) = self.blocks.pop_front()
        {
            pool.give(block);
        }
    }

    /// Takes the first piece out. Its bytes no longer count.
    pub(crate) fn take_front(&mut self) -> Option<Block> {
        let block = self.blocks.pop_front()?;
        self.len -= block.len();
        Some(block)
    }

    /// Puts what is left of a piece back.
    pub(crate) fn put_front(&mut self, block: Block, pool: &mut Pool) {
        if block.is_empty() {
            pool.give(block);
        } else {
            self.len += block.len();
            self.blocks.push_front(block);
        }
    }

    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        self.len = 0;
        for block in std::mem::take(&mut self.blocks) {
            pool.give(block);
        }
    }

    /// Bytes of memory it takes.
    pub(crate) fn memory(&self) -> usize {
        self.blocks.iter().map(Block::memory).sum()
    }
}
