//! A stream over a socket that can only be waited for by threads: the system's asynchronous interfaces know no Hyper-V
//! sockets.
//!
//! Two threads move the bytes, one each way, over a bounded pipe in memory.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::runtime::{Builder, Runtime};

/// One end of a stream. Dropping it before this side half-closed resets it. If only the peer has not, it gets all that was
/// written, and nothing it sends is taken any more; until it has taken what was written, or its VM has ended, a thread
/// stays.
pub(crate) struct BlockingStream {
    near: DuplexStream,
    shared: Arc<Shared>,
}

/// What the stream and its threads share.
struct Shared {
    /// Any connected stream socket; its family does not matter to what is used here.
    socket: TcpStream,
    we_finished: AtomicBool,
    they_finished: AtomicBool,
    /// The peer was sent all that was written, and the end.
    all_sent: AtomicBool,
    /// Nobody has this end any more.
    dropped: AtomicBool,
}

impl Shared {
    /// Wakes both threads, which closes the socket.
    fn cut(&self) {
        // It fails if the connection is lost already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl BlockingStream {
    /// Takes a connected socket that blocks.
    pub(crate) fn new(socket: TcpStream) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket,
            we_finished: AtomicBool::new(false),
            they_finished: AtomicBool::new(false),
            all_sent: AtomicBool::new(false),
            dropped: AtomicBool::new(false),
        });
        let (near, far) = tokio::io::duplex(WINDOW);
        let (to_peer, from_peer) = tokio::io::split(far);
        let stream = Self { near, shared: Arc::clone(&shared) };
        let runtime = || Builder::new_current_thread().build();
        let spawn = |name: &str| thread::Builder::new().name(name.into()).stack_size(STACK);
        let (receiver, receiving) = (Arc::clone(&shared), runtime()?);
        spawn("uvm-hcs-receive").spawn(move || receive(&receiver, from_peer, &receiving))?;
        let sending = runtime()?;
        spawn("uvm-hcs-send").spawn(move || send(&shared, to_peer, &sending))?;
        Ok(stream)
    }
}

/// From the peer, until it finishes, the connection is lost, or nobody wants it any more.
fn receive(shared: &Shared, mut to: WriteHalf<DuplexStream>, runtime: &Runtime) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match (&shared.socket).read(&mut buffer) {
            Ok(0) => {
                shared.they_finished.store(true, Ordering::Release);
                break;
            }
            Ok(count) => {
                let received = buffer.get(..count).unwrap_or_default();
                if runtime.block_on(to.write_all(received)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // Whoever reads sees by the flag whether this is the end or a loss. It fails if nobody reads.
    let _ = runtime.block_on(to.shutdown());
}

/// To the peer, until this side finishes or the connection is lost.
fn send(shared: &Shared, mut from: ReadHalf<DuplexStream>, runtime: &Runtime) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(count @ 1..) = runtime.block_on(from.read(&mut buffer)) {
        let sent = buffer.get(..count).unwrap_or_default();
        if (&shared.socket).write_all(sent).is_err() {
            // The receiver's thread sees the loss too.
            return;
        }
    }
    if shared.we_finished.load(Ordering::Acquire) {
        // It fails if the peer is gone, which reading tells.
        let _ = shared.socket.shutdown(Shutdown::Write);
        // Either this thread or whoever drops the stream sees that the other was there first.
        shared.all_sent.store(true, Ordering::SeqCst);
        if shared.dropped.load(Ordering::SeqCst) {
            shared.cut();
        }
    }
}

impl AsyncRead for BlockingStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        ready!(Pin::new(&mut self.near).poll_read(cx, buf))?;
        let is_end = room > 0 && buf.filled().len() == before;
        if is_end && !self.shared.they_finished.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BlockingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.we_finished.store(true, Ordering::Release);
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}

impl Drop for BlockingStream {
    fn drop(&mut self) {
        let finished = [&self.shared.we_finished, &self.shared.they_finished];
        if finished.iter().all(|finished| finished.load(Ordering::Acquire)) {
            return;
        }
        self.shared.dropped.store(true, Ordering::SeqCst);
        if !self.shared.we_finished.load(Ordering::Acquire) {
            // A close without lingering is a reset. What fails here has ended already.
            let _ = SockRef::from(&self.shared.socket).set_linger(Some(Duration::ZERO));
            self.shared.cut();
        } else if self.shared.all_sent.load(Ordering::SeqCst) {
            self.shared.cut();
        }
    }
}

/// Bytes in flight, each way.
const WINDOW: usize = 64 * 1024;
/// Bytes a thread moves at once.
const BUFFER: usize = 32 * 1024;
const STACK: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        peer.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let (socket, _) = listener.accept().expect("accepted");
        (socket, peer)
    }

    fn pair() -> (BlockingStream, TcpStream) {
        let (socket, peer) = sockets();
        (BlockingStream::new(socket).expect("threads"), peer)
    }

    #[tokio::test]
    async fn each_side_finishes_by_itself() {
        let (mut stream, mut peer) = pair();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let expected = sent.clone();
        let echo = thread::spawn(move || {
            let mut got = Vec::new();
            peer.read_to_end(&mut got).expect("the end");
            peer.write_all(&got).expect("this side goes on");
            got
        });
        stream.write_all(&sent).await.expect("sent");
        stream.shutdown().await.expect("finished");
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.expect("the end");
        assert!(back == expected && echo.join().expect("joined") == expected);
    }

    /// Whatever the reason: here, that reading the socket fails while its peer lives.
    #[tokio::test]
    async fn a_lost_connection_is_no_end() {
        let (socket, _peer) = sockets();
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("set");
        let mut stream = BlockingStream::new(socket).expect("threads");
        let error = stream.read_u8().await.expect_err("it was lost");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// Not under wine, whose server shuts a socket down before it closes it: its peer sees an end, and the reset after it.
    #[cfg(unix)]
    #[tokio::test]
    async fn a_reset_of_the_peer_is_no_end() {
        let (mut stream, peer) = pair();
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).expect("set");
        drop(peer);
        let error = stream.read_u8().await.expect_err("it was reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_arrives_though_the_stream_is_dropped() {
        let sent: Vec<u8> = (0..WINDOW as u32).map(|n| n.to_le_bytes()[1]).collect();
        for _ in 0..20 {
            let (mut stream, mut peer) = pair();
            stream.write_all(&sent).await.expect("there is room");
            stream.shutdown().await.expect("finished");
            drop(stream);
            let mut got = Vec::new();
            peer.read_to_end(&mut got).expect("the end");
            assert!(got == sent, "{} bytes", got.len());
        }
    }

    #[tokio::test]
    async fn a_dropped_stream_wakes_its_peer() {
        let (mut stream, mut peer) = pair();
        // Also after this side has finished: the other has not.
        stream.shutdown().await.expect("finished");
        let mut nothing = [0];
        assert_eq!(peer.read(&mut nothing).expect("the end"), 0);
        drop(stream);
        // The first write may be taken before the reset arrives; those after it are not.
        let refused = (0..1_000_000).find_map(|_| peer.write_all(&[0; 4096]).err());
        assert!(refused.is_some());
    }
}
