//! The host's end of many streams at once: both directions at the same time, each byte checked, counted up to where a
//! stream ends or is cut. The guest's end is `tests/guest`.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use uvm_test_guest::pattern::{Direction, Pattern, lengths};
use uvm_test_guest::record::{Record, Stage};
use uvm_testkit::TestResult;

/// What both ends agree on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) streams: u32,
    /// Bytes of all streams together.
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// Bytes of a read or write.
const BLOCK: usize = 32 * 1024;
/// No exchange takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

impl Plan {
    pub(crate) fn up_lengths(&self) -> Vec<u64> {
        lengths(self.seed, self.streams, self.up, Direction::Up)
    }

    pub(crate) fn down_lengths(&self) -> Vec<u64> {
        lengths(self.seed, self.streams, self.down, Direction::Down)
    }

    /// As arguments of the guest's program.
    pub(crate) fn arguments(&self) -> [String; 4] {
        [self.seed, self.streams.into(), self.up, self.down].map(|number| number.to_string())
    }
}

/// How one direction came to its end at this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// End of file was read, or all was written and the end said.
    Whole,
    Cut(ErrorKind),
    /// This end let go of the stream.
    Left,
}

/// One stream at this end, once both directions have ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) number: u32,
    pub(crate) received: u64,
    pub(crate) read_end: End,
    /// Bytes that the stream took; of the last write that failed, none.
    pub(crate) written: u64,
    pub(crate) write_end: End,
}

/// How far all streams are together.
pub(crate) struct Progress {
    streams: u64,
    /// Streams of which it is known which they are.
    begun: AtomicU64,
    received: AtomicU64,
    written: AtomicU64,
    moved: Notify,
    /// Streams with an odd number are let go of.
    leave: Notify,
}

impl Progress {
    fn new(streams: u32) -> Self {
        let (begun, received, written) = Default::default();
        Self { streams: streams.into(), begun, received, written, moved: Notify::new(), leave: Notify::new() }
    }

    fn add(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved.notify_waiters();
    }

    /// Waits until all streams have begun, and that many bytes have gone each way.
    pub(crate) async fn reaches(&self, bytes: u64) {
        loop {
            let moved = self.moved.notified();
            let [begun, received, written] =
                [&self.begun, &self.received, &self.written].map(|counter| counter.load(Ordering::Relaxed));
            if begun == self.streams && received >= bytes && written >= bytes {
                return;
            }
            moved.await;
        }
    }

    /// Lets go of every second stream, in the midst of what it carries.
    pub(crate) fn leave_odd(&self) {
        self.leave.notify_waiters();
    }
}

/// An exchange that goes on in the background.
pub(crate) struct Exchange {
    pub(crate) plan: Plan,
    pub(crate) progress: Arc<Progress>,
    streams: JoinSet<Result<Outcome, String>>,
}

impl Exchange {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, progress: Arc::new(Progress::new(plan.streams)), streams: JoinSet::new() }
    }

    /// Takes the host's end of a stream on which the guest first says which it is.
    pub(crate) fn take(&mut self, mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let (plan, progress) = (self.plan, Arc::clone(&self.progress));
        self.streams.spawn(async move {
            let number = stream.read_u32_le().await.map_err(|e| format!("no number came: {e}"))?;
            let (read, write) = tokio::io::split(stream);
            both(plan, number, read, write, &progress).await
        });
    }

    /// Takes both directions of a stream.
    pub(crate) fn take_halves(
        &mut self,
        number: u32,
        read: impl AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
    ) {
        let (plan, progress) = (self.plan, Arc::clone(&self.progress));
        self.streams.spawn(async move { both(plan, number, read, write, &progress).await });
    }

    /// Waits until every stream has ended. What came on each is what the guest sent, as far as it came.
    pub(crate) async fn ended(mut self) -> TestResult<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let all = async {
            while let Some(outcome) = self.streams.join_next().await {
                outcomes.push(outcome??);
            }
            TestResult::Ok(())
        };
        within(all).await??;
        outcomes.sort_unstable_by_key(|outcome| outcome.number);
        let numbers: Vec<u32> = outcomes.iter().map(|outcome| outcome.number).collect();
        assert_eq!(numbers, (0..self.plan.streams).collect::<Vec<_>>());
        Ok(outcomes)
    }
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> TestResult<T> {
    Ok(tokio::time::timeout(PATIENCE, what).await.map_err(|_| format!("nothing for {PATIENCE:?}"))?)
}

async fn both(
    plan: Plan,
    number: u32,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> Result<Outcome, String> {
    let length = plan.down_lengths().get(number as usize).copied().ok_or(format!("there is no stream {number}"))?;
    let (mut received, mut written) = (Pattern::new(plan.seed, number, Direction::Up), 0);
    let pattern = Pattern::new(plan.seed, number, Direction::Down);
    let left = async {
        progress.leave.notified().await;
        if number.is_multiple_of(2) {
            std::future::pending::<()>().await;
        }
    };
    progress.add(&progress.begun, 1);
    let (mut read_end, mut write_end) = (Ok(End::Left), End::Left);
    let whole = async {
        // Dropping a half that ended says nothing yet: the other goes on.
        let reading = async { read_end = receive(read, &mut received, progress).await };
        let writing = async { write_end = send(write, pattern, length, &mut written, progress).await };
        tokio::join!(reading, writing);
    };
    tokio::select! {
        () = whole => {}
        () = left => {}
    }
    let read_end = read_end.map_err(|at| format!("stream {number}: byte {at} is wrong"))?;
    Ok(Outcome { number, received: received.at(), read_end, written, write_end })
}

async fn receive(mut from: impl AsyncRead + Unpin, pattern: &mut Pattern, progress: &Progress) -> Result<End, u64> {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block).await {
            Ok(0) => return Ok(End::Whole),
            Ok(n) => {
                pattern.check(&block[..n])?;
                progress.add(&progress.received, n);
            }
            Err(e) => return Ok(End::Cut(e.kind())),
        }
    }
}

async fn send(
    mut to: impl AsyncWrite + Unpin,
    mut pattern: Pattern,
    length: u64,
    written: &mut u64,
    progress: &Progress,
) -> End {
    let mut block = vec![0; BLOCK];
    let mut all = async || -> io::Result<()> {
        while pattern.at() < length {
            let n = (length - pattern.at()).min(BLOCK as u64) as usize;
            pattern.fill(&mut block[..n]);
            let mut rest = &block[..n];
            while !rest.is_empty() {
                let taken = to.write(rest).await?;
                *written += taken as u64;
                progress.add(&progress.written, taken);
                rest = &rest[taken..];
            }
        }
        to.shutdown().await
    };
    all().await.map_or_else(|e| End::Cut(e.kind()), |()| End::Whole)
}

/// Every stream came to its end in both directions, with all bytes.
pub(crate) fn assert_whole(plan: &Plan, outcomes: &[Outcome]) {
    for ((outcome, up), down) in outcomes.iter().zip(plan.up_lengths()).zip(plan.down_lengths()) {
        assert_eq!((outcome.received, outcome.read_end), (up, End::Whole), "up: {outcome:?}");
        assert_eq!((outcome.written, outcome.write_end), (down, End::Whole), "down: {outcome:?}");
    }
}

/// What the guest's end wrote down agrees with this end: nothing is made up, nothing that the guest's kernel took is lost.
pub(crate) fn assert_agree(plan: &Plan, outcomes: &[Outcome], records: &[Record]) {
    assert_eq!(outcomes.len(), records.len());
    let lengths = plan.up_lengths().into_iter().zip(plan.down_lengths());
    for ((outcome, Record { up, down }), (to_send, to_receive)) in outcomes.iter().zip(records).zip(lengths) {
        assert!(up.stage != Stage::Wrong && down.stage != Stage::Wrong, "{outcome:?} {down:?}");
        assert!(down.bytes <= outcome.written, "{outcome:?} {down:?}");
        if outcome.read_end == End::Whole {
            // A write may have been under way when the program was killed, and not be written down.
            let most = if up.stage == Stage::Going { up.bytes + BLOCK as u64 } else { up.bytes };
            assert!((up.bytes..=most).contains(&outcome.received), "{outcome:?} {up:?}");
        }
        if up.stage == Stage::Ended {
            assert_eq!(up.bytes, to_send, "{outcome:?}");
        }
        if outcome.write_end == End::Whole && down.stage == Stage::Ended {
            assert_eq!((outcome.written, down.bytes), (to_receive, to_receive), "{outcome:?}");
        }
    }
}
