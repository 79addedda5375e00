//! The caller's standard streams. Each has a thread: they may block, and must not hold up signals.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use uvm::{Process, ProcessInput};

use crate::report;

use super::settle::{self, Settling};

/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;
/// Chunks that wait for a slow end.
const QUEUE: usize = 2;

/// The relays of one process.
#[derive(Default)]
pub(crate) struct Relay {
    outputs: JoinSet<()>,
    flows: Vec<Arc<Flow>>,
}

/// How far outputs have come after the end of their process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// All has been written.
    Finished,
    /// All that the process itself wrote has been written; others in the guest hold the output open.
    HeldOpen,
}

/// What one relay does, for who watches it.
#[derive(Default)]
struct Flow {
    /// Bytes that came from the guest.
    came: AtomicU64,
    /// Bytes of them that the caller's stream took.
    written: AtomicU64,
}

impl Flow {
    /// What came so far, and whether some of it waits for the caller to take it.
    fn look(&self) -> (u64, bool) {
        // In this order: what is written has come before.
        let written = self.written.load(Ordering::Acquire);
        let came = self.came.load(Ordering::Acquire);
        (came, came != written)
    }
}

impl Relay {
    /// Joins the streams of `process` with the caller's.
    pub(crate) fn start(process: &mut Process) -> Self {
        if let Some(stdin) = process.stdin.take() {
            tokio::spawn(feed(stdin));
        }
        let mut relay = Self::default();
        if let Some(stdout) = process.stdout.take() {
            relay.output(stdout, "stdout", io::stdout);
        }
        if let Some(stderr) = process.stderr.take() {
            relay.output(stderr, "stderr", io::stderr);
        }
        relay
    }

    fn output<W: Write + 'static>(
        &mut self,
        from: impl AsyncRead + Unpin + Send + 'static,
        name: &'static str,
        to: impl FnOnce() -> W + Send + 'static,
    ) {
        let flow = Arc::<Flow>::default();
        self.flows.push(Arc::clone(&flow));
        self.outputs.spawn(drain(from, name, to, flow));
    }

    /// Waits until all output has been written. Cancel-safe.
    pub(crate) async fn finished(&mut self) {
        while self.outputs.join_next().await.is_some() {}
    }

    /// Waits until all that the process wrote has been written, however slowly the caller takes it. To be called once the
    /// process has ended.
    pub(crate) async fn settled(&mut self) -> Settled {
        let flows = self.flows.clone();
        let mut settling: Vec<Settling> = flows.iter().map(|flow| Settling::from(flow.look().0)).collect();
        let held_open = async {
            loop {
                tokio::time::sleep(settle::TICK).await;
                let mut all = true;
                for (settling, flow) in settling.iter_mut().zip(&flows) {
                    let (came, waits) = flow.look();
                    all &= settling.tick(came, waits);
                }
                if all {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.finished() => Settled::Finished,
            () = held_open => Settled::HeldOpen,
        }
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
        tracing::warn!(error = report::chain(&e), "standard input is not read");
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

async fn drain<W: Write>(
    mut from: impl AsyncRead + Unpin,
    name: &'static str,
    to: impl FnOnce() -> W + Send + 'static,
    flow: Arc<Flow>,
) {
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(QUEUE);
    let (done, written) = oneshot::channel();
    let taken = Arc::clone(&flow);
    let writer = thread::Builder::new().name(name.into()).spawn(move || {
        let mut to = to();
        while let Some(chunk) = chunks.blocking_recv() {
            if to.write_all(&chunk).and_then(|()| to.flush()).is_err() {
                // Nobody reads it any more: so learns the process.
                break;
            }
            taken.written.fetch_add(chunk.len() as u64, Ordering::AcqRel);
        }
        drop(chunks);
        // Nobody may wait for it.
        let _ = done.send(());
    });
    if let Err(e) = writer {
        tracing::warn!(error = report::chain(&e), name, "output is not written");
        return;
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = sender.closed() => break,
        };
        match read {
            Ok(count @ 1..) => {
                flow.came.fetch_add(count as u64, Ordering::AcqRel);
                if sender.send(buffer[..count].to_vec()).await.is_err() {
                    break;
                }
            }
            Ok(_) => break,
            Err(e) => {
                tracing::debug!(error = report::chain(&e), name, "output was cut");
                break;
            }
        }
    }
    drop((from, sender));
    let _ = written.await;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc as blocking;
    use std::time::Duration;

    use super::*;

    /// A caller that takes a piece each time it is let.
    struct Slow {
        let_through: blocking::Receiver<()>,
        taken: blocking::Sender<usize>,
    }

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.let_through.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            let _ = self.taken.send(buf.len());
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn relay_to_slow() -> (Relay, tokio::io::DuplexStream, blocking::Sender<()>, blocking::Receiver<usize>) {
        let (guest, host) = tokio::io::duplex(1 << 20);
        let ((let_go, let_through), (taken, took)) = (blocking::channel(), blocking::channel());
        let mut relay = Relay::default();
        relay.output(host, "slow", move || Slow { let_through, taken });
        (relay, guest, let_go, took)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_stalls_is_waited_for_and_gets_all() {
        let (mut relay, mut guest, let_go, took) = relay_to_slow();
        guest.write_all(&vec![b'x'; 5 * CHUNK]).await.expect("there is room");
        assert!(tokio::time::timeout(HOUR, relay.settled()).await.is_err(), "it waits for its caller");
        for _ in 0..5 {
            let_go.send(()).expect("it writes");
        }
        // Others hold the output open.
        assert_eq!(relay.settled().await, Settled::HeldOpen);
        assert_eq!(took.try_iter().sum::<usize>(), 5 * CHUNK);
        drop(guest);
        relay.finished().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_output_that_ends_is_finished_once_it_is_written() {
        let (mut relay, mut guest, let_go, _took) = relay_to_slow();
        guest.write_all(b"all").await.expect("there is room");
        drop(guest);
        assert!(tokio::time::timeout(HOUR, relay.settled()).await.is_err(), "it waits for its caller");
        let_go.send(()).expect("it writes");
        // The writer is a thread of its own: the paused clock would run ahead of it.
        relay.finished().await;
        assert_eq!(relay.settled().await, Settled::Finished);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_ends_the_output_in_the_guest() {
        let (mut relay, mut guest, let_go, _took) = relay_to_slow();
        guest.write_all(b"one").await.expect("there is room");
        drop(let_go);
        relay.finished().await;
        assert!(guest.write_all(b"two").await.is_err(), "though it wrote nothing more");
    }
}
