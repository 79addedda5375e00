//! A guest that tests dial from.

use std::task::{Context, Poll};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use uvm_platform::stream::PollAccept;
use uvm_platform::{GuestListener, GuestStream, PlatformError, Port};

/// Hands on what a test dials.
struct Dialled(mpsc::UnboundedReceiver<DuplexStream>);

impl PollAccept for Dialled {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        let gone = || PlatformError::host("accept", "the test is over");
        self.0.poll_recv(cx).map(|stream| stream.map(GuestStream::new).ok_or_else(gone))
    }
}

/// A listener, and where its streams come from; it ends when that is dropped.
pub(crate) fn listen(port: Port) -> (mpsc::UnboundedSender<DuplexStream>, GuestListener) {
    let (dial, dialled) = mpsc::unbounded_channel();
    (dial, GuestListener::new(port, Dialled(dialled)))
}
