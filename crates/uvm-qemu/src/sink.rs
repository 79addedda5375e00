//! Where console output is copied to: a file that takes all at once, or a pipe or terminal whose reader may stall.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A file that was opened not to block. What it does not take is held back, and past a bound dropped, with a note in its
/// place.
#[derive(Debug)]
pub(crate) struct Sink {
    to: To,
    held: VecDeque<u8>,
    dropped: u64,
}

#[derive(Debug)]
enum To {
    /// A regular file, or a device like /dev/null: there is no waiting for it.
    Ready(File),
    /// What the kernel tells the readiness of.
    Polled(AsyncFd<File>),
}

/// Bytes held back for a slow reader.
const MOST_HELD: usize = 256 * 1024;

impl Sink {
    /// To be called on the VM's thread.
    pub(crate) fn new(file: File) -> Self {
        let to = match watch(file) {
            Ok(polled) => To::Polled(polled),
            Err(file) => To::Ready(file),
        };
        Self { to, held: VecDeque::new(), dropped: 0 }
    }

    /// Something is held back.
    pub(crate) fn is_behind(&self) -> bool {
        !self.held.is_empty() || self.dropped > 0
    }

    /// Writes `bytes`, or holds them back, or drops them. Does not block.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        let polled = match &mut self.to {
            To::Ready(file) => return file.write_all(bytes),
            To::Polled(polled) => polled,
        };
        let mut rest = bytes;
        let is_behind = !self.held.is_empty() || self.dropped > 0;
        while !is_behind && !rest.is_empty() {
            match write(polled.get_ref(), rest)? {
                Some(count) => rest = rest.get(count..).unwrap_or_default(),
                None => break,
            }
        }
        if self.dropped == 0 && self.held.len() + rest.len() <= MOST_HELD {
            self.held.extend(rest);
        } else if !rest.is_empty() {
            if self.dropped == 0 {
                tracing::warn!("whoever reads the console's output is too slow; some is dropped");
            }
            self.dropped += rest.len() as u64;
        }
        Ok(())
    }

    /// Waits until something of what is held back is written. Cancel-safe.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        let To::Polled(polled) = &self.to else { return Ok(()) };
        let mut ready = polled.writable().await?;
        let (front, _) = self.held.as_slices();
        match write(polled.get_ref(), front)? {
            Some(count) => {
                self.held.drain(..count);
            }
            None => ready.clear_ready(),
        }
        if self.held.is_empty() && self.dropped > 0 {
            let note =
                format!("\r\n[uvm: {} bytes of console output were dropped, nobody read them]\r\n", self.dropped);
            self.held.extend(note.bytes());
            self.dropped = 0;
        }
        Ok(())
    }
}

/// Has the kernel tell when `file` can be written to; returns a file of which it does not.
#[expect(unsafe_code, reason = "tokio cannot know that a file owns its descriptor")]
fn watch(file: File) -> Result<AsyncFd<File>, File> {
    // SAFETY: a file keeps its descriptor open and the same until it is dropped, and `AsyncFd` owns the file.
    unsafe { AsyncFd::register_with_interest(file, Interest::WRITABLE) }.map_err(|refused| refused.into_parts().0)
}

/// Writes some of `bytes`; `None` if that would block.
fn write(mut file: &File, bytes: &[u8]) -> io::Result<Option<usize>> {
    loop {
        match file.write(bytes) {
            Ok(0) if !bytes.is_empty() => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => return Ok(Some(count)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
