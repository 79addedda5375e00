//! The caller's standard streams. Each has a thread: they may block, and must not hold up signals.

use std::io::{self, Read, Write};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use uvm::{Process, ProcessInput, ProcessOutput};

/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;
/// Chunks that wait for a slow end.
const QUEUE: usize = 2;

/// The relays of one process.
pub(crate) struct Relay {
    outputs: JoinSet<()>,
}

impl Relay {
    /// Joins the streams of `process` with the caller's.
    pub(crate) fn start(process: &mut Process) -> Self {
        if let Some(stdin) = process.stdin.take() {
            tokio::spawn(feed(stdin));
        }
        let mut outputs = JoinSet::new();
        if let Some(stdout) = process.stdout.take() {
            outputs.spawn(drain(stdout, "stdout", io::stdout));
        }
        if let Some(stderr) = process.stderr.take() {
            outputs.spawn(drain(stderr, "stderr", io::stderr));
        }
        Self { outputs }
    }

    /// Waits until all output has been written. Cancel-safe.
    pub(crate) async fn finished(&mut self) {
        while self.outputs.join_next().await.is_some() {}
    }
}

async fn feed(mut to: ProcessInput) {
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(QUEUE);
    let reader = thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(count @ 1..) => {
                    if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // The end, or as good as it.
                Ok(_) | Err(_) => return,
            }
        }
    });
    if let Err(e) = reader {
        tracing::warn!(error = %e, "standard input is not read");
        return;
    }
    while let Some(chunk) = chunks.recv().await {
        if to.write_all(&chunk).await.is_err() {
            // Nobody reads it any more.
            return;
        }
    }
    // The process may have ended.
    let _ = to.finish().await;
}

async fn drain<W: Write>(mut from: ProcessOutput, name: &str, to: impl FnOnce() -> W + Send + 'static) {
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(QUEUE);
    let (done, written) = oneshot::channel();
    let writer = thread::Builder::new().name(name.into()).spawn(move || {
        let mut to = to();
        while let Some(chunk) = chunks.blocking_recv() {
            if to.write_all(&chunk).and_then(|()| to.flush()).is_err() {
                // Nobody reads it any more: so learns the process.
                break;
            }
        }
        // Nobody may wait for it.
        let _ = done.send(());
    });
    if let Err(e) = writer {
        tracing::warn!(error = %e, name, "output is not written");
        return;
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await {
            Ok(count @ 1..) => {
                if sender.send(buffer[..count].to_vec()).await.is_err() {
                    break;
                }
            }
            Ok(_) => break,
            Err(e) => {
                tracing::debug!(error = %e, name, "output was cut");
                break;
            }
        }
    }
    drop((from, sender));
    let _ = written.await;
}
