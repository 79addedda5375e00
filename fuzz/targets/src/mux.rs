//! One end of a mux whose other end is hostile. The input chooses what the other end sends, bytes or frames, and what
//! the handles here do meanwhile.

use std::task::{Poll, Waker};

use uvm_mux::connection::{Connection, QuietWait, Slot, Usage};
use uvm_mux::frame::{
    Control, FILLER_LEN, HEADER_LEN, Header, Hello, HelloAck, Kind, MAX_CONTROL_PAYLOAD, MAX_FRAME, ResetReason,
    VERSION,
};
use uvm_mux::{Config, Down, Greeting, GuestState, Link, MuxError, Priority, Refusal, Role};

const NONCE: [u8; 16] = *b"the owner's own.";

/// The owner's end against a hostile guest.
///
/// # Panics
/// When a bound does not hold.
pub fn mux_owner(data: &[u8]) {
    let mut input = Input(data);
    let options = input.byte();
    let guest = if options & 1 == 0 { GuestState::Fresh } else { GuestState::Restored };
    let mut greeting = Greeting::new(guest).expect("random bytes");
    greeting.nonce = NONCE;
    let mut hostile = Hostile::new(Role::Owner(greeting), options);
    if options & 2 == 0 {
        let ack = HelloAck { nonce: NONCE, version: VERSION, window: 9000, max_streams: 9 };
        hostile.receive_frame(&Control::HelloAck(ack));
        assert!(matches!(hostile.end.link(), Link::Up { epoch: 1 }));
    }
    hostile.run(input);
}

/// The guest's end against a hostile owner.
///
/// # Panics
/// When a bound does not hold.
pub fn mux_guest(data: &[u8]) {
    let mut input = Input(data);
    let options = input.byte();
    let mut hostile = Hostile::new(Role::Guest, options);
    if options & 2 == 0 {
        hostile.receive_frame(&Control::Hello(hello([0xff; 16], VERSION)));
        assert!(matches!(hostile.end.link(), Link::Up { epoch: 1 }));
    }
    hostile.run(input);
}

fn hello(nonce: [u8; 16], version: u32) -> Hello {
    Hello { nonce, version, window: 9000, max_streams: 9, clock_ns: 1, entropy: [3; 32] }
}

struct Hostile {
    end: Connection,
    held: Vec<Slot>,
    wait: QuietWait,
}

impl Hostile {
    fn new(role: Role, options: u8) -> Self {
        let streams = if options & 4 == 0 { 5 } else { 40 };
        let config = Config::default()
            .with_max_streams(streams)
            .with_window(4096)
            .with_max_window(32 * 1024)
            .with_backlog(u32::from(options >> 4));
        let mut end = Connection::new(role, config);
        assert_eq!(end.listen(1), Ok(()));
        assert_eq!(end.listen(1), Err(MuxError::PortTaken { port: 1 }));
        Self { end, held: Vec::new(), wait: QuietWait::default() }
    }

    fn run(mut self, mut input: Input<'_>) {
        while !input.0.is_empty() {
            self.step(&mut input);
            self.end.assert_bounds();
            let mut woken = [const { None }; 8];
            while self.end.take_woken(&mut woken) > 0 {}
        }
        for slot in self.held.drain(..) {
            self.end.release(slot);
        }
        while self.send(MAX_FRAME) > 0 {}
        self.end.end(Down::ClosedHere);
        assert_eq!(self.end.usage(), Usage::default());
        assert_eq!(self.end.dial(1), Err(MuxError::LinkDown { why: self.end.dead().expect("ended").clone() }));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let waker = Waker::noop();
        let op = input.byte();
        match op & 31 {
            0..3 => {
                let n = usize::from(input.byte());
                self.receive(input.bytes(n));
            }
            3..12 => self.frame(op & 31, input),
            12 => {
                if let Ok(slot) = self.end.dial(u32::from(input.byte())) {
                    self.held.push(slot);
                }
            }
            13 | 14 => {
                if let Poll::Ready(Ok(slot)) = self.end.poll_accept(1, waker) {
                    self.held.push(slot);
                }
            }
            15 => {
                self.end.unlisten(1);
                let _ = self.end.listen(1);
            }
            16 | 17 => {
                let most = usize::from(input.byte()) * 64;
                if let Some(slot) = self.pick(input) {
                    let mut taken = 0;
                    let read = self.end.poll_read(slot, waker, |piece| {
                        assert!(!piece.is_empty());
                        let n = piece.len().min(most - taken);
                        taken += n;
                        n
                    });
                    assert!(!matches!(read, Poll::Ready(Ok(n)) if n != taken));
                }
            }
            18 | 19 => {
                let data = vec![op; usize::from(input.byte()) * 160];
                if let Some(slot) = self.pick(input) {
                    match self.end.poll_write(slot, waker, &data) {
                        Poll::Ready(Ok(n)) => assert!(n <= data.len() && (n > 0 || data.is_empty())),
                        Poll::Ready(Err(error)) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock),
                        Poll::Pending => {}
                    }
                }
            }
            20 => self.with_picked(input, Connection::shut_down),
            21 => self.with_picked(input, Connection::reset),
            22 => self.with_picked(input, Connection::discard),
            23 => self.with_picked(input, Connection::abandon_writing),
            24 => self.with_picked(input, |end, slot| end.set_priority(slot, Priority::Control)),
            25 => {
                if let Some(slot) = self.pick(input) {
                    self.held.retain(|&held| held != slot);
                    self.end.release(slot);
                }
            }
            26 | 27 => {
                self.send(usize::from(input.byte()) * 32);
            }
            28 => self.end.hang_up(),
            29 => {
                let _ = self.end.poll_quiet(&mut self.wait, waker);
            }
            30 => self.receive(&vec![0; FILLER_LEN]),
            _ => {
                if let Some(slot) = self.pick(input) {
                    let _ = self.end.poll_flush(slot, waker);
                    let _ = self.end.poll_accepted(slot, waker);
                }
            }
        }
    }

    /// Receives a well-formed frame, with fields that may make no sense.
    fn frame(&mut self, op: u8, input: &mut Input<'_>) {
        let id = u32::from(input.byte());
        let number = u32::from(input.byte());
        let frame = match op {
            3 | 4 => Control::Open { id, port: number & 1 },
            5 => Control::Accept { id },
            6 => Control::Fin { id },
            7 => {
                let refusals =
                    [Refusal::NobodyListens, Refusal::TooManyStreams, Refusal::BacklogFull, Refusal::Abandoned];
                let refusal = refusals.get(number as usize & 7).copied();
                Control::Reset { id, reason: refusal.map_or(ResetReason::Dropped, ResetReason::Refused) }
            }
            8 => Control::Window { id, credit: number << (8 * (id % 4)) },
            9 if id & 1 == 0 => Control::Ping { token: number },
            9 => Control::Pong { token: number },
            10 if id % 8 == 0 => Control::Hello(hello([number as u8; 16], VERSION + (id >> 7))),
            _ => {
                let length = (number as usize * 33).clamp(1, 4096 + 33);
                let header = Header { kind: Kind::Data, length, id };
                self.receive(&header.encode());
                return self.receive(&vec![op; length]);
            }
        };
        self.receive_frame(&frame);
    }

    fn receive_frame(&mut self, frame: &Control) {
        let mut bytes = [0; 80];
        let n = frame.encode(&mut bytes);
        let (header, payload) = bytes[..n].split_first_chunk::<HEADER_LEN>().expect("a header");
        let decoded = Header::decode(*header).and_then(|header| Control::decode(header, payload));
        assert!(payload.len() <= MAX_CONTROL_PAYLOAD);
        match (frame, decoded) {
            (Control::Hello(hello), Ok(Control::Hello(decoded))) if hello.version != VERSION => {
                assert_eq!((hello.nonce, hello.version), (decoded.nonce, decoded.version));
            }
            (_, decoded) => assert_eq!(decoded.as_ref(), Ok(frame)),
        }
        self.receive(&bytes[..n]);
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.end.receive(bytes);
    }

    fn send(&mut self, most: usize) -> usize {
        let bytes = self.end.transmit();
        assert!(bytes.len() <= MAX_FRAME);
        let n = bytes.len().min(most);
        self.end.transmitted(n);
        n
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<Slot> {
        let n = usize::from(input.byte());
        self.held.get(n % self.held.len().max(1)).copied()
    }

    fn with_picked(&mut self, input: &mut Input<'_>, call: impl FnOnce(&mut Connection, Slot)) {
        if let Some(slot) = self.pick(input) {
            call(&mut self.end, slot);
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
