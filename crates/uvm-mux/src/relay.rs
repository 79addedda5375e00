//! A stream joined with a Unix socket: for either end of a mux, and for streams of other carriers.
//!
//! The two directions are independent: where the one is not taken any more, the other goes on to its end.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Notify;

/// Bytes that are on their way in one direction.
const BUFFER: usize = 16 * 1024;

/// How far the bytes have come that go from the stream to the socket.
#[derive(Debug)]
pub struct Progress {
    came: AtomicU64,
    taken: AtomicU64,
    waits: AtomicBool,
    over: AtomicBool,
}

impl Default for Progress {
    /// Nothing has come; whoever is behind the socket does not take anything yet.
    fn default() -> Self {
        Self { came: 0.into(), taken: 0.into(), waits: true.into(), over: false.into() }
    }
}

impl Progress {
    /// How many bytes came from the stream.
    pub fn came(&self) -> u64 {
        self.came.load(Ordering::Relaxed)
    }

    /// How many the socket took.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether some wait for the socket.
    pub fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether the socket has all that there will be, or takes no more.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// How one direction ended.
enum Way {
    /// With end of file, which was passed on.
    Ended,
    /// The one end takes no more. The other direction is not concerned.
    NotTaken(io::Error),
    /// What came to it was cut: there is no other direction either.
    Cut(io::Error),
}

/// Relays until both directions have ended, or the connection was cut. Not cancel-safe: what is on its way is lost, and the
/// stream is reset.
///
/// A stream that was reset is no end of file where that can be told: the socket is closed with what its peer sent unread,
/// which is a reset for the peer. If all it sent was read, Unix sockets have no way to say so.
///
/// # Errors
/// It was cut. Dropping `stream` has reset it.
pub async fn relay(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut socket: UnixStream,
    progress: &Progress,
) -> io::Result<()> {
    let (mut from_stream, mut to_stream) = tokio::io::split(stream);
    let (mut from_socket, mut to_socket) = socket.split();
    progress.waits.store(false, Ordering::Relaxed);
    let inwards_over = Notify::new();
    let outwards = async {
        let way = outwards(&mut from_stream, &mut to_socket, progress).await;
        progress.over.store(true, Ordering::Relaxed);
        match way {
            Way::Ended => Ok(()),
            Way::Cut(e) => Err(e),
            Way::NotTaken(_) => {
                // The other end may write before it reads, so it is not held up: what it writes is for nobody.
                let mut nobody = tokio::io::sink();
                tokio::select! {
                    discarded = tokio::io::copy(&mut from_stream, &mut nobody) => discarded.map(drop),
                    () = inwards_over.notified() => Ok(()),
                }
            }
        }
    };
    let inwards = async {
        let result = match inwards(&mut from_socket, &mut to_stream).await {
            Way::Cut(e) => Err(e),
            // The other end reads no more.
            Way::NotTaken(e) if e.kind() == io::ErrorKind::BrokenPipe => refuse(&mut from_socket).await,
            // If it was cut, the other direction finds that behind what had come.
            Way::Ended | Way::NotTaken(_) => Ok(()),
        };
        inwards_over.notify_one();
        result
    };
    tokio::try_join!(outwards, inwards).map(drop)
}

async fn outwards(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), progress: &Progress) -> Way {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut rest = match from.read(&mut buffer).await {
            Ok(0) => return end(to).await,
            Ok(count) => &buffer[..count],
            Err(e) => return Way::Cut(e),
        };
        progress.came.fetch_add(rest.len() as u64, Ordering::Relaxed);
        progress.waits.store(true, Ordering::Relaxed);
        while !rest.is_empty() {
            match to.write(rest).await {
                Ok(0) => return Way::NotTaken(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    progress.taken.fetch_add(count as u64, Ordering::Relaxed);
                    rest = &rest[count..];
                }
                Err(e) => return Way::NotTaken(e),
            }
        }
        progress.waits.store(false, Ordering::Relaxed);
    }
}

async fn inwards(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> Way {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return end(to).await,
            Ok(count) => {
                if let Err(e) = to.write_all(&buffer[..count]).await {
                    return Way::NotTaken(e);
                }
            }
            Err(e) => return Way::Cut(e),
        }
    }
}

async fn end(to: &mut (impl AsyncWrite + Unpin)) -> Way {
    match to.shutdown().await {
        Ok(()) => Way::Ended,
        Err(e) => Way::NotTaken(e),
    }
}

/// Nothing more can be sent to this end. What was sent is thrown away: left unread, it would make a reset of the end of
/// what the other sent.
async fn refuse(from: &mut tokio::net::unix::ReadHalf<'_>) -> io::Result<()> {
    rustix::net::shutdown(from.as_ref(), Shutdown::Read)?;
    tokio::io::copy(from, &mut tokio::io::sink()).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{DuplexStream, ReadBuf};

    use super::*;

    /// A stream that is reset where a duplex stream ends.
    struct Reset(DuplexStream);

    impl AsyncRead for Reset {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            match Pin::new(&mut self.0).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() == before => {
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
                other => other,
            }
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf).map_err(|_| io::ErrorKind::ConnectionReset.into())
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Writes until there is no room.
    fn fill(stream: &UnixStream) {
        while stream.try_write(&[b'x'; 4096]).is_ok() {}
    }

    #[tokio::test]
    async fn a_stream_that_was_left_is_read_to_its_last_byte_whatever_is_sent_to_it() {
        const BYTES: usize = 500_000;
        let (mut program, stream) = tokio::io::duplex(1 << 20);
        let (mut host, ours) = UnixStream::pair().expect("a pair");
        program.write_all(&vec![b'g'; BYTES]).await.expect("there is room");
        // It closed both directions; the host sends more than one read takes before it has read anything.
        drop(program);
        fill(&host);
        let progress = Progress::default();
        let read = async {
            // Nothing is read before the relay knows that nobody reads what the host sent.
            while host.try_write(b"x").map_err(|e| e.kind()) != Err(io::ErrorKind::BrokenPipe) {
                tokio::task::yield_now().await;
            }
            let mut all = Vec::new();
            host.read_to_end(&mut all).await.map(|_| all.len())
        };
        let (relayed, read) = tokio::join!(relay(stream, ours, &progress), read);
        assert_eq!(read.expect("an end of file"), BYTES);
        relayed.expect("not cut");
    }

    #[tokio::test]
    async fn a_socket_that_is_not_read_any_more_is_heard_to_its_end() {
        let (mut program, stream) = tokio::io::duplex(64);
        let (mut host, ours) = UnixStream::pair().expect("a pair");
        rustix::net::shutdown(&host, Shutdown::Read).expect("open");
        let talk = async {
            // Far more than all buffers hold: it is not held up.
            program.write_all(&vec![b'g'; 1 << 20]).await.expect("taken");
            host.write_all(b"all of the answer").await.expect("taken");
            drop(host);
            let mut answer = String::new();
            program.read_to_string(&mut answer).await.expect("text");
            answer
        };
        let progress = Progress::default();
        let (relayed, answer) = tokio::join!(relay(stream, ours, &progress), talk);
        assert_eq!(answer, "all of the answer");
        relayed.expect("not cut");
    }

    #[tokio::test]
    async fn a_reset_of_the_stream_is_one_for_the_socket_behind_what_had_come() {
        let (mut program, stream) = tokio::io::duplex(1024);
        let (mut host, ours) = UnixStream::pair().expect("a pair");
        fill(&host);
        program.write_all(b"had come").await.expect("there is room");
        drop(program);
        let cut = relay(Reset(stream), ours, &Progress::default()).await.expect_err("cut");
        assert_eq!(cut.kind(), io::ErrorKind::ConnectionReset);
        let mut came = Vec::new();
        let error = host.read_to_end(&mut came).await.expect_err("no end of file");
        assert_eq!((error.kind(), &came[..]), (io::ErrorKind::ConnectionReset, &b"had come"[..]));
    }
}
