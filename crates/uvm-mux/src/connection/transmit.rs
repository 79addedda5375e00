//! What goes to the other end, and in which order.
//!
//! Frames about the link first, then what is due for streams (refusals, OPEN, ACCEPT, WINDOW, FIN, RESET), then data of
//! control priority, then bulk: each stream in turn, one frame a turn. What is handed out for one write is at most a
//! full frame, so anything due waits for one frame of bulk here, no more. Several short frames go out in one write.
//!
//! Two things are not urgent and may wait for the driver's turn, so that more of them go in one write: credit, and what a
//! stream writes after a full frame without filling the next one.

use std::collections::VecDeque;

use super::Connection;
use super::block::{Block, Pool};
use super::stream::Sending;
use super::table::Slot;
use crate::config::Priority;
use crate::error::StreamError;
use crate::frame::{
    Control, FILLER_LEN, HEADER_LEN, Header, Hello, HelloAck, Kind, MAX_FRAME, MAX_SHORT_CONTROL, Refusal, ResetReason,
};

/// Longest that one stream's due frames can be: OPEN, ACCEPT, WINDOW, FIN, RESET.
const MAX_DUE: usize = 5 * MAX_SHORT_CONTROL;

/// Whether there is something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToSend {
    /// No.
    Nothing,
    /// Yes, but more may come along if it waits a little.
    Later,
    /// Yes.
    Now,
}

/// The bytes on their way out, and the frames about the link that come next.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// What is being written: some short frames, or one long one. Empty, without memory, when idle.
    block: Block,
    /// Zeros to send before anything else.
    filler: usize,
    hello: Option<Hello>,
    pub(super) hello_ack: Option<HelloAck>,
    pub(super) pong: Option<u32>,
}

impl Out {
    pub(super) fn greeting(hello: Hello, filler: bool) -> Self {
        Self { filler: if filler { FILLER_LEN } else { 0 }, hello: Some(hello), ..Self::default() }
    }

    pub(super) fn clear(&mut self, pool: &mut Pool) {
        let Self { block, .. } = std::mem::take(self);
        pool.give(block);
    }

    fn is_empty(&self) -> bool {
        self.block.is_empty()
            && self.filler == 0
            && self.hello.is_none()
            && self.hello_ack.is_none()
            && self.pong.is_none()
    }

    /// Appends a frame. The caller has seen that there is room.
    fn push(&mut self, frame: &Control, pool: &mut Pool) {
        let mut bytes = [0; 80];
        let n = frame.encode(&mut bytes);
        self.reserve(n, pool);
        self.block.append(&bytes[..n]);
    }

    /// Makes the block large enough for `more` bytes.
    fn reserve(&mut self, more: usize, pool: &mut Pool) {
        if self.block.spare_len() < more {
            let mut larger = pool.take(self.block.len() + more);
            larger.append(self.block.filled());
            pool.give(std::mem::replace(&mut self.block, larger));
        }
    }

    fn has_room(&self, more: usize) -> bool {
        self.block.len() + more <= MAX_FRAME
    }
}

impl Connection {
    /// The bytes to write to the channel next, at most [`MAX_FRAME`]; none if there is nothing to send. Say with
    /// [`transmitted`](Self::transmitted) how many were written.
    pub fn transmit(&mut self) -> &[u8] {
        if self.out.block.is_empty() {
            self.fill_out();
        }
        self.urgent = !self.out.block.is_empty();
        self.out.block.filled()
    }

    /// Whether [`transmit`](Self::transmit) should be called.
    pub fn to_send(&self) -> ToSend {
        if self.urgent {
            ToSend::Now
        } else if self.is_flushed() {
            ToSend::Nothing
        } else {
            ToSend::Later
        }
    }

    /// Drops the first `n` bytes of [`transmit`](Self::transmit).
    pub fn transmitted(&mut self, n: usize) {
        self.out.block.consume(n);
        if self.out.block.is_empty() {
            self.pool.give(std::mem::take(&mut self.out.block));
            if self.table.is_empty() {
                self.give_memory_back();
            }
            if !self.waiting_for_quiet.is_empty() {
                self.wake_waiting_for_quiet();
            }
        }
    }

    /// `true` if [`transmit`](Self::transmit) has nothing to give.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty()
            && !self.pings.due
            && self.refusals.is_empty()
            && self.control.is_empty()
            && self.ready.iter().all(VecDeque::is_empty)
    }

    fn fill_out(&mut self) {
        if self.out.filler > 0 {
            let n = self.out.filler.min(MAX_FRAME);
            self.out.filler -= n;
            self.out.block = Block::zeros(n);
            return;
        }
        self.push_link_frames();
        loop {
            self.push_due();
            if !self.push_data() {
                return;
            }
        }
    }

    fn push_link_frames(&mut self) {
        if let Some(hello) = self.out.hello.take() {
            self.out.push(&Control::Hello(hello), &mut self.pool);
        }
        if let Some(ack) = self.out.hello_ack.take() {
            self.out.push(&Control::HelloAck(ack), &mut self.pool);
        }
        if let Some(token) = self.out.pong.take() {
            self.out.push(&Control::Pong { token }, &mut self.pool);
        }
        if std::mem::take(&mut self.pings.due) {
            self.out.push(&Control::Ping { token: self.pings.made }, &mut self.pool);
        }
    }

    fn push_due(&mut self) {
        while self.out.has_room(MAX_SHORT_CONTROL)
            && let Some((id, refusal)) = self.refusals.pop_front()
        {
            self.out.push(&Control::Reset { id, reason: ResetReason::Refused(refusal) }, &mut self.pool);
        }
        while self.out.has_room(MAX_DUE)
            && let Some(slot) = self.control.pop_front()
        {
            let Some(stream) = self.table.get_mut(slot) else { continue };
            stream.in_control = false;
            let port = stream.port;
            let (id, mut due) = (stream.id, std::mem::take(&mut stream.due));
            if due.fin {
                stream.sending = Sending::Finished;
                self.woken.extend(stream.writer.take());
                if stream.reset_after_fin && !stream.received_fin {
                    due.reset = Some(ResetReason::Dropped);
                    stream.cut = Some(StreamError::ResetHere);
                    self.table.forget_id(id);
                }
            }
            let frames = [
                due.open.then_some(Control::Open { id, port }),
                due.accept.then_some(Control::Accept { id }),
                (due.credit > 0).then_some(Control::Window { id, credit: due.credit }),
                due.fin.then_some(Control::Fin { id }),
                due.reset.map(|reason| Control::Reset { id, reason }),
            ];
            for frame in frames.iter().flatten() {
                self.out.push(frame, &mut self.pool);
            }
            self.retire(slot);
        }
    }

    /// Appends the next DATA frame if it fits.
    fn push_data(&mut self) -> bool {
        let Some((class, slot)) = self.next_ready() else { return false };
        let Some(stream) = self.table.get_mut(slot) else { return true };
        stream.in_ready = false;
        let Some(mut frame) = stream.pending.take() else {
            self.retire(slot); // cut meanwhile, or its data is being filled in
            return true;
        };
        if !self.out.has_room(frame.len()) {
            stream.pending = Some(frame);
            stream.in_ready = true;
            self.ready[class].push_front(slot);
            return false;
        }
        stream.sent_full = frame.len() == MAX_FRAME;
        frame.set_head(&Header { kind: Kind::Data, length: frame.len() - HEADER_LEN, id: stream.id }.encode());
        self.woken.extend(stream.writer.take());
        if self.out.block.is_empty() {
            self.pool.give(std::mem::replace(&mut self.out.block, frame));
        } else {
            self.out.reserve(frame.len(), &mut self.pool);
            self.out.block.append(frame.filled());
            self.pool.give(frame);
        }
        if stream.sending == Sending::Finishing {
            stream.due.fin = true;
            self.schedule_control(slot);
        }
        true
    }

    fn next_ready(&mut self) -> Option<(usize, Slot)> {
        (0..self.ready.len()).find_map(|class| self.ready[class].pop_front().map(|slot| (class, slot)))
    }

    /// Answers a dial whose stream is not kept.
    pub(super) fn refuse(&mut self, id: u32, refusal: Refusal) {
        self.refusals.push_back((id, refusal));
        self.urgent = true;
    }

    /// Puts a stream in the queue of those with frames due.
    pub(super) fn schedule_control(&mut self, slot: Slot) {
        self.urgent = true;
        self.schedule_credit(slot);
    }

    /// The same if what is due is credit.
    pub(super) fn schedule_credit(&mut self, slot: Slot) {
        if let Some(stream) = self.table.get_mut(slot)
            && !stream.in_control
        {
            stream.in_control = true;
            self.control.push_back(slot);
        }
    }

    /// Puts a stream in the queue of those with data pending.
    pub(super) fn schedule_data(&mut self, slot: Slot) {
        if let Some(stream) = self.table.get_mut(slot)
            && let Some(frame) = &stream.pending
        {
            self.urgent |= !stream.sent_full || frame.len() == MAX_FRAME;
            if std::mem::replace(&mut stream.in_ready, true) {
                return;
            }
            let class = usize::from(stream.priority == Priority::Bulk);
            self.ready[class].push_back(slot);
        }
    }
}
