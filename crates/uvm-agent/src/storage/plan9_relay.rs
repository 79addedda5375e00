//! What joins the kernel's 9P client with a stream of the multiplexer, which is no descriptor: two pipes.
//!
//! Emulated, a switch between agent and kernel costs more than to copy a frame, so there are few. A pipe holds the longest
//! message, so that the kernel writes it at once. Of one that comes, the kernel gets large pieces: it would run for each
//! frame. They gather in a third pipe, whose pages then become the kernel's pipe's without being copied.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt, Interest};
use uvm_mux::{MuxReadHalf, MuxStream, MuxWriteHalf};

use crate::{relay, sys};

/// The kernel's ends of the pipes.
pub(super) struct KernelEnds {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// Makes the pipes, each with room for `message` bytes, and what relays for as long as kernel and host have their ends.
///
/// Each way has to wait for the other end by itself, and what waits is bounded: what the pipes and the stream's window hold.
pub(super) fn join(stream: MuxStream, message: usize) -> io::Result<(KernelEnds, impl Future<Output = ()> + Send)> {
    let (from_kernel, write) = pipe(message)?;
    let (read, to_kernel) = pipe(message)?;
    let (gathered, gathering) = pipe(message)?;
    for ours in [&from_kernel, &to_kernel, &gathered, &gathering] {
        relay::non_blocking(ours)?;
    }
    let from_kernel = sys::watch(from_kernel, Interest::READABLE)?;
    let kernel = sys::watch(to_kernel, Interest::WRITABLE | Interest::ERROR)?;
    let (from_host, to_host) = stream.into_split();
    let relay = async move {
        let mut inwards = Inwards { kernel: &kernel, gathering, gathered, held: 0, place: Place::default() };
        // Its end, whoever ends it, is the end of the mount.
        tokio::select! {
            _ = outwards(&from_kernel, to_host) => {}
            _ = inwards.carry(from_host) => {}
            () = relay::no_reader(&kernel) => {}
        }
    };
    Ok((KernelEnds { read, write }, relay))
}

fn pipe(bytes: usize) -> io::Result<(OwnedFd, OwnedFd)> {
    let ends = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // It stays as it is where the kernel allows no more.
    let _ = rustix::pipe::fcntl_setpipe_size(&ends.0, bytes);
    Ok(ends)
}

async fn outwards(kernel: &AsyncFd<OwnedFd>, mut host: MuxWriteHalf) -> io::Result<()> {
    while relay::fill(kernel, &mut host).await? > 0 {}
    host.shutdown().await
}

/// The way to the kernel.
struct Inwards<'a> {
    kernel: &'a AsyncFd<OwnedFd>,
    /// Both ends of the pipe that a message gathers in, and how much of it is there.
    gathering: OwnedFd,
    gathered: OwnedFd,
    held: usize,
    place: Place,
}

/// With so much of a message, the kernel can begin: on a processor of its own it goes on while more comes.
const PIECE: usize = 256 * 1024;

/// What was taken of what the host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Some,
    /// Nothing: no more can gather.
    Full,
    /// Nothing, and nothing will come.
    All,
}

impl Inwards<'_> {
    /// Until the host half-closes.
    async fn carry(&mut self, mut host: MuxReadHalf) -> io::Result<()> {
        loop {
            let taken = self.take(&mut host).await?;
            if taken != Taken::Some || self.held >= PIECE || self.place.is_between_messages() {
                self.hand_over().await?;
            }
            if taken == Taken::All {
                return Ok(());
            }
        }
    }

    /// Takes a piece of what has come: to the kernel at once if that ends a message and nothing has gathered.
    async fn take(&mut self, host: &mut MuxReadHalf) -> io::Result<Taken> {
        let Self { kernel, gathering, held, place, .. } = self;
        let take = poll_fn(|cx| {
            loop {
                let mut ready = ready!(kernel.poll_write_ready(cx))?;
                let mut full = false;
                let taken = host.poll_drain(cx, |bytes| {
                    let directly = *held == 0 && place.after(bytes).is_between_messages();
                    let to = if directly { kernel.as_fd() } else { gathering.as_fd() };
                    let count = rustix::io::write(to, bytes).inspect_err(|&e| full = !directly && e == Errno::AGAIN)?;
                    *place = place.after(&bytes[..count]);
                    *held += if directly { 0 } else { count };
                    Ok(count)
                });
                match ready!(taken) {
                    Ok(0) => return Poll::Ready(Ok(Taken::All)),
                    Ok(_) => return Poll::Ready(Ok(Taken::Some)),
                    Err(_) if full => return Poll::Ready(Ok(Taken::Full)),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Poll::Ready(Err(e)),
                }
            }
        });
        take.await
    }

    /// Gives the kernel what has gathered.
    async fn hand_over(&mut self) -> io::Result<()> {
        while self.held > 0 {
            let mut ready = self.kernel.ready(Interest::WRITABLE).await?;
            match rustix::pipe::splice(&self.gathered, None, self.kernel, None, self.held, SpliceFlags::NONBLOCK) {
                Ok(count) => self.held -= count,
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Where in a message the last byte was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In its length, which comes first: so much is known of it, of so many bytes.
    Length { so_far: [u8; LENGTH], known: usize },
    /// Behind it: so much is still to come.
    Rest(usize),
}

/// Bytes that a message's length takes. It counts them.
const LENGTH: usize = size_of::<u32>();

impl Default for Place {
    fn default() -> Self {
        Self::Length { so_far: [0; LENGTH], known: 0 }
    }
}

impl Place {
    fn is_between_messages(self) -> bool {
        matches!(self, Self::Length { known: 0, .. })
    }

    /// The place behind these bytes.
    fn after(mut self, mut bytes: &[u8]) -> Self {
        while let Some((&first, rest)) = bytes.split_first() {
            self = match self {
                Self::Length { mut so_far, known } => {
                    bytes = rest;
                    so_far[known] = first;
                    match (u32::from_le_bytes(so_far) as usize).saturating_sub(LENGTH) {
                        _ if known + 1 < LENGTH => Self::Length { so_far, known: known + 1 },
                        0 => Self::default(),
                        left => Self::Rest(left),
                    }
                }
                Self::Rest(left) => {
                    let passed = left.min(bytes.len());
                    bytes = &bytes[passed..];
                    if passed == left { Self::default() } else { Self::Rest(left - passed) }
                }
            };
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Duration;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::test_link::stream;

    /// So little that long messages fill the pipes.
    const ROOM: usize = 64 * 1024;
    const PATIENCE: Duration = Duration::from_secs(30);

    /// The host's end, the kernel's, and what tells that the relay has ended.
    async fn joined() -> (MuxStream, KernelEnds, tokio::task::JoinHandle<()>) {
        let (guest, host) = stream().await;
        let (ends, relay) = join(guest, ROOM).expect("pipes");
        (host, ends, tokio::spawn(relay))
    }

    /// A message of so many bytes.
    fn message(length: usize) -> Vec<u8> {
        let mut message: Vec<_> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        message[..LENGTH].copy_from_slice(&u32::try_from(length).expect("short").to_le_bytes());
        message
    }

    #[test]
    fn where_messages_end_does_not_depend_on_how_they_come() {
        let all = [message(4), message(5), message(300), message(11)].concat();
        let ends = [4, 9, 309, 320];
        for pieces in [1, 2, 3, 7, 320] {
            let (mut place, mut at) = (Place::default(), 0);
            for piece in all.chunks(pieces) {
                place = place.after(piece);
                at += piece.len();
                assert_eq!(place.is_between_messages(), ends.contains(&at), "{at}, by {pieces}");
            }
        }
        // A length that does not count itself is no length; nothing waits for the rest of such a message.
        assert!(Place::default().after(&[3, 0, 0, 0]).is_between_messages());
    }

    #[tokio::test]
    async fn messages_arrive_whole_whatever_their_length() {
        let (mut host, ends, _relay) = joined().await;
        let lengths = [7, 30_000, 40_000, ROOM, 11, 5 * ROOM, 1 << 20, 12, 13];
        let sent: Vec<u8> = lengths.iter().flat_map(|&length| message(length)).collect();
        let length = sent.len();
        let reader = tokio::task::spawn_blocking(move || {
            let mut got = vec![0; length];
            std::fs::File::from(ends.read).read_exact(&mut got).map(|()| got)
        });
        host.write_all(&sent).await.expect("written");
        let got = tokio::time::timeout(PATIENCE, reader).await.expect("in time").expect("joined").expect("read");
        assert!(got == sent);
    }

    #[tokio::test]
    async fn each_message_arrives_though_no_other_follows() {
        let (mut host, ends, _relay) = joined().await;
        let mut read = std::fs::File::from(ends.read);
        for length in [7, 50_000, 8, 3 * ROOM, 9] {
            let reader = tokio::task::spawn_blocking(move || {
                let mut got = vec![0; length];
                read.read_exact(&mut got).expect("read");
                (got, read)
            });
            host.write_all(&message(length)).await.expect("written");
            let (got, same) = tokio::time::timeout(PATIENCE, reader).await.expect("in time").expect("joined");
            assert!(got == message(length), "{length} bytes");
            read = same;
        }
    }

    #[tokio::test]
    async fn what_was_cut_short_arrives_before_the_end() {
        let (mut host, ends, relay) = joined().await;
        host.write_all(&message(40_000)[..30_000]).await.expect("written");
        host.shutdown().await.expect("half-closed");
        let reader = tokio::task::spawn_blocking(move || {
            let mut got = Vec::new();
            std::fs::File::from(ends.read).read_to_end(&mut got).expect("read");
            got.len()
        });
        assert_eq!(tokio::time::timeout(PATIENCE, reader).await.expect("in time").expect("joined"), 30_000);
        relay.await.expect("it ends");
    }

    #[tokio::test]
    async fn requests_arrive_and_then_end_of_file() {
        let (mut host, ends, relay) = joined().await;
        let sent = [message(1 << 20), message(23)].concat();
        let mut write = std::fs::File::from(ends.write);
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || write.write_all(&sent).expect("written")
        });
        let mut got = Vec::new();
        host.read_to_end(&mut got).await.expect("read");
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        writer.join().expect("joined");
        relay.await.expect("it ends with the mount");
    }

    #[tokio::test]
    async fn a_kernel_that_is_gone_ends_it_though_the_host_takes_nothing() {
        let (mut host, ends, relay) = joined().await;
        let mut write = std::fs::File::from(ends.write);
        let full = tokio::task::spawn_blocking(move || {
            // Until neither the stream nor a pipe takes more.
            relay::non_blocking(&write.try_clone().expect("another").into()).expect("set");
            let mut waits = 0;
            while waits < 20 {
                waits = match write.write(&[1; 4096]) {
                    Ok(_) => 0,
                    Err(_) => waits + 1,
                };
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        full.await.expect("joined");
        drop(ends.read);
        tokio::time::timeout(PATIENCE, relay).await.expect("an end").expect("joined");
        // What it had sent is there to be read before that is told.
        host.read_exact(&mut [0; 4096]).await.expect("read");
    }
}
