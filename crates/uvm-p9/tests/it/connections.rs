//! Clients that do not read what they are answered, and connections that hold back what is written.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use uvm_p9::protocol::{Request, flags};
use uvm_p9::{Ended, Limits, ServeError, serve};

use crate::client::{Host, name, open_share};

fn version() -> Vec<u8> {
    let mut message = Vec::new();
    Request::Version { message_size: 8192, version: name(flags::VERSION) }.encode(flags::NO_TAG, &mut message);
    message
}

/// The attack: sessions are begun over and over, and each answer waits for a client that never reads it.
#[test]
fn a_client_that_begins_without_reading_is_cut() {
    let host = Host::new();
    let share = open_share(host.options());
    let limits = Limits::default().with_drain(Duration::from_millis(50));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut client, connection) = tokio::io::duplex(256);
        let server = tokio::spawn(serve(connection, Arc::new(share), limits, std::future::pending()));
        let mut sent = 0;
        while sent < 100_000 && client.write_all(&version()).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 100, "{sent} beginnings were read, and no answer was");
        assert!(matches!(server.await.unwrap(), Err(ServeError::Stuck { .. })));
    });
}

/// A client that has said all it will, on a connection that holds back what is written until it is flushed, and takes its
/// time for that.
struct Lazy {
    said: io::Cursor<Vec<u8>>,
    held_back: Vec<u8>,
    asked: u32,
    arrived: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Lazy {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.said).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lazy {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.held_back.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held_back.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.asked += 1;
        if self.asked < 10 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let held_back = std::mem::take(&mut self.held_back);
        self.arrived.lock().unwrap().extend(held_back);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[test]
fn the_last_answer_arrives_before_the_connection_is_dropped() {
    let host = Host::new();
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let said = io::Cursor::new(version());
    let connection = Lazy { said, held_back: Vec::new(), asked: 0, arrived: Arc::clone(&arrived) };
    let share = Arc::new(open_share(host.options()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(serve(connection, share, Limits::default(), std::future::pending()));
    assert_eq!(ended.unwrap(), Ended::Disconnected);
    // The answer to a version that is agreed on is as long as the request.
    assert_eq!(arrived.lock().unwrap().len(), version().len());
}
