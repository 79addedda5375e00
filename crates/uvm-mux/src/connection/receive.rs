//! What comes from the other end: the parser, and what each frame does.

use super::stream::{Handshake, Sending, Stream};
use super::table::Slot;
use super::{Connection, PeerLimits, Phase, cut};
use crate::error::{Down, ProtocolError, StreamError};
use crate::frame::{BOUNDARY_ZEROS, Control, HEADER_LEN, Header, Hello, HelloAck, Kind, Refusal, ResetReason, VERSION};

/// Where in a frame the last byte was.
#[derive(Debug)]
pub(super) enum Parser {
    Header {
        bytes: [u8; HEADER_LEN],
        have: usize,
    },
    /// The payload so far is in [`Connection::scratch`].
    Control {
        header: Header,
        have: usize,
    },
    Data {
        id: u32,
        left: usize,
    },
}

impl Default for Parser {
    fn default() -> Self {
        Self::Header { bytes: [0; HEADER_LEN], have: 0 }
    }
}

impl Parser {
    /// Bytes of DATA for a stream that are still to come of the current frame.
    pub(super) fn data_left(&self, of: u32) -> usize {
        match *self {
            Self::Data { id, left } if id == of => left,
            _ => 0,
        }
    }

    /// No frame has begun.
    pub(super) fn is_between_frames(&self) -> bool {
        matches!(self, Self::Header { have: 0, .. })
    }
}

/// What an id on the wire means.
enum Named {
    Live(Slot),
    /// Cut or done here; frames for it may still be under way.
    Past,
}

impl Connection {
    /// Takes bytes that the other end sent, in order, in pieces of any size.
    pub fn receive(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let taken = match &mut self.phase {
                Phase::AwaitingAck { scanner } => {
                    let (found, taken) = scanner.feed(data);
                    if let Some(header) = found {
                        self.begin_ack(header);
                    }
                    taken
                }
                Phase::Deaf { why, zeros } => {
                    let (taken, boundary) = count_zeros(data, zeros);
                    if boundary {
                        self.phase = Phase::AwaitingHello { why: why.clone() };
                    }
                    taken
                }
                Phase::AwaitingHello { .. } | Phase::Up => self.parse(data),
                Phase::Down { .. } => return,
            };
            data = &data[taken..];
        }
        if self.table.is_empty() {
            self.wake_waiting_for_quiet(); // they wait for the end of a frame, perhaps
        }
    }

    /// Takes bytes up to the end of a part of a frame and returns how many that was.
    fn parse(&mut self, data: &[u8]) -> usize {
        let (taken, result) = match &mut self.parser {
            Parser::Header { bytes, have } => {
                let filler = if *have == 0 { data.iter().take_while(|&&byte| byte == 0).count() } else { 0 };
                let taken = (data.len() - filler).min(HEADER_LEN - *have);
                bytes[*have..*have + taken].copy_from_slice(&data[filler..filler + taken]);
                *have += taken;
                let header = (*have == HEADER_LEN).then_some(*bytes);
                (filler + taken, header.map_or(Ok(()), |header| self.begin_frame(header)))
            }
            Parser::Control { header, have } => {
                let taken = data.len().min(header.length - *have);
                self.scratch[*have..*have + taken].copy_from_slice(&data[..taken]);
                *have += taken;
                let header = (*have == header.length).then_some(*header);
                (taken, header.map_or(Ok(()), |header| self.end_control(header)))
            }
            Parser::Data { id, left } => {
                let (id, taken) = (*id, data.len().min(*left));
                *left -= taken;
                if *left == 0 {
                    self.parser = Parser::default();
                }
                if let Some(slot) = self.table.find(id) {
                    self.data(slot, &data[..taken]);
                }
                (taken, Ok(()))
            }
        };
        if let Err(error) = result {
            self.fail(Down::Protocol(error));
        }
        taken
    }

    fn begin_frame(&mut self, bytes: [u8; HEADER_LEN]) -> Result<(), ProtocolError> {
        self.parser = Parser::default();
        let header = Header::decode(bytes)?;
        let Header { kind, length, id } = header;
        if !matches!(self.phase, Phase::Up) && kind != Kind::Hello {
            return Err(ProtocolError::Unexpected { kind, id });
        }
        if kind == Kind::Data {
            self.begin_data(id, length as u32)?;
            self.parser = Parser::Data { id, left: length };
        } else if length == 0 {
            self.control_frame(Control::decode(header, &[])?)?;
        } else {
            self.parser = Parser::Control { header, have: 0 };
        }
        Ok(())
    }

    fn end_control(&mut self, header: Header) -> Result<(), ProtocolError> {
        self.parser = Parser::default();
        self.control_frame(Control::decode(header, &self.scratch[..header.length])?)
    }

    /// Goes on with the payload of the `HELLO_ACK` whose nonce was found.
    fn begin_ack(&mut self, header: Header) {
        let nonce = self.nonce().unwrap_or_default();
        self.scratch[..nonce.len()].copy_from_slice(&nonce);
        self.parser = Parser::Control { header, have: nonce.len() };
        // Not up before the rest is read; but a parser error from here on is this guest's.
        self.phase = Phase::AwaitingHello { why: Down::NoAnswerYet };
    }

    fn control_frame(&mut self, frame: Control) -> Result<(), ProtocolError> {
        match frame {
            Control::Hello(hello) => self.hello_received(hello),
            Control::HelloAck(ack) => self.ack_received(ack),
            Control::Open { id, port } => self.open_received(id, port),
            Control::Accept { id } => self.accept_received(id),
            Control::Fin { id } => self.fin_received(id),
            Control::Reset { id, reason } => self.reset_received(id, reason),
            Control::Window { id, credit } => self.window_received(id, credit),
            Control::Ping { token } => {
                self.out.pong = Some(token);
                self.urgent = true;
                Ok(())
            }
            Control::Pong { token } => {
                let sent = self.pings.made - u32::from(self.pings.due);
                if token <= self.pings.answered || token > sent {
                    return Err(ProtocolError::Unexpected { kind: Kind::Pong, id: 0 });
                }
                self.pings.answered = token; // those who wait for it are woken at the end of `receive`
                Ok(())
            }
        }
    }

    fn hello_received(&mut self, hello: Hello) -> Result<(), ProtocolError> {
        if self.is_owner {
            return Err(ProtocolError::Unexpected { kind: Kind::Hello, id: 0 });
        }
        if self.nonce() == Some(hello.nonce) {
            return Err(ProtocolError::NonceReused);
        }
        let Hello { nonce, version, window, max_streams, .. } = hello;
        self.hello = Some(hello);
        if version == VERSION {
            self.begin_epoch(PeerLimits { window, max_streams });
        } else {
            self.fail(Down::Version { ours: VERSION, theirs: version });
        }
        self.urgent = true;
        self.out.hello_ack = Some(HelloAck {
            nonce,
            version: VERSION,
            window: self.config.window(),
            max_streams: self.config.max_streams(),
        });
        Ok(())
    }

    fn ack_received(&mut self, ack: HelloAck) -> Result<(), ProtocolError> {
        if !self.is_owner || matches!(self.phase, Phase::Up) {
            return Err(ProtocolError::Unexpected { kind: Kind::HelloAck, id: 0 });
        }
        if ack.version == VERSION {
            self.begin_epoch(PeerLimits { window: ack.window, max_streams: ack.max_streams });
        } else {
            self.fail(Down::Version { ours: VERSION, theirs: ack.version });
        }
        Ok(())
    }

    fn open_received(&mut self, id: u32, port: u32) -> Result<(), ProtocolError> {
        if u64::from(id) != self.next_remote {
            return Err(ProtocolError::WrongId { id, expected: self.next_remote });
        }
        let limit = self.config.max_streams();
        if self.refusals.len() as u32 + self.backlogged >= limit {
            return Err(ProtocolError::TooManyUnanswered { limit });
        }
        self.next_remote += 2;
        self.opened += 1;
        let refusal = match self.listeners.get(&port) {
            None => Refusal::NobodyListens,
            Some(_) if self.table.len() as u32 >= limit => Refusal::TooManyStreams,
            Some(listener) if listener.backlog.len() as u32 >= self.config.backlog() => Refusal::BacklogFull,
            Some(_) => {
                let stream = Stream::new(id, port, Handshake::Waiting, self.peer.window, self.config.window());
                let slot = self.table.insert(stream);
                self.backlogged += 1;
                if let Some(listener) = self.listeners.get_mut(&port) {
                    listener.backlog.push_back(slot);
                    self.woken.extend(listener.waker.take());
                }
                return Ok(());
            }
        };
        self.refuse(id, refusal);
        Ok(())
    }

    fn accept_received(&mut self, id: u32) -> Result<(), ProtocolError> {
        let unexpected = ProtocolError::Unexpected { kind: Kind::Accept, id };
        if !self.is_ours(id) {
            return Err(unexpected);
        }
        match self.named(id, Kind::Accept)? {
            Named::Live(slot) => {
                let Some(stream) = self.table.get_mut(slot) else { return Ok(()) };
                if stream.handshake != Handshake::Dialled {
                    return Err(unexpected);
                }
                stream.handshake = Handshake::Done;
                self.woken.extend(stream.writer.take());
            }
            Named::Past => {}
        }
        self.answered(unexpected)
    }

    fn begin_data(&mut self, id: u32, length: u32) -> Result<(), ProtocolError> {
        let Some(slot) = self.established(id, Kind::Data)? else { return Ok(()) };
        let Some(stream) = self.table.get_mut(slot) else { return Ok(()) };
        if stream.received_fin {
            return Err(ProtocolError::Unexpected { kind: Kind::Data, id });
        }
        if let Some(excess) = length.checked_sub(stream.allowance).filter(|&excess| excess > 0) {
            return Err(ProtocolError::WindowExceeded { id, excess });
        }
        stream.allowance -= length;
        self.traffic.carried(&mut stream.part, length, self.config.window());
        Ok(())
    }

    fn data(&mut self, slot: Slot, data: &[u8]) {
        let Some(stream) = self.table.get_mut(slot) else { return };
        if stream.discard {
            self.consumed(slot, data.len() as u32);
        } else {
            stream.queue.append(data, &mut self.pool);
            self.woken.extend(stream.reader.take());
        }
    }

    fn fin_received(&mut self, id: u32) -> Result<(), ProtocolError> {
        let Some(slot) = self.established(id, Kind::Fin)? else { return Ok(()) };
        let Some(stream) = self.table.get_mut(slot) else { return Ok(()) };
        if stream.received_fin {
            return Err(ProtocolError::Unexpected { kind: Kind::Fin, id });
        }
        stream.received_fin = true;
        stream.due.credit = 0;
        self.woken.extend(stream.reader.take());
        self.retire(slot);
        Ok(())
    }

    fn reset_received(&mut self, id: u32, reason: ResetReason) -> Result<(), ProtocolError> {
        let unexpected = ProtocolError::Unexpected { kind: Kind::Reset, id };
        let named = self.named(id, Kind::Reset)?;
        let is_ours = self.is_ours(id);
        let refusal = match reason {
            ResetReason::Refused(_) if !is_ours => return Err(unexpected),
            ResetReason::Refused(refusal) => Some(refusal),
            ResetReason::Dropped => None,
        };
        let Named::Live(slot) = named else {
            return if refusal.is_some() { self.answered(unexpected) } else { Ok(()) };
        };
        let Some(stream) = self.table.get_mut(slot) else { return Ok(()) };
        let why = match (stream.handshake, refusal) {
            (Handshake::Dialled, Some(refusal)) => {
                self.unanswered = self.unanswered.checked_sub(1).ok_or(unexpected)?;
                StreamError::Refused(refusal)
            }
            (Handshake::Done, None) => StreamError::ResetByPeer,
            (Handshake::Waiting, None) => {
                let port = stream.port;
                if let Some(listener) = self.listeners.get_mut(&port) {
                    listener.backlog.retain(|&waiting| waiting != slot);
                }
                self.backlogged -= 1;
                self.refusals.push_back((id, Refusal::Abandoned));
                self.urgent = true;
                StreamError::ResetByPeer
            }
            _ => return Err(unexpected),
        };
        let accept = stream.due.accept; // its answer is owed all the same
        cut(stream, why, &mut self.pool, &mut self.woken);
        stream.due.accept = accept;
        self.table.forget_id(id);
        self.retire(slot);
        Ok(())
    }

    fn window_received(&mut self, id: u32, credit: u32) -> Result<(), ProtocolError> {
        let bad = ProtocolError::BadCredit { id, credit };
        let Some(slot) = self.established(id, Kind::Window)? else { return Ok(()) };
        let Some(stream) = self.table.get_mut(slot) else { return Ok(()) };
        if credit == 0 {
            return Err(bad);
        }
        stream.credit = stream.credit.checked_add(credit).ok_or(bad)?;
        if stream.sending == Sending::Open {
            self.woken.extend(stream.writer.take());
        }
        Ok(())
    }

    /// Counts an answer to a dial. A stream that was given up is not kept, so that an answer too many to one is only found
    /// when there are more answers than dials.
    fn answered(&mut self, too_many: ProtocolError) -> Result<(), ProtocolError> {
        self.unanswered = self.unanswered.checked_sub(1).ok_or(too_many)?;
        Ok(())
    }

    /// The live stream of `id`; an error where the other end may not send on it yet.
    fn established(&self, id: u32, kind: Kind) -> Result<Option<Slot>, ProtocolError> {
        let Named::Live(slot) = self.named(id, kind)? else { return Ok(None) };
        match self.table.get(slot) {
            Some(stream) if stream.handshake == Handshake::Dialled => Err(ProtocolError::Unexpected { kind, id }),
            _ => Ok(Some(slot)),
        }
    }

    fn named(&self, id: u32, kind: Kind) -> Result<Named, ProtocolError> {
        let next = if self.is_ours(id) { self.next_local } else { self.next_remote };
        match self.table.find(id) {
            Some(slot) => Ok(Named::Live(slot)),
            None if u64::from(id) < next => Ok(Named::Past),
            None => Err(ProtocolError::NeverOpened { kind, id }),
        }
    }

    fn is_ours(&self, id: u32) -> bool {
        id.is_multiple_of(2) == self.is_owner
    }
}

/// Counts zeros in a row. Returns how many bytes were looked at, and whether the next one starts a frame.
fn count_zeros(data: &[u8], zeros: &mut usize) -> (usize, bool) {
    for (i, &byte) in data.iter().enumerate() {
        if byte == 0 {
            *zeros += 1;
        } else if *zeros >= BOUNDARY_ZEROS {
            return (i, true);
        } else {
            *zeros = 0;
        }
    }
    (data.len(), false)
}
