//! What handles at this end ask for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::task::{Poll, Waker};

use super::conn::{Conn, Phase, Ports, Sending};
use super::{Device, FIRST_OWN_PORT, Slot};
use crate::config::Priority;
use crate::error::{Down, Link, StreamError, VsockError};

/// A drained buffer that is larger than this is given back: most streams are idle.
pub(super) const KEPT: usize = 16 * 1024;

impl Device {
    /// Lets the guest dial `port`, in every epoch.
    ///
    /// # Errors
    /// [`VsockError::PortTaken`], or [`VsockError::LinkDown`] for good.
    pub fn listen(&mut self, port: u32) -> Result<(), VsockError> {
        if let Some(why) = &self.dead {
            return Err(VsockError::LinkDown { why: why.clone() });
        }
        if self.listeners.contains_key(&port) {
            return Err(VsockError::PortTaken { port });
        }
        self.listeners.insert(port, super::Listener::default());
        Ok(())
    }

    /// Nobody listens on `port` any more; those that wait there are reset.
    pub fn unlisten(&mut self, port: u32) {
        if let Some(listener) = self.listeners.remove(&port) {
            for slot in listener.backlog {
                self.reset_guest(slot);
                self.forget(slot);
            }
        }
    }

    /// The next stream that the guest dialled on `port`.
    pub fn poll_accept(&mut self, port: u32, waker: &Waker) -> Poll<Result<Slot, Down>> {
        let Some(listener) = self.listeners.get_mut(&port) else { return Poll::Ready(Err(Down::ClosedHere)) };
        if let Some(slot) = listener.backlog.pop_front() {
            return Poll::Ready(Ok(slot));
        }
        if let Some(why) = &self.dead {
            return Poll::Ready(Err(why.clone()));
        }
        listener.waker = Some(waker.clone());
        Poll::Pending
    }

    /// Dials `port` of the guest.
    ///
    /// # Errors
    /// [`VsockError::LinkDown`] or [`VsockError::TooManyStreams`]; nothing was sent.
    pub fn dial(&mut self, port: u32) -> Result<Slot, VsockError> {
        if let Link::Down { why } = &self.link {
            return Err(VsockError::LinkDown { why: why.clone() });
        }
        if !self.has_room() {
            return Err(VsockError::TooManyStreams { limit: self.config.max_streams });
        }
        // Fewer streams than ports are open, so one is free.
        let mut ports = Ports { host: self.next_port, guest: port };
        while self.by_ports.contains_key(&ports) {
            ports.host = following(ports.host);
        }
        self.next_port = following(ports.host);
        let slot = self.add(Conn::new(ports, Phase::Dialling, self.config.window));
        self.schedule(slot);
        Ok(slot)
    }

    /// Whether the guest has accepted the stream.
    pub fn poll_accepted(&mut self, slot: Slot, waker: &Waker) -> Poll<Result<(), StreamError>> {
        let Some(conn) = self.conns.get_mut(&slot) else { return Poll::Ready(Err(StreamError::ResetHere)) };
        match (&conn.cut, conn.phase) {
            (Some(why), _) => Poll::Ready(Err(why.clone())),
            (None, Phase::Dialling | Phase::Dialled) => {
                conn.writer = Some(waker.clone());
                Poll::Pending
            }
            (None, Phase::Open | Phase::Gone) => Poll::Ready(Ok(())),
        }
    }

    /// Whether what is written here overtakes bulk.
    pub fn set_priority(&mut self, slot: Slot, priority: Priority) {
        if let Some(conn) = self.conns.get_mut(&slot) {
            conn.priority = priority;
            self.unqueue(slot);
            self.schedule(slot);
        }
    }

    /// The port at this end that the guest dialled, or the guest's that was dialled here.
    pub fn ports(&self, slot: Slot) -> Option<(u32, u32)> {
        self.conns.get(&slot).map(|conn| (conn.ports.host, conn.ports.guest))
    }

    /// Why the stream was cut, if it was.
    pub fn cut_reason(&self, slot: Slot) -> Option<StreamError> {
        self.conns.get(&slot)?.cut.clone()
    }

    /// Reads what was received, piece by piece: `take` tells how much of a piece it took. 0 is end of file.
    pub fn poll_read(
        &mut self,
        slot: Slot,
        waker: &Waker,
        mut take: impl FnMut(&[u8]) -> usize,
    ) -> Poll<io::Result<usize>> {
        let Some(conn) = self.conns.get_mut(&slot) else { return Poll::Ready(Err(StreamError::ResetHere.into())) };
        let mut total = 0;
        loop {
            let piece = conn.received.as_slices().0;
            let n = if piece.is_empty() { 0 } else { take(piece).min(piece.len()) };
            if n == 0 {
                break;
            }
            conn.received.drain(..n);
            total += n;
        }
        if total > 0 {
            give_back(&mut conn.received);
            conn.consume(total);
            if conn.consumed >= 4 * self.config.window {
                self.enlarge(slot);
            }
            self.shrink(slot);
            self.schedule(slot);
            return Poll::Ready(Ok(total));
        }
        if conn.ended {
            return Poll::Ready(Ok(0));
        }
        if let Some(why) = &conn.cut {
            return Poll::Ready(Err(why.clone().into()));
        }
        conn.reader = Some(waker.clone());
        Poll::Pending
    }

    /// Takes bytes to send, as many as there is room for.
    pub fn poll_write(&mut self, slot: Slot, waker: &Waker, data: &[u8]) -> Poll<io::Result<usize>> {
        let Some(conn) = self.conns.get_mut(&slot) else { return Poll::Ready(Err(StreamError::ResetHere.into())) };
        if let Some(why) = &conn.cut {
            return Poll::Ready(Err(why.clone().into()));
        }
        if conn.unread || conn.sending != Sending::Open {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = (conn.window as usize).saturating_sub(conn.unsent.len());
        if room == 0 && !data.is_empty() {
            conn.writer = Some(waker.clone());
            return Poll::Pending;
        }
        let n = data.len().min(room);
        conn.unsent.extend(&data[..n]);
        if conn.sent >= 4 * self.config.window {
            self.enlarge(slot);
        }
        self.schedule(slot);
        Poll::Ready(Ok(n))
    }

    /// Whether the guest has taken all that was written.
    pub fn poll_flush(&mut self, slot: Slot, waker: &Waker) -> Poll<io::Result<()>> {
        let Some(conn) = self.conns.get_mut(&slot) else { return Poll::Ready(Err(StreamError::ResetHere.into())) };
        if let Some(why) = &conn.cut {
            return Poll::Ready(Err(why.clone().into()));
        }
        if conn.lost {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        if conn.unsent.is_empty() && conn.sending != Sending::Ending {
            return Poll::Ready(Ok(()));
        }
        conn.writer = Some(waker.clone());
        Poll::Pending
    }

    /// Ends this direction after what was written.
    pub fn shut_down(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(&slot)
            && conn.sending == Sending::Open
        {
            conn.sending = if conn.phase == Phase::Gone { Sending::Ended } else { Sending::Ending };
            self.schedule(slot);
        }
    }

    /// Cuts the stream, also what was written and not sent.
    pub fn reset(&mut self, slot: Slot) {
        self.reset_guest(slot);
        self.cut(slot, StreamError::ResetHere);
    }

    /// Nobody holds the stream any more. If its direction was not ended it is reset; else the guest still gets all.
    pub fn release(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        if conn.phase == Phase::Gone {
            self.remove(slot);
        } else if conn.sending == Sending::Open {
            self.reset_guest(slot);
            self.forget(slot);
        } else {
            // SHUTDOWN is sent once more, for both directions: what comes from now on is thrown away.
            conn.sending = Sending::Ending;
            conn.lingering = true;
            conn.discard = true;
            let unread = std::mem::take(&mut conn.received).len();
            conn.consume(unread);
            (conn.reader, conn.writer) = (None, None);
            self.lingering.insert(slot);
            self.schedule(slot);
        }
    }

    /// Whether no stream is left. Every call that gives `Pending` is woken once.
    pub fn poll_quiet(&mut self, waker: &Waker) -> Poll<Result<(), Down>> {
        if let Some(why) = &self.dead {
            return Poll::Ready(Err(why.clone()));
        }
        if self.by_ports.is_empty() && self.resets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.quiet.push(waker.clone());
        Poll::Pending
    }

    /// Gives a stream that carries bulk a larger window, as long as few have one.
    fn enlarge(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        let larger = self.config.max_window > self.config.window && conn.window == self.config.window;
        if larger && conn.phase == Phase::Open && self.large < super::MAX_LARGE {
            conn.window = self.config.max_window;
            conn.credit_update = true;
            self.large += 1;
        }
    }
}

fn following(port: u32) -> u32 {
    if port >= u32::MAX - 1 { FIRST_OWN_PORT } else { port + 1 }
}

fn give_back(buffer: &mut VecDeque<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT {
        *buffer = VecDeque::new();
    }
}
