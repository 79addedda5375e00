//! One client's session: what the reader, the writer and the threads share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::buffers::{Buffer, Buffers, SMALL};
use super::fid::{Fids, Memory};
use super::operations;
use super::pool::{Gone, Pool};
use super::tags::Tags;
use crate::error::ServeError;
use crate::limits::{LEAST_MESSAGE_SIZE, Limits};
use crate::protocol::{Name, Response, flags};
use crate::share::Exports;

/// What is common to one client's requests.
pub(crate) struct Session {
    /// Tells sessions apart.
    pub(super) number: u64,
    pub(super) limits: Limits,
    pub(super) exports: Arc<dyn Exports>,
    pub(super) fids: Fids,
    pub(super) xattr_memory: Memory,
    /// Agreed on; 0 before that.
    message_size: AtomicU32,
    buffers: Mutex<Arc<Buffers>>,
    tags: Tags<Flush>,
    pool: Pool<Job>,
    /// One for each request whose answer is not written yet.
    slots: Arc<Semaphore>,
    /// Their bytes, and those of their answers.
    bytes: Arc<Semaphore>,
    /// One for each flush whose answer is not written yet.
    flush_slots: Arc<Semaphore>,
    outbox: mpsc::UnboundedSender<Outgoing>,
    fate: watch::Sender<Fate>,
}

/// What others decide about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    ShareClosed,
    Panicked,
}

/// What a thread does.
#[derive(Debug)]
pub(super) enum Job {
    /// Serves a request.
    Serve(Asked),
    /// Closes files that are not the client's any more, and drops the sender.
    CloseFiles { _done: oneshot::Sender<()> },
}

/// A request on its way to a thread.
#[derive(Debug)]
pub(super) struct Asked {
    tag: u16,
    number: u64,
    frame: Buffer,
    permits: Permits,
}

#[derive(Debug)]
struct Permits {
    _slot: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// A flush that is to be answered.
#[derive(Debug)]
struct Flush {
    tag: u16,
    slot: OwnedSemaphorePermit,
}

/// An answer on its way to the client.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) message: Buffer,
    _permits: Held,
}

/// Given back when the answer is written, or will never be.
#[derive(Debug)]
enum Held {
    Request {
        _permits: Permits,
    },
    Flush {
        _slot: OwnedSemaphorePermit,
    },
    /// Of a session's beginning, of which there is one at a time: it holds every slot, so that the next begins only once
    /// this answer is written.
    Version {
        _all: OwnedSemaphorePermit,
    },
}

/// Flushes on their way. One costs a hundred bytes.
const FLUSHES: usize = 256;

/// Bytes of messages on their way, and of buffers that wait for the next ones. What one request and its answer take goes
/// through by itself.
fn memory_of(limits: &Limits) -> usize {
    (limits.memory as usize).max(2 * limits.message_size as usize + 2 * SMALL)
}

impl Session {
    /// A session, the answers to write to its client, and what tells when its threads have ended.
    pub(super) fn new(
        exports: Arc<dyn Exports>,
        limits: Limits,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Outgoing>, Gone) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let (outbox, answers) = mpsc::unbounded_channel();
        let (pool, gone) = Pool::new(limits.threads);
        let memory = memory_of(&limits);
        let session = Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            limits,
            exports,
            fids: Fids::new(limits.fids, limits.locks),
            xattr_memory: Memory::new(limits.xattr_bytes),
            message_size: AtomicU32::new(0),
            buffers: Mutex::new(Buffers::new(limits.message_size as usize, memory)),
            tags: Tags::new(),
            pool,
            slots: Arc::new(Semaphore::new(limits.requests as usize)),
            bytes: Arc::new(Semaphore::new(memory)),
            flush_slots: Arc::new(Semaphore::new(FLUSHES)),
            outbox,
            fate: watch::Sender::new(Fate::GoesOn),
        };
        (Arc::new(session), answers, gone)
    }

    /// The longest message, in bytes.
    pub(super) fn message_size(&self) -> usize {
        match self.message_size.load(Ordering::Relaxed) {
            0 => self.limits.message_size as usize,
            agreed => agreed as usize,
        }
    }

    pub(super) fn has_begun(&self) -> bool {
        self.message_size.load(Ordering::Relaxed) != 0
    }

    pub(super) fn buffers(&self) -> Arc<Buffers> {
        Arc::clone(&self.buffers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has a request served. Waits while too many are.
    pub(super) async fn submit(self: &Arc<Self>, tag: u16, frame: Buffer) -> Result<(), ServeError> {
        let buffers = self.buffers();
        let answer = operations::longest_answer(frame.as_slice()).min(self.message_size());
        let cost = buffers.cost(frame.as_slice().len()) + buffers.cost(answer);
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("never closed");
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(cost as u32).await.expect("never closed");
        let number = self.tags.begin(tag).ok_or(ServeError::TagInUse { tag })?;
        let job = Job::Serve(Asked { tag, number, frame, permits: Permits { _slot: slot, _bytes: bytes } });
        Pool::submit(self, |session| &session.pool, job, Self::run).map_err(|source| ServeError::Thread { source })
    }

    /// On a thread.
    fn run(self: &Arc<Self>, job: Job) {
        match job {
            Job::Serve(asked) => self.serve(asked),
            Job::CloseFiles { _done } => self.fids.close_retired(),
        }
    }

    /// Serves a request and sends the answer.
    fn serve(self: &Arc<Self>, asked: Asked) {
        let Asked { tag, number, frame, permits } = asked;
        if !self.tags.run(tag, number) {
            return;
        }
        let answer = catch_unwind(AssertUnwindSafe(|| operations::answer(self, tag, frame.as_slice())));
        drop(frame);
        let Ok(message) = answer else {
            self.fate.send_replace(Fate::Panicked);
            return;
        };
        self.tags.finish(tag, |flushes| {
            self.send(Outgoing { message, _permits: Held::Request { _permits: permits } });
            for flush in flushes {
                self.answer_flush(flush);
            }
        });
    }

    /// Has a request forgotten. Waits while too many flushes are not answered.
    pub(super) async fn flush(&self, tag: u16, old_tag: u16) {
        let slot = Arc::clone(&self.flush_slots).acquire_owned().await.expect("never closed");
        self.tags.flush(old_tag, Flush { tag, slot }, |flush| self.answer_flush(flush));
    }

    fn answer_flush(&self, Flush { tag, slot }: Flush) {
        let message = encoded(tag, &Response::Flush {});
        self.send(Outgoing { message, _permits: Held::Flush { _slot: slot } });
    }

    fn send(&self, outgoing: Outgoing) {
        // Nobody writes any more: the session has ended.
        let _ = self.outbox.send(outgoing);
    }

    /// Begins the session, or begins it anew: nothing of the old one is left.
    pub(super) async fn begin(
        self: &Arc<Self>,
        tag: u16,
        message_size: u32,
        version: Name<'_>,
    ) -> Result<(), ServeError> {
        let stuck = || ServeError::Stuck { waited: self.limits.drain };
        let all = self.settle().await.ok_or_else(stuck)?;
        if self.fids.retire_all() {
            let (done, closed) = oneshot::channel();
            let submitted = Pool::submit(self, |session| &session.pool, Job::CloseFiles { _done: done }, Self::run);
            submitted.map_err(|source| ServeError::Thread { source })?;
            // What it says is that it is dropped.
            let _ = timeout(self.limits.drain, closed).await.map_err(|_| stuck())?;
        }
        let agreed = message_size.min(self.limits.message_size);
        let known = version.as_bytes() == flags::VERSION;
        let response = if agreed < LEAST_MESSAGE_SIZE {
            Response::Error { errno: rustix::io::Errno::INVAL.raw_os_error().cast_unsigned() }
        } else {
            let spoken = if known { flags::VERSION } else { flags::VERSION_UNKNOWN };
            Response::Version { message_size: agreed, version: Name::new(spoken).expect("a short word") }
        };
        let begins = known && agreed >= LEAST_MESSAGE_SIZE;
        self.message_size.store(if begins { agreed } else { 0 }, Ordering::Relaxed);
        *self.buffers.lock().unwrap_or_else(PoisonError::into_inner) =
            Buffers::new(self.message_size(), memory_of(&self.limits));
        self.send(Outgoing { message: encoded(tag, &response), _permits: Held::Version { _all: all } });
        Ok(())
    }

    /// Waits until all answers are written, and keeps further requests waiting while the permit is held. `None`: they were
    /// not in time.
    pub(super) async fn settle(&self) -> Option<OwnedSemaphorePermit> {
        let all = Arc::clone(&self.slots).acquire_many_owned(self.limits.requests);
        Some(timeout(self.limits.drain, all).await.ok()?.expect("never closed"))
    }

    /// Ends the session from elsewhere.
    pub(crate) fn share_closed(&self) {
        self.fate.send_if_modified(|fate| {
            let ends = *fate == Fate::GoesOn;
            if ends {
                *fate = Fate::ShareClosed;
            }
            ends
        });
    }

    /// Waits until others have ended the session.
    pub(super) async fn decided(&self) -> Fate {
        let mut fate = self.fate.subscribe();
        let decided = fate.wait_for(|fate| *fate != Fate::GoesOn).await.map(|fate| *fate);
        decided.expect("the session holds the sender")
    }

    /// Forgets requests that wait, releases what the client holds and lets the threads end. Does not block: the last thing
    /// that they do is to close its files.
    pub(super) fn close(self: &Arc<Self>) {
        let last = self.fids.close().then(|| Job::CloseFiles { _done: oneshot::channel().0 });
        if let Err(last) = Pool::close(self, |session| &session.pool, last, Self::run) {
            // Without a thread, it is done here.
            self.run(last);
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A whole message.
pub(super) fn encoded(tag: u16, response: &Response<'_>) -> Buffer {
    let mut message = Vec::with_capacity(64);
    response.encode(tag, &mut message);
    message.into()
}
