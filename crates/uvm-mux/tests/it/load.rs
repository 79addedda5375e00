//! Many streams, much data.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;
use uvm_mux::{Config, Mux, MuxError, MuxStream, Priority};

use crate::pair::Pair;

const LONG: Duration = Duration::from_secs(50);

/// Random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: u64) -> usize {
        (self.next() % most) as usize
    }
}

/// A checksum (FNV-1a) that tells bytes lost, doubled or out of order.
struct Checksum(u64);

impl Checksum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// Writes `bytes` random bytes in pieces of random sizes, half-closes, and gives a checksum.
async fn produce(mut to: impl AsyncWriteExt + Unpin, seed: u64, bytes: usize) -> u64 {
    let (mut random, mut sum, mut left) = (Random(seed | 1), Checksum::new(), bytes);
    while left > 0 {
        let piece: Vec<u8> = std::iter::repeat_with(|| random.next().to_le_bytes()).take(2000).flatten().collect();
        let piece = &piece[..left.min(random.below(16_000) + 1)];
        sum.add(piece);
        to.write_all(piece).await.expect("written");
        left -= piece.len();
    }
    to.shutdown().await.expect("half-closed");
    sum.0
}

/// Reads to the end of file and gives the number of bytes and their checksum.
async fn consume(mut from: impl AsyncReadExt + Unpin, seed: u64) -> (usize, u64) {
    let (mut random, mut sum, mut total) = (Random(seed | 1), Checksum::new(), 0);
    let mut buffer = vec![0; 40_000];
    loop {
        let n = from.read(&mut buffer[..=random.below(39_999)]).await.expect("read");
        if n == 0 {
            return (total, sum.0);
        }
        sum.add(&buffer[..n]);
        total += n;
    }
}

async fn joined(pair: &Pair, count: usize) -> Vec<(MuxStream, MuxStream)> {
    let mut listener = pair.guest.listen(9).expect("free");
    let mut streams = Vec::new();
    for _ in 0..count {
        let (near, far) = tokio::join!(pair.owner.dial(9), listener.accept());
        streams.push((near.expect("accepted"), far.expect("dialled")));
    }
    streams
}

#[tokio::test]
async fn two_hundred_streams_half_closed_in_both_directions_carry_exact_counts() {
    let pair = Pair::new().await;
    let mut tasks = JoinSet::new();
    for (i, (mut near, mut far)) in joined(&pair, 200).await.into_iter().enumerate() {
        tasks.spawn(async move {
            near.write_all(&vec![1; i]).await.expect("written");
            near.shutdown().await.expect("half-closed");
            let mut reply = Vec::new();
            near.read_to_end(&mut reply).await.expect("end of file");
            assert_eq!(reply.len(), 2 * i);
        });
        tasks.spawn(async move {
            let mut request = Vec::new();
            far.read_to_end(&mut request).await.expect("end of file");
            assert_eq!(request.len(), i);
            far.write_all(&vec![2; 2 * i]).await.expect("written");
            far.shutdown().await.expect("half-closed");
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    timeout(LONG, pair.owner.quiesce()).await.expect("nothing is left").expect("up");
}

#[tokio::test]
async fn a_thousand_and_twenty_four_streams_are_open_at_once_and_one_more_is_an_error() {
    let pair = Pair::new().await;
    let mut streams = joined(&pair, 1024).await;
    assert_eq!(pair.owner.dial(9).await.map(drop), Err(MuxError::TooManyStreams { limit: 1024 }));
    assert_eq!(pair.guest.dial_now(9).map(drop), Err(MuxError::TooManyStreams { limit: 1024 }));
    for (i, (near, far)) in streams.iter_mut().enumerate() {
        near.write_u32(i as u32).await.expect("written");
        assert_eq!(far.read_u32().await.expect("read"), i as u32);
    }
    streams.pop();
    timeout(LONG, async {
        while pair.owner.dial(9).await.map(drop) == Err(MuxError::TooManyStreams { limit: 1024 }) {}
    })
    .await
    .expect("the place is free again");
}

#[tokio::test]
async fn sixty_four_mib_each_way_on_sixty_four_streams_arrive_unchanged() {
    let pair = Pair::new().await;
    let mut random = Random(7);
    let mut tasks = JoinSet::new();
    for (seed, (near, far)) in joined(&pair, 64).await.into_iter().enumerate() {
        let (up, down) = (random.below(2 << 20), random.below(2 << 20));
        tasks.spawn(async move {
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            let seed = seed as u64;
            let (sent_up, got_up, sent_down, got_down) = tokio::join!(
                produce(near_write, seed + 1, up),
                consume(far_read, seed + 2),
                produce(far_write, seed + 3, down),
                consume(near_read, seed + 4),
            );
            assert_eq!((got_up, got_down), ((up, sent_up), (down, sent_down)));
        });
    }
    timeout(LONG, async {
        while let Some(done) = tasks.join_next().await {
            done.expect("no panic");
        }
        pair.guest.quiesce().await.expect("up");
    })
    .await
    .expect("in time");
}

#[tokio::test]
async fn a_stalled_reader_stalls_nobody_else() {
    let pair = Pair::new().await;
    let mut streams = joined(&pair, 4).await;
    let (mut control, mut control_far) = streams.pop().expect("a stream");
    control.set_priority(Priority::Control);
    let (mut stalled, stalled_far) = streams.pop().expect("a stream");
    let flood = tokio::spawn(async move {
        loop {
            if stalled.write_all(&[0; 1000]).await.is_err() {
                return;
            }
        }
    });
    let mut tasks = JoinSet::new();
    for (near, far) in streams {
        tasks.spawn(async move {
            let (sent, got) = tokio::join!(produce(near, 1, 4 << 20), consume(far, 2));
            assert_eq!(got, (4 << 20, sent));
        });
    }
    timeout(LONG, async {
        for i in 0..200 {
            control.write_u32(i).await.expect("written");
            assert_eq!(control_far.read_u32().await.expect("read"), i);
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no panic");
        }
    })
    .await
    .expect("the others go on");
    assert!(!flood.is_finished());
    drop(stalled_far);
    timeout(LONG, flood).await.expect("a reset ends it").expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_wrote_before_it_went_arrives_whole() {
    let pair = Pair::new().await;
    let mut listener = pair.owner.listen(5).expect("free");
    let agent = |mux: Mux| async move {
        let mut stdout = mux.dial_now(5).expect("up");
        let chunk = vec![6; 100_000];
        for _ in 0..80 {
            stdout.write_all(&chunk).await.expect("written");
        }
        stdout.shutdown().await.expect("half-closed");
    };
    let writing = tokio::spawn(agent(pair.guest.clone()));
    let mut stdout = listener.accept().await.expect("dialled");
    let mut all = Vec::new();
    timeout(LONG, stdout.read_to_end(&mut all)).await.expect("in time").expect("end of file, no reset");
    assert_eq!(all.len(), 8_000_000);
    writing.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_of_eight_equal_streams_is_starved() {
    const CHUNKS: usize = 1024;
    const CHUNK: usize = 32 * 1024;
    let pair = Pair::with(Config::default().with_max_window(64 * 1024), Config::default()).await;
    let received: Arc<[AtomicUsize; 8]> = Arc::default();
    let began = Arc::new(Barrier::new(8));
    let mut tasks = JoinSet::new();
    for (number, (mut near, mut far)) in joined(&pair, 8).await.into_iter().enumerate() {
        let (began, received) = (Arc::clone(&began), Arc::clone(&received));
        tokio::spawn(async move {
            let chunk = vec![0; CHUNK];
            began.wait().await;
            for _ in 0..CHUNKS {
                near.write_all(&chunk).await.expect("written");
            }
            // A stream that is dropped loses what is on its way. The test ends before this does.
            std::future::pending::<()>().await;
        });
        tasks.spawn(async move {
            let mut buffer = vec![0; CHUNK];
            while received[number].load(Ordering::Relaxed) < CHUNKS * CHUNK {
                let count = far.read(&mut buffer).await.expect("read");
                received[number].fetch_add(count, Ordering::Relaxed);
            }
        });
    }
    timeout(LONG, tasks.join_next()).await.expect("in time").expect("one").expect("no panic");
    // When the first is through, each of the others has had its turns: how many, is the runtime's, too. `cargo xtask bench mux`
    // has figures.
    let received = received.each_ref().map(|received| received.load(Ordering::Relaxed));
    assert!(received.iter().all(|received| *received >= CHUNKS * CHUNK / 8), "{received:?}");
}
