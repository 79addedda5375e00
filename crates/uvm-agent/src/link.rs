//! Streams to the host, whatever carries them: the multiplexer over the serial port, or sockets, which are virtual ones in
//! a VM and of any kind in tests.
//!
//! The guest dials, the host listens. A host's port that nobody listens on is refused over either carrier.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use uvm_mux::{Mux, MuxError, MuxStream, Priority};

use crate::sys;

/// What carries streams to the host. Clones are handles of the same carrier.
#[derive(Clone)]
pub enum Link {
    /// The multiplexer.
    Mux(Mux),
    /// A socket for each stream.
    Sockets(Sockets),
}

/// Why the host's port was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The multiplexer did not reach it.
    #[error("cannot dial port {port} of the host over the serial port")]
    Mux {
        /// The host's port.
        port: u32,
        /// Why.
        source: MuxError,
    },
    /// The socket did not connect.
    #[error("cannot connect to port {port} of the host")]
    Socket {
        /// The host's port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// Nobody answered.
    #[error("port {port} of the host did not answer within {DEADLINE:?}")]
    TimedOut {
        /// The host's port.
        port: u32,
    },
}

/// How long a dial may take, all attempts together: longer than [`ATTEMPTS`] that time out after the kernel's 2 s each.
const DEADLINE: Duration = Duration::from_secs(25);
/// How often a socket is tried that finds nobody to answer, as the original has it.
const ATTEMPTS: u32 = 10;
/// Between these attempts.
const PAUSE: Duration = Duration::from_millis(100);

impl Link {
    /// Virtual sockets to the host of this VM.
    pub fn virtual_sockets() -> Self {
        Self::Sockets(Sockets::new(sys::begin_vsock_to_host))
    }

    /// Waits until streams can be dialled: sockets always can. Cancel-safe.
    ///
    /// # Errors
    /// They never can be again.
    pub(crate) async fn up(&self) -> Result<(), MuxError> {
        match self {
            Self::Mux(mux) => mux.up().await.map(drop),
            Self::Sockets(_) => Ok(()),
        }
    }

    /// Dials a port of the host and waits until it is accepted. Cancel-safe.
    ///
    /// # Errors
    /// It was not: at once if it is refused, else after [`DEADLINE`] at the latest.
    pub(crate) async fn dial(&self, port: u32) -> Result<Stream, DialError> {
        let dialled = async {
            match self {
                Self::Mux(mux) => {
                    mux.dial(port).await.map(Stream::Mux).map_err(|source| DialError::Mux { port, source })
                }
                Self::Sockets(sockets) => {
                    sockets.dial(port).await.map(Stream::Socket).map_err(|source| DialError::Socket { port, source })
                }
            }
        };
        tokio::time::timeout(DEADLINE, dialled).await.unwrap_or(Err(DialError::TimedOut { port }))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mux(_) => "Link::Mux",
            Self::Sockets(_) => "Link::Sockets",
        })
    }
}

/// Makes sockets to the host.
#[derive(Clone)]
pub struct Sockets(Arc<dyn Fn(u32) -> io::Result<OwnedFd> + Send + Sync>);

impl Sockets {
    /// Dials by `begin`, which makes a non-blocking stream socket that is connected to a port of the host, or on its way.
    pub fn new(begin: impl Fn(u32) -> io::Result<OwnedFd> + Send + Sync + 'static) -> Self {
        Self(Arc::new(begin))
    }

    async fn dial(&self, port: u32) -> io::Result<UnixStream> {
        for _ in 1..ATTEMPTS {
            match self.attempt(port).await {
                Err(e) if e.kind() == io::ErrorKind::TimedOut => tokio::time::sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
        self.attempt(port).await
    }

    async fn attempt(&self, port: u32) -> io::Result<UnixStream> {
        // The runtime's type for a connected stream socket. Its name says Unix, but what is done with it here, to read,
        // write, half-close and wait, is the same for every family.
        let socket = UnixStream::from_std((self.0)(port)?.into())?;
        // A socket that is on its way is not writable before it has arrived or failed.
        socket.writable().await?;
        match socket.take_error()? {
            None => Ok(socket),
            Some(error) => Err(error),
        }
    }
}

/// A stream to the host. Dropping it closes both directions.
pub(crate) enum Stream {
    Mux(MuxStream),
    Socket(UnixStream),
}

/// The half of a stream that is read.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
/// The half that is written. To be shut down before it is dropped, if the host is to see an end that is no accident.
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

impl Stream {
    /// The halves, for two tasks.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Mux(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Socket(stream) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
        }
    }

    /// What is written here is to overtake bulk. Sockets do not get in each other's way.
    pub(crate) fn hurry(&self) {
        if let Self::Mux(stream) = self {
            stream.set_priority(Priority::Control);
        }
    }
}

/// The socket by itself, blocking, as programs expect their standard streams.
pub(crate) fn into_descriptor(socket: UnixStream) -> io::Result<OwnedFd> {
    let socket = socket.into_std()?;
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Socket(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Socket(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_flush(cx),
            Self::Socket(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Mux(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Socket(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::test_link;

    /// A carrier whose every attempt ends so, and how many there were.
    fn failing(errno: rustix::io::Errno) -> (Link, Arc<AtomicU32>) {
        let attempts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&attempts);
        let begin = move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
            Err(errno.into())
        };
        (Link::Sockets(Sockets::new(begin)), attempts)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_timed_out_is_tried_again_and_ten_times_in_all() {
        use rustix::io::Errno;
        for (errno, expected) in [(Errno::TIMEDOUT, 10), (Errno::CONNRESET, 1), (Errno::NODEV, 1), (Errno::AGAIN, 1)] {
            let (link, attempts) = failing(errno);
            let begun = tokio::time::Instant::now();
            let Err(DialError::Socket { port: 7, source }) = link.dial(7).await else { panic!("not an error of 7") };
            assert_eq!(source.raw_os_error(), Some(errno.raw_os_error()));
            assert_eq!(attempts.load(Ordering::Relaxed), expected, "{errno}");
            assert_eq!(begun.elapsed(), PAUSE * (expected - 1), "{errno}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_has_an_end_over_either_carrier() {
        let (host, guest) = test_link::link().await;
        // Nobody takes what is dialled, but the port is there: the multiplexer waits.
        let _listener = host.listen(7).expect("free");
        // A socket that is never writable: its buffer is full and nobody reads.
        let (full, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        full.set_nonblocking(true).expect("set");
        while io::Write::write(&mut &full, &[0; 4096]).is_ok() {}
        let stuck = Sockets::new(move |_| Ok(full.try_clone()?.into()));
        for link in [Link::Mux(guest), Link::Sockets(stuck)] {
            let begun = tokio::time::Instant::now();
            let error = link.dial(7).await.map(drop).expect_err("nobody answers");
            assert_eq!(error.to_string(), "port 7 of the host did not answer within 25s");
            assert!(begun.elapsed() >= DEADLINE);
        }
    }

    #[tokio::test]
    async fn streams_of_either_carrier_close_one_direction_at_a_time() {
        for mut pair in test_link::pairs(7).await {
            let (mut read, mut write) = pair.guest.into_split();
            write.write_all(b"from the guest").await.expect("written");
            write.shutdown().await.expect("half-closed");
            let mut text = String::new();
            pair.host.read_to_string(&mut text).await.expect("read");
            assert_eq!(text, "from the guest");
            pair.host.write_all(b"from the host").await.expect("written");
            pair.host.shutdown().await.expect("half-closed");
            text.clear();
            read.read_to_string(&mut text).await.expect("read");
            assert_eq!(text, "from the host");
        }
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_refused() {
        let (_host, guest) = test_link::link().await;
        for link in [Link::Mux(guest), test_link::sockets().0] {
            let error = link.dial(9).await.map(drop).expect_err("nobody listens");
            assert!(error.to_string().contains("port 9 of the host"), "{error}");
        }
    }

    #[test]
    fn without_a_device_virtual_sockets_fail_and_say_why() {
        // What the machine that runs this has is not known; but nobody listens on this port of its host.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let dialled = runtime.block_on(async { Link::virtual_sockets().dial(0xffff_fff0).await.map(drop) });
        let error = dialled.expect_err("nobody listens");
        assert!(error.to_string().contains("port 4294967280 of the host"), "{error}");
    }
}
