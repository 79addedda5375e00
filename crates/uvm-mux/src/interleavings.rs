//! Every interleaving, up to a number of preemptions, of the driver, a task with a stream, and the other end.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p uvm-mux --lib --release --target-dir target/loom interleavings`
//!
//! A lost wake-up shows as a deadlock: loom finds a state where all threads wait.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::Mutex;
use loom::thread;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::channel::Channel;
use crate::connection::{Connection, Slot};
use crate::{Config, Down, Driver, Greeting, GuestState, Mux, MuxStream, Role, StreamError};

/// A channel in memory. Clones are the two ends' views of it.
#[derive(Clone)]
struct Wire(Arc<Mutex<WireState>>);

#[derive(Default)]
struct WireState {
    inbound: VecDeque<u8>,
    outbound: Vec<u8>,
    /// Bytes that may still be written.
    room: usize,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The other end, waiting for bytes.
    peer: Option<Waker>,
}

impl Wire {
    fn with<R>(&self, call: impl FnOnce(&mut WireState) -> R) -> R {
        call(&mut self.0.lock().expect("loom does not poison"))
    }

    fn send(&self, bytes: &[u8]) {
        let reader = self.with(|wire| {
            wire.inbound.extend(bytes);
            wire.reader.take()
        });
        reader.into_iter().for_each(Waker::wake);
    }

    fn close(&self) {
        let reader = self.with(|wire| {
            wire.closed = true;
            wire.reader.take()
        });
        reader.into_iter().for_each(Waker::wake);
    }

    fn make_room(&self, bytes: usize) {
        let writer = self.with(|wire| {
            wire.room += bytes;
            wire.writer.take()
        });
        writer.into_iter().for_each(Waker::wake);
    }
}

impl Channel for Wire {
    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|wire| {
            let n = buffer.len().min(wire.inbound.len());
            if n == 0 && !wire.closed {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            buffer.iter_mut().zip(wire.inbound.drain(..n)).for_each(|(to, from)| *to = from);
            Ok(n)
        })
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let (written, peer) = self.with(|wire| {
            let n = bytes.len().min(wire.room);
            wire.room -= n;
            wire.outbound.extend_from_slice(&bytes[..n]);
            (n, if n > 0 { wire.peer.take() } else { None })
        });
        peer.into_iter().for_each(Waker::wake);
        if written == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(written) }
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| {
            if wire.closed || !wire.inbound.is_empty() {
                return Poll::Ready(Ok(()));
            }
            wire.reader = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|wire| {
            if wire.room > 0 {
                return Poll::Ready(Ok(()));
            }
            wire.writer = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn reopens(&self) -> bool {
        false
    }

    fn read_size(&self) -> usize {
        64 * 1024
    }
}

/// The other end: a connection without a driver, moved by one thread.
struct Peer {
    wire: Wire,
    connection: Connection,
}

impl Peer {
    /// Takes what was sent, and sends what there is to send.
    fn turn(&mut self) {
        let received = self.wire.with(|wire| std::mem::take(&mut wire.outbound));
        self.connection.receive(&received);
        loop {
            let bytes = self.connection.transmit().to_vec();
            if bytes.is_empty() {
                return;
            }
            self.connection.transmitted(bytes.len());
            self.wire.send(&bytes);
        }
    }

    /// Takes turns until `done` says so, each time that something was sent.
    fn until<R>(&mut self, mut done: impl FnMut(&mut Connection) -> Option<R>) -> R {
        block_on(poll_fn(|cx| {
            self.wire.with(|wire| wire.peer = Some(cx.waker().clone()));
            self.turn();
            let result = done(&mut self.connection);
            self.turn();
            result.map_or(Poll::Pending, Poll::Ready)
        }))
    }

    fn accept(&mut self) -> Slot {
        self.until(|connection| match connection.poll_accept(1, Waker::noop()) {
            Poll::Ready(slot) => Some(slot.expect("up")),
            Poll::Pending => None,
        })
    }
}

/// A link that is up, with an accepted stream: the driver, the stream, and the other end with its slot.
fn linked() -> (Mux, Driver, MuxStream, Peer, Slot) {
    let wire = Wire(Arc::new(Mutex::new(WireState { room: 1 << 20, ..WireState::default() })));
    let greeting = Greeting { nonce: [1; 16], clock_ns: 0, entropy: [0; 32], guest: GuestState::Fresh };
    let (mux, mut driver) = Mux::new(wire.clone(), Role::Owner(greeting), Config::default());
    let mut connection = Connection::new(Role::Guest, Config::default());
    connection.listen(1).expect("free");
    let mut peer = Peer { wire, connection };
    let mut turn = |peer: &mut Peer| {
        assert!(pin!(&mut driver).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        peer.turn();
    };
    turn(&mut peer);
    turn(&mut peer);
    let stream = mux.dial_now(1).expect("up");
    turn(&mut peer);
    let slot = peer.accept();
    turn(&mut peer);
    (mux, driver, stream, peer, slot)
}

async fn read(stream: &mut MuxStream, most: usize) -> io::Result<Vec<u8>> {
    let mut memory = vec![0; most];
    poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut memory);
        pin!(&mut *stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().to_vec())
    })
    .await
}

async fn write(stream: &mut MuxStream, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| pin!(&mut *stream).poll_write(cx, bytes)).await
}

async fn shut_down(stream: &mut MuxStream) -> io::Result<()> {
    poll_fn(|cx| pin!(&mut *stream).poll_shutdown(cx)).await
}

fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 20_000;
    builder.check(scenario);
}

#[test]
fn a_reader_that_waits_sees_bytes_then_the_end() {
    explore(|| {
        let (mux, driver, mut stream, mut peer, slot) = linked();
        let driver = thread::spawn(move || block_on(driver));
        let reader = thread::spawn(move || {
            block_on(async {
                let first = read(&mut stream, 10).await.expect("bytes");
                (first, read(&mut stream, 10).await.expect("end of file"))
            })
        });
        assert!(peer.connection.poll_write(slot, Waker::noop(), b"bytes").is_ready());
        peer.turn();
        peer.connection.shut_down(slot);
        peer.turn();
        assert_eq!(reader.join().expect("no panic"), (b"bytes".to_vec(), vec![]));
        mux.close();
        assert_eq!(driver.join().expect("no panic"), Down::ClosedHere);
    });
}

#[test]
fn a_writer_at_a_full_channel_gets_through_when_there_is_room() {
    explore(|| {
        let (mux, driver, mut stream, mut peer, slot) = linked();
        peer.wire.with(|wire| wire.room = 3);
        let driver = thread::spawn(move || block_on(driver));
        let writer = thread::spawn(move || {
            block_on(async {
                write(&mut stream, b"bytes").await.expect("accepted");
                shut_down(&mut stream).await.expect("sent");
                stream
            })
        });
        peer.wire.make_room(1000);
        let mut got = Vec::new();
        peer.until(|connection| {
            loop {
                let read = connection.poll_read(slot, Waker::noop(), |piece| {
                    got.extend_from_slice(piece);
                    piece.len()
                });
                match read {
                    Poll::Ready(Ok(0)) => return Some(()),
                    Poll::Ready(read) => assert!(read.is_ok()),
                    Poll::Pending => return None,
                }
            }
        });
        assert_eq!(got, b"bytes");
        drop(writer.join().expect("no panic"));
        mux.close();
        driver.join().expect("no panic");
    });
}

#[test]
fn credit_that_may_wait_is_sent_though_nothing_else_happens() {
    explore(|| {
        let (mux, driver, mut stream, mut peer, slot) = linked();
        while peer.connection.poll_write(slot, Waker::noop(), &[1; 32 * 1024]).is_ready() {
            peer.turn();
        }
        let driver = thread::spawn(move || block_on(driver));
        let reader = thread::spawn(move || {
            block_on(async {
                let mut total = 0;
                while total < 64 * 1024 {
                    total += read(&mut stream, 64 * 1024).await.expect("bytes").len();
                }
                stream
            })
        });
        peer.until(|connection| connection.poll_write(slot, Waker::noop(), b"more").is_ready().then_some(()));
        drop(reader.join().expect("no panic"));
        mux.close();
        driver.join().expect("no panic");
    });
}

#[test]
fn a_dial_ends_in_an_answer_or_a_reset_when_the_channel_closes_meanwhile() {
    explore(|| {
        let (mux, driver, stream, mut peer, _) = linked();
        let driver = thread::spawn(move || block_on(driver));
        let dialler = thread::spawn(move || {
            let Ok(mut dialled) = mux.dial_now(2) else { return None };
            Some(block_on(dialled.accepted()).expect_err("nobody listens on 2"))
        });
        peer.turn();
        peer.wire.close();
        assert!(matches!(
            dialler.join().expect("no panic"),
            None | Some(StreamError::Refused(_) | StreamError::LinkDown(Down::Closed))
        ));
        drop(stream); // the last handle
        assert!(matches!(driver.join().expect("no panic"), Down::Closed | Down::ClosedHere));
    });
}

#[test]
fn a_drop_races_with_a_reset_and_with_the_close_of_the_link() {
    explore(|| {
        let (mux, driver, stream, mut peer, slot) = linked();
        let driver = thread::spawn(move || block_on(driver));
        let dropper = thread::spawn(move || drop(stream));
        peer.connection.reset(slot);
        peer.connection.release(slot);
        peer.turn();
        let quiet = block_on(async {
            let mut quiet = pin!(mux.quiesce());
            poll_fn(|cx| {
                peer.wire.with(|wire| wire.peer = Some(cx.waker().clone()));
                let polled = quiet.as_mut().poll(cx);
                peer.turn();
                polled
            })
            .await
        });
        assert_eq!(quiet, Ok(()));
        dropper.join().expect("no panic");
        drop(mux);
        assert_eq!(driver.join().expect("no panic"), Down::ClosedHere);
    });
}
