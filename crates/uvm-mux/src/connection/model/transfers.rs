//! What an end does with its streams, and what may come of it.

use std::task::{Poll, Waker};

use super::World;
use super::stream::LONGEST;
use crate::connection::Slot;
use crate::error::StreamError;

impl World {
    pub(super) fn accept(&mut self, end: usize, port: u32) {
        if let Poll::Ready(accepted) = self.ends[end].poll_accept(port, Waker::noop()) {
            let slot = accepted.expect("not down for good");
            self.name(end, slot);
        }
    }

    pub(super) fn write(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let at = model.directions[end].written;
        let data = &model.bytes(end, at)[..len];
        let waiter = &mut model.ends[end].writer;
        let result = self.ends[end].poll_write(slot, &waiter.waker(), data);
        waiter.polled(&result);
        self.written(end, stream, result);
    }

    pub(super) fn fill(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let at = model.directions[end].written;
        let waker = model.ends[end].writer.waker();
        let result = self.ends[end].poll_fill(slot, &waker);
        model.ends[end].writer.polled(&result);
        let result = result.map_ok(|(mut block, room)| {
            let n = room.min(len);
            block.spare()[..n].copy_from_slice(&model.bytes(end, at)[..n]);
            block.grow(n);
            self.ends[end].put_pending(slot, block, n);
            n
        });
        self.written(end, stream, result);
    }

    fn written(&mut self, end: usize, stream: usize, result: Poll<std::io::Result<usize>>) {
        let model = &mut self.streams[stream];
        match result {
            Poll::Pending => {}
            Poll::Ready(Ok(n)) => {
                assert!(n > 0 && !model.directions[end].shut, "wrote {n} bytes");
                model.directions[end].written += n;
            }
            Poll::Ready(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                assert!(model.directions[end].shut);
            }
            Poll::Ready(Err(_)) => self.was_cut(end, stream),
        }
    }

    pub(super) fn read(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let mut data = Vec::new();
        let waker = model.ends[end].reader.waker();
        let result = self.ends[end].poll_read(slot, &waker, |piece| {
            let n = piece.len().min(len - data.len());
            data.extend_from_slice(&piece[..n]);
            n
        });
        model.ends[end].reader.polled(&result);
        self.was_read(end, stream, &data, &result);
    }

    pub(super) fn drain(&mut self, end: usize, stream: usize, slot: Slot, len: usize) {
        let model = &mut self.streams[stream];
        let waker = model.ends[end].reader.waker();
        let front = self.ends[end].poll_front(slot, &waker);
        model.ends[end].reader.polled(&front);
        let mut data = Vec::new();
        let result = front.map_ok(|front| {
            front.map_or(0, |block| {
                let n = block.len().min(len);
                data.extend_from_slice(&block.filled()[..n]);
                self.ends[end].put_front(slot, block, n);
                n
            })
        });
        self.was_read(end, stream, &data, &result);
    }

    fn was_read(&mut self, end: usize, stream: usize, data: &[u8], result: &Poll<Result<usize, StreamError>>) {
        let model = &mut self.streams[stream];
        let from = 1 - end;
        let at = model.directions[from].read;
        if !model.garbled && !model.directions[from].discarded {
            for (i, piece) in data.chunks(LONGEST).enumerate() {
                let expected = model.bytes(from, at + i * LONGEST);
                assert!(*piece == expected[..piece.len()], "wrong bytes behind {at} of stream {stream}");
            }
            assert!(at + data.len() <= model.directions[from].written);
        }
        model.directions[from].read += data.len();
        match result {
            Poll::Ready(Ok(0)) => {
                let direction = &mut model.directions[from];
                direction.ended = true;
                assert!(model.garbled || direction.shut, "end of file before it was shut down");
                assert!(
                    model.garbled || direction.discarded || direction.read == direction.written,
                    "end of file after {} of {} bytes",
                    direction.read,
                    direction.written
                );
            }
            Poll::Ready(Ok(n)) => assert_eq!(*n, data.len()),
            Poll::Ready(Err(_)) => self.was_cut(end, stream),
            Poll::Pending => {}
        }
    }

    fn was_cut(&self, end: usize, stream: usize) {
        let model = &self.streams[stream];
        let slot = model.ends[end].slot.expect("held");
        let why = self.ends[end].cut_reason(slot).expect("an error only if cut");
        assert!(model.may_be_cut || matches!(why, StreamError::Refused(_)), "cut for nothing: {why}");
    }

    pub(super) fn shut_down(&mut self, end: usize, stream: usize, slot: Slot) {
        self.ends[end].shut_down(slot);
        let model = &mut self.streams[stream];
        model.directions[end].shut = true;
        model.ends[end].writer.waiting = false; // it was the writer itself
    }

    pub(super) fn release(&mut self, end: usize, stream: usize, slot: Slot) {
        let model = &mut self.streams[stream];
        // Dropped after both ends were done: nothing is cut. Otherwise the other end may see a reset.
        model.may_be_cut |= !(model.directions[end].shut && model.directions[1 - end].ended);
        model.ends[end].slot = None;
        self.ends[end].release(slot);
    }
}
