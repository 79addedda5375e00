//! What the handles do: dial, listen, accept, read, write, shut down, drop.

use std::io;
use std::task::{Poll, Waker};

use super::block::Block;
use super::stream::{Handshake, Sending, Stream};
use super::table::Slot;
use super::{Connection, Listener, Phase, QuietWait, cut};
use crate::config::Priority;
use crate::error::{Down, MuxError, StreamError};
use crate::frame::{HEADER_LEN, MAX_PAYLOAD, Refusal, ResetReason};

impl Connection {
    /// Dials `port`. Data can be written at once; [`poll_accepted`](Self::poll_accepted) tells the answer.
    ///
    /// # Errors
    /// The link is down, a limit was met, or the epoch's ids are used up. Nothing was sent.
    pub fn dial(&mut self, port: u32) -> Result<Slot, MuxError> {
        if let Some(why) = self.why_down() {
            return Err(MuxError::LinkDown { why });
        }
        let limits = [(self.table.len() as u32, self.config.max_streams()), (self.unanswered, self.peer.max_streams)];
        if let Some(&(_, limit)) = limits.iter().find(|(count, limit)| count >= limit) {
            return Err(MuxError::TooManyStreams { limit });
        }
        let id = u32::try_from(self.next_local).map_err(|_| MuxError::IdsExhausted)?;
        self.next_local += 2;
        self.opened += 1;
        self.unanswered += 1;
        let mut stream = Stream::new(id, port, Handshake::Dialled, self.peer.window, self.config.window());
        stream.held = true;
        stream.due.open = true;
        let slot = self.table.insert(stream);
        self.schedule_control(slot);
        Ok(slot)
    }

    /// Lets the other end dial `port`, in this epoch and all later ones.
    ///
    /// # Errors
    /// The port is taken, or the link is down for good.
    pub fn listen(&mut self, port: u32) -> Result<(), MuxError> {
        if let Some(why) = self.dead() {
            return Err(MuxError::LinkDown { why: why.clone() });
        }
        if self.listeners.contains_key(&port) {
            return Err(MuxError::PortTaken { port });
        }
        self.listeners.insert(port, Listener::default());
        Ok(())
    }

    /// Closes a port. Streams that wait on it are refused.
    pub fn unlisten(&mut self, port: u32) {
        let Some(listener) = self.listeners.remove(&port) else { return };
        for slot in listener.backlog {
            let Some(stream) = self.table.get_mut(slot) else { continue };
            let id = stream.id;
            cut(stream, StreamError::ResetHere, &mut self.pool, &mut self.woken);
            self.backlogged -= 1;
            self.refuse(id, Refusal::NobodyListens);
            self.table.forget_id(id);
            self.retire(slot);
        }
    }

    /// The next stream that the other end dialled on `port`.
    pub fn poll_accept(&mut self, port: u32, waker: &Waker) -> Poll<Result<Slot, Down>> {
        let dead = self.dead().cloned();
        let Some(listener) = self.listeners.get_mut(&port) else {
            return Poll::Ready(Err(dead.unwrap_or(Down::ClosedHere)));
        };
        let Some(slot) = listener.backlog.pop_front() else {
            if let Some(why) = dead {
                return Poll::Ready(Err(why));
            }
            remember(&mut listener.waker, waker);
            return Poll::Pending;
        };
        self.backlogged -= 1;
        if let Some(stream) = self.table.get_mut(slot) {
            stream.held = true;
            stream.handshake = Handshake::Done;
            stream.due.accept = true;
            self.schedule_control(slot);
        }
        Poll::Ready(Ok(slot))
    }

    /// Whether the other end has accepted a stream that was dialled here.
    pub fn poll_accepted(&mut self, slot: Slot, waker: &Waker) -> Poll<Result<(), StreamError>> {
        let stream = self.table.get_mut(slot).ok_or_else(|| gone(&self.phase))?;
        // One that was cut after it was accepted was accepted: what came in between is there to be read.
        if stream.handshake == Handshake::Done {
            return Poll::Ready(Ok(()));
        }
        if let Some(why) = &stream.cut {
            return Poll::Ready(Err(why.clone()));
        }
        remember(&mut stream.writer, waker);
        Poll::Pending
    }

    /// Reads: hands the received bytes to `sink`, piece by piece, until it takes less than a piece. Gives how many it
    /// took; 0 is end of file. What was received before a stream was cut is read first, then comes the error.
    pub fn poll_read(
        &mut self,
        slot: Slot,
        waker: &Waker,
        mut sink: impl FnMut(&[u8]) -> usize,
    ) -> Poll<Result<usize, StreamError>> {
        let stream = self.table.get_mut(slot).ok_or_else(|| gone(&self.phase))?;
        if stream.queue.is_empty() {
            if stream.received_fin {
                return Poll::Ready(Ok(0));
            }
            if let Some(why) = &stream.cut {
                return Poll::Ready(Err(why.clone()));
            }
            remember(&mut stream.reader, waker);
            return Poll::Pending;
        }
        let mut total = 0;
        while !stream.queue.is_empty() {
            let piece = stream.queue.front().len();
            let taken = sink(stream.queue.front()).min(piece);
            stream.queue.consume(taken, &mut self.pool);
            total += taken;
            if taken < piece {
                break;
            }
        }
        self.consumed(slot, total as u32);
        Poll::Ready(Ok(total))
    }

    /// Takes the first piece of what was received; `None` is end of file. Give the rest back with
    /// [`put_front`](Self::put_front).
    pub(crate) fn poll_front(&mut self, slot: Slot, waker: &Waker) -> Poll<Result<Option<Block>, StreamError>> {
        let stream = self.table.get_mut(slot).ok_or_else(|| gone(&self.phase))?;
        if let Some(block) = stream.queue.take_front() {
            return Poll::Ready(Ok(Some(block)));
        }
        self.poll_read(slot, waker, |_| 0).map_ok(|_| None)
    }

    /// Gives back what [`poll_front`](Self::poll_front) gave out. The first `n` bytes of it were read.
    pub(crate) fn put_front(&mut self, slot: Slot, mut block: Block, n: usize) {
        let n = n.min(block.len());
        block.consume(n);
        if let Some(stream) = self.table.get_mut(slot) {
            stream.queue.put_front(block, &mut self.pool);
        }
        self.consumed(slot, n as u32);
    }

    /// Writes as much of `data` as the window and one frame allow, at least a byte.
    pub fn poll_write(&mut self, slot: Slot, waker: &Waker, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = match self.poll_room(slot, waker) {
            Poll::Ready(Ok(room)) => room,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        let n = room.min(data.len());
        let mut block = self.take_pending(slot, n);
        block.append(&data[..n]);
        self.put_pending(slot, block, n);
        Poll::Ready(Ok(n))
    }

    /// Takes the frame that is being filled, so that up to the given number of bytes can be put behind what it holds.
    /// Give it back with [`put_pending`](Self::put_pending), changed or not.
    pub(crate) fn poll_fill(&mut self, slot: Slot, waker: &Waker) -> Poll<io::Result<(Block, usize)>> {
        match self.poll_room(slot, waker) {
            Poll::Ready(Ok(room)) => Poll::Ready(Ok((self.take_pending(slot, room), room))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// How many bytes can be written now, not 0.
    fn poll_room(&mut self, slot: Slot, waker: &Waker) -> Poll<io::Result<usize>> {
        let stream = self.table.get_mut(slot).ok_or_else(|| gone(&self.phase))?;
        if let Some(why) = &stream.cut {
            return Poll::Ready(Err(why.clone().into()));
        }
        if stream.sending != Sending::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let pending = stream.pending.as_ref().map_or(0, |block| block.len() - HEADER_LEN);
        let room = (MAX_PAYLOAD - pending).min(stream.credit as usize);
        if room == 0 {
            remember(&mut stream.writer, waker);
            return Poll::Pending;
        }
        Poll::Ready(Ok(room))
    }

    /// The pending frame with room for `more` bytes of payload.
    fn take_pending(&mut self, slot: Slot, more: usize) -> Block {
        let block = self.table.get_mut(slot).and_then(|stream| stream.pending.take());
        match block {
            None => {
                let mut fresh = self.pool.take(HEADER_LEN + more);
                fresh.grow(HEADER_LEN);
                fresh
            }
            Some(block) if block.spare_len() >= more => block,
            Some(block) => {
                let mut larger = self.pool.take(block.len() + more);
                larger.append(block.filled());
                self.pool.give(block);
                larger
            }
        }
    }

    /// Gives back the frame that [`poll_fill`](Self::poll_fill) gave out, with `n` bytes more in it.
    pub(crate) fn put_pending(&mut self, slot: Slot, block: Block, n: usize) {
        match self.table.get_mut(slot) {
            Some(stream) if stream.cut.is_none() && block.len() > HEADER_LEN => {
                stream.credit = stream.credit.saturating_sub(n as u32);
                stream.pending = Some(block);
                self.schedule_data(slot);
            }
            _ => self.pool.give(block),
        }
    }

    /// Whether everything written to a stream has been handed to the channel.
    pub fn poll_flush(&mut self, slot: Slot, waker: &Waker) -> Poll<io::Result<()>> {
        let stream = self.table.get_mut(slot).ok_or_else(|| gone(&self.phase))?;
        match &stream.cut {
            Some(why) if stream.sending != Sending::Finished => return Poll::Ready(Err(why.clone().into())),
            None if stream.pending.is_some() || stream.sending == Sending::Finishing => {
                self.urgent = true;
                remember(&mut stream.writer, waker);
                return Poll::Pending;
            }
            _ => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this end's direction: FIN follows what was written. Idempotent.
    pub fn shut_down(&mut self, slot: Slot) {
        let Some(stream) = self.table.get_mut(slot) else { return };
        if stream.cut.is_none() && stream.sending == Sending::Open {
            stream.sending = Sending::Finishing;
            self.urgent = true;
            if stream.pending.is_none() {
                stream.due.fin = true;
                self.schedule_control(slot);
            }
        }
    }

    /// Cuts a stream: what was written and not yet sent is dropped, both ends see a reset.
    pub fn reset(&mut self, slot: Slot) {
        let Some(stream) = self.table.get_mut(slot) else { return };
        if stream.cut.is_some() {
            return;
        }
        let (id, due) = (stream.id, stream.due);
        cut(stream, StreamError::ResetHere, &mut self.pool, &mut self.woken);
        stream.due.open = due.open;
        stream.due.accept = due.accept;
        stream.due.reset = Some(ResetReason::Dropped);
        self.table.forget_id(id);
        self.schedule_control(slot);
    }

    /// Nobody will read the stream any more: what the other end sends is dropped as it comes.
    pub fn discard(&mut self, slot: Slot) {
        let Some(stream) = self.table.get_mut(slot) else { return };
        stream.discard = true;
        let dropped = stream.queue.len();
        stream.queue.clear(&mut self.pool);
        self.consumed(slot, dropped as u32);
    }

    /// The handle is gone. A direction that was not shut down is cut. If it was, what was written is still sent, then
    /// FIN; and where the other end has not sent its own, a reset after that, so that it does not write to nobody.
    pub fn release(&mut self, slot: Slot) {
        let Some(stream) = self.table.get_mut(slot) else { return };
        stream.held = false;
        (stream.reader, stream.writer) = (None, None);
        if stream.cut.is_none() {
            match stream.sending {
                Sending::Open => self.reset(slot),
                _ if stream.received_fin => {}
                Sending::Finished => self.reset(slot),
                Sending::Finishing => stream.reset_after_fin = true,
            }
        }
        self.discard(slot);
        self.retire(slot);
    }

    /// Nobody will write the stream any more: it is cut, unless it was shut down.
    pub fn abandon_writing(&mut self, slot: Slot) {
        if self.table.get(slot).is_some_and(|stream| stream.sending == Sending::Open) {
            self.reset(slot);
        }
    }

    /// Sets the order in which the stream is sent.
    pub fn set_priority(&mut self, slot: Slot, priority: Priority) {
        if let Some(stream) = self.table.get_mut(slot) {
            self.control_streams -= usize::from(stream.priority == Priority::Control);
            self.control_streams += usize::from(priority == Priority::Control);
            stream.priority = priority; // data that waits already keeps its place
        }
    }

    /// Why a stream was cut, if it was.
    pub fn cut_reason(&self, slot: Slot) -> Option<StreamError> {
        match self.table.get(slot) {
            Some(stream) => stream.cut.clone(),
            None => Some(gone(&self.phase)),
        }
    }

    /// The port that a stream was dialled on.
    pub fn port(&self, slot: Slot) -> Option<u32> {
        self.table.get(slot).map(|stream| stream.port)
    }

    /// Waits until no stream is open, nothing is queued here, and the other end has read all that was sent.
    pub fn poll_quiet(&mut self, wait: &mut QuietWait, waker: &Waker) -> Poll<Result<(), Down>> {
        if let Some(why) = self.why_down() {
            return Poll::Ready(Err(why));
        }
        if self.table.is_empty() && self.parser.is_between_frames() {
            match wait.asked {
                Some((token, opened)) if token <= self.pings.answered && opened == self.opened => {
                    if self.is_flushed() {
                        return Poll::Ready(Ok(()));
                    }
                }
                Some((token, opened)) if token <= self.pings.made && opened == self.opened => {}
                _ => {
                    if !self.pings.due {
                        self.pings.made += 1;
                        self.pings.due = true;
                        self.urgent = true;
                    }
                    wait.asked = Some((self.pings.made, self.opened));
                }
            }
        }
        if !self.waiting_for_quiet.iter().any(|waiting| waiting.will_wake(waker)) {
            self.waiting_for_quiet.push(waker.clone());
        }
        Poll::Pending
    }
}

/// What befell a stream whose record is gone though its handle lives: only a panic does that.
fn gone(phase: &Phase) -> StreamError {
    StreamError::LinkDown(match phase {
        Phase::Down { why } => why.clone(),
        _ => Down::Panicked,
    })
}

fn remember(place: &mut Option<Waker>, waker: &Waker) {
    if !place.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}
