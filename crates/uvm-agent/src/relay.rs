//! Carrying bytes between a stream of the transport and a descriptor of a process.
//!
//! A stream of the multiplexer is not a descriptor, so a process gets pipes, and these relays join them: bytes go from the
//! descriptor straight into the frame that is sent, and from the frame that was received straight into the descriptor.
//! A terminal is joined with streams of any carrier, through a buffer.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::sync::Semaphore;
use uvm_mux::{MuxReadHalf, MuxWriteHalf};

use crate::link::{ReadHalf, WriteHalf};
use crate::sys;

/// Makes a descriptor non-blocking. It must share its open file description with no process.
pub(crate) fn non_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// Reads `from` until its end and sends it, then half-closes the stream. If the host closed the stream, `from` is
/// dropped: the process learns of it by its next write.
pub(crate) async fn outwards(from: OwnedFd, mut to: MuxWriteHalf) -> io::Result<()> {
    let from = sys::watch(from, Interest::READABLE)?;
    loop {
        let n = fill(&from, &mut to).await?;
        if n == 0 || n >= BULK_SIGN && bulk(&from, &mut to).await? == Bulk::Ended {
            break;
        }
    }
    to.shutdown().await
}

/// How a time of bulk ended.
#[derive(PartialEq, Eq)]
enum Bulk {
    /// With the input.
    Ended,
    /// There is less to read now, or too much bulk elsewhere.
    Ebbed,
}

/// Relays through a large buffer for as long as most of a frame comes at a time.
///
/// A process that waits for room in its pipe runs as soon as a read has made some, and soon waits again: with short reads
/// there are two switches between agent and process for each frame. Emulated, a switch costs more than to copy the frame.
async fn bulk<T: AsRawFd + AsFd>(from: &AsyncFd<T>, to: &mut MuxWriteHalf) -> io::Result<Bulk> {
    let Ok(_turn) = BULK_TURNS.try_acquire() else { return Ok(Bulk::Ebbed) };
    // It stays as it is where the kernel allows no more.
    let _ = rustix::pipe::fcntl_setpipe_size(from, BULK_PIPE);
    let mut buffer = vec![0; BULK_READ];
    loop {
        let mut ready = from.readable().await?;
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return Ok(Bulk::Ended),
            Ok(n) => {
                to.write_all(&buffer[..n]).await?;
                if n < BULK_SIGN {
                    // Nor can it shrink while more than that is in it.
                    let _ = rustix::pipe::fcntl_setpipe_size(from, USUAL_PIPE);
                    return Ok(Bulk::Ebbed);
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

/// How many relays may have that much memory at a time; whoever reads nothing on the host holds theirs.
static BULK_TURNS: Semaphore = Semaphore::const_new(8);
/// What a pipe holds then, and at first.
const BULK_PIPE: usize = 512 * 1024;
const USUAL_PIPE: usize = 64 * 1024;
/// What is then read at a time.
const BULK_READ: usize = 256 * 1024;
/// A read of this many bytes is a sign of bulk: nearly a full frame.
const BULK_SIGN: usize = 32 * 1024 - 64;

/// Sends what processes write to a terminal, then half-closes the stream. The terminal is shared, and it ends with an error
/// when the last process has closed it.
pub(crate) async fn outwards_from_terminal(from: &AsyncFd<Arc<OwnedFd>>, mut to: WriteHalf) -> io::Result<()> {
    let mut buffer = vec![0; TERMINAL_READ];
    loop {
        match from.async_io(Interest::READABLE, |from| Ok(rustix::io::read(from, &mut buffer)?)).await {
            Ok(0) => break,
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => break,
            Ok(count) => to.write_all(&buffer[..count]).await?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    to.shutdown().await
}

/// A terminal gives up to this at a time.
const TERMINAL_READ: usize = 4096;

/// Reads a terminal whose output nobody wants, so that its processes do not block.
pub(crate) async fn swallow(from: &AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let mut ready = from.readable().await?;
        match rustix::io::read(from, &mut buffer) {
            Ok(0) | Err(rustix::io::Errno::IO) => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => ready.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

pub(crate) async fn fill<T: AsRawFd + AsFd>(from: &AsyncFd<T>, to: &mut MuxWriteHalf) -> io::Result<usize> {
    poll_fn(|cx| {
        loop {
            let mut ready = ready!(from.poll_read_ready(cx))?;
            let read = to.poll_fill(cx, |buffer| Ok(rustix::io::read(from, buffer)?));
            match ready!(read) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    })
    .await
}

/// Writes what the host sends to `to`, until the host half-closes or nobody can read `to` any more.
pub(crate) async fn inwards(mut from: MuxReadHalf, to: OwnedFd) -> io::Result<()> {
    let to = sys::watch(to, Interest::WRITABLE | Interest::ERROR)?;
    tokio::select! {
        result = copy_in(&mut from, &to) => result,
        () = no_reader(&to) => Ok(()),
    }
}

/// Waits until nobody can read what is written to a pipe, which is watched for errors: it shows one once its last reader is
/// gone.
pub(crate) async fn no_reader(pipe: &AsyncFd<OwnedFd>) {
    drop(pipe.ready(Interest::ERROR).await);
}

/// Writes what the host sends to a terminal, until it half-closes: that is not the end of the terminal.
pub(crate) async fn inwards_to_terminal(mut from: ReadHalf, to: &AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
    let mut buffer = vec![0; TERMINAL_READ];
    loop {
        let count = from.read(&mut buffer).await?;
        let mut bytes = &buffer[..count];
        if bytes.is_empty() {
            return Ok(());
        }
        while !bytes.is_empty() {
            match to.async_io(Interest::WRITABLE, |to| Ok(rustix::io::write(to, bytes)?)).await {
                Ok(written) => bytes = &bytes[written..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

async fn copy_in<T: AsRawFd + AsFd>(from: &mut MuxReadHalf, to: &AsyncFd<T>) -> io::Result<()> {
    let drain = poll_fn(|cx| {
        loop {
            let mut ready = ready!(to.poll_write_ready(cx))?;
            let written = from.poll_drain(cx, |bytes| Ok(rustix::io::write(to, bytes)?));
            match ready!(written) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) => return Poll::Ready(Ok(())),
                Ok(_) => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    });
    drain.await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::test_link::{pairs, stream};

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 % 251) as u8).collect()
    }

    #[tokio::test]
    async fn all_output_arrives_and_then_end_of_file() {
        let (guest, mut host) = stream().await;
        let (read, mut write) = io::pipe().expect("a pipe");
        let read = OwnedFd::from(read);
        non_blocking(&read).expect("set");
        let relay = tokio::spawn(outwards(read, guest.into_split().1));
        let sent = pattern(3 << 20);
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || write.write_all(&sent).expect("written")
        });
        let mut got = Vec::new();
        host.read_to_end(&mut got).await.expect("read");
        assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
        relay.await.expect("joined").expect("relayed");
        writer.join().expect("joined");
    }

    #[tokio::test]
    async fn little_after_much_arrives_at_once() {
        let (guest, mut host) = stream().await;
        let (read, mut write) = io::pipe().expect("a pipe");
        let read = OwnedFd::from(read);
        non_blocking(&read).expect("set");
        let relay = tokio::spawn(outwards(read, guest.into_split().1));
        for _ in 0..2 {
            let much = pattern(1 << 20);
            let mut writer = write.try_clone().expect("another");
            let sent = much.clone();
            let writer = std::thread::spawn(move || writer.write_all(&sent).expect("written"));
            let mut got = vec![0; much.len()];
            host.read_exact(&mut got).await.expect("read");
            assert!(got == much);
            writer.join().expect("joined");
            write.write_all(b"little").expect("written");
            let mut got = [0; 6];
            host.read_exact(&mut got).await.expect("read");
            assert_eq!(&got, b"little");
        }
        drop(write);
        assert_eq!(host.read(&mut [0]).await.expect("end of file"), 0);
        relay.await.expect("joined").expect("relayed");
    }

    #[tokio::test]
    async fn all_input_arrives_and_then_end_of_file() {
        let (guest, mut host) = stream().await;
        let (mut read, write) = io::pipe().expect("a pipe");
        let write = OwnedFd::from(write);
        non_blocking(&write).expect("set");
        let (from_host, _to_host) = guest.into_split();
        let relay = tokio::spawn(inwards(from_host, write));
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            read.read_to_end(&mut got).expect("read");
            got
        });
        let sent = pattern(3 << 20);
        host.write_all(&sent).await.expect("written");
        host.shutdown().await.expect("half-closed");
        relay.await.expect("joined").expect("relayed");
        assert!(reader.join().expect("joined") == sent);
    }

    #[tokio::test]
    async fn input_that_nobody_can_read_any_more_ends_the_relay() {
        let (guest, _host) = stream().await;
        let (read, write) = io::pipe().expect("a pipe");
        let write = OwnedFd::from(write);
        non_blocking(&write).expect("set");
        let (from_host, _to_host) = guest.into_split();
        let relay = tokio::spawn(inwards(from_host, write));
        tokio::task::yield_now().await;
        drop(read);
        relay.await.expect("joined").expect("no error: a process need not read its input");
    }

    #[tokio::test]
    async fn a_stream_that_the_host_drops_closes_the_pipe() {
        let (guest, host) = stream().await;
        let (read, mut write) = io::pipe().expect("a pipe");
        let read = OwnedFd::from(read);
        non_blocking(&read).expect("set");
        let relay = tokio::spawn(outwards(read, guest.into_split().1));
        drop(host);
        let writer = std::thread::spawn(move || write.write_all(&pattern(1 << 20)).expect_err("nobody reads").kind());
        relay.await.expect("joined").expect_err("the stream was cut");
        assert_eq!(writer.join().expect("joined"), io::ErrorKind::BrokenPipe);
    }

    /// Both ends of a terminal.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).expect("a pty");
        rustix::pty::grantpt(&master).expect("granted");
        rustix::pty::unlockpt(&master).expect("unlocked");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        let slave =
            rustix::fs::open(&name, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY, rustix::fs::Mode::empty())
                .expect("opened");
        non_blocking(&master).expect("set");
        (master, slave)
    }

    #[tokio::test]
    async fn the_end_of_a_terminal_is_end_of_file() {
        for mut pair in pairs(1).await {
            let (master, slave) = terminal();
            rustix::io::write(slave.as_fd(), b"hello").expect("written");
            let terminal = sys::watch(Arc::new(master), Interest::READABLE).expect("registered");
            drop(slave);
            outwards_from_terminal(&terminal, pair.guest.into_split().1).await.expect("relayed");
            let mut got = Vec::new();
            pair.host.read_to_end(&mut got).await.expect("read");
            assert_eq!(got, b"hello");
        }
    }

    #[tokio::test]
    async fn what_is_typed_arrives_and_the_end_of_it_does_not_end_the_terminal() {
        for mut pair in pairs(1).await {
            let (master, slave) = terminal();
            let terminal = sys::watch(Arc::new(master), Interest::WRITABLE).expect("registered");
            pair.host.write_all(b"typed\n").await.expect("written");
            pair.host.shutdown().await.expect("half-closed");
            inwards_to_terminal(pair.guest.into_split().0, &terminal).await.expect("relayed");
            let mut line = [0; 16];
            let count = rustix::io::read(&slave, &mut line).expect("read");
            assert_eq!(&line[..count], b"typed\n");
        }
    }
}
