//! The host side of the bridge: calls to the guest's agent, each with a deadline of its own.
//!
//! One task reads and one writes. A call that expires, or whose request cannot be written, fails alone; what the guest
//! sends that nobody asked for is dropped. Only bytes that are no message, and the end of the connection, close the bridge,
//! and then every call, open or new, fails with the same cause.

mod containers;
mod error;
mod pending;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use uvm_platform::{BoxFuture, GuestStream};
use uvm_wire::header::MessageClass;
use uvm_wire::{
    ContainerId, ContainerNotification, FrameDecoder, MessageType, RequestBase, Rpc, SizeLimit, decode_response,
    encode_request,
};

pub use containers::ContainerEnd;
pub(crate) use containers::Registration;
pub use error::{BridgeClosed, BridgeError};

use containers::Containers;
use pending::Pending;

/// Frames that wait to be written; whoever calls then waits.
const WRITE_QUEUE: usize = 64;

/// A bridge. Clones share it; it closes when the last one is dropped.
#[derive(Clone)]
pub(crate) struct Bridge {
    shared: Arc<Shared>,
    writer: mpsc::Sender<Vec<u8>>,
    _alive: Arc<Alive>,
}

struct Shared {
    pending: Mutex<Pending>,
    containers: Mutex<Containers>,
    closed: watch::Sender<bool>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed_why(&self) -> Arc<BridgeClosed> {
        self.pending().closed().unwrap_or_else(|| Arc::new(BridgeClosed::ByHost))
    }

    fn close(&self, why: BridgeClosed) {
        let text = why.to_string();
        if !self.pending().close(why) {
            return;
        }
        tracing::debug!(why = text, "bridge closed");
        // What ends with the bridge ends after its reason is known.
        self.containers().bridge_closed();
        self.closed.send_replace(true);
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bridge")
    }
}

/// Tells the tasks that nobody uses the bridge any more.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.close(BridgeClosed::ByHost);
    }
}

impl Bridge {
    /// A bridge over `stream`, whose tasks run by `spawn`.
    pub(crate) fn new(stream: GuestStream, spawn: impl Fn(BoxFuture<'static, ()>)) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (writer, frames) = mpsc::channel(WRITE_QUEUE);
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            containers: Mutex::default(),
            closed: watch::Sender::new(false),
        });
        spawn(Box::pin(read_all(read, Arc::clone(&shared))));
        spawn(Box::pin(write_all(write, frames, Arc::clone(&shared))));
        Self { _alive: Arc::new(Alive(Arc::clone(&shared))), shared, writer }
    }

    /// Calls the guest and waits for its answer, at most `deadline` from the moment the call is made.
    ///
    /// Cancel-safe: the request may have been sent; its answer is dropped.
    pub(crate) async fn call<R: Rpc>(
        &self,
        container: ContainerId,
        call: &R,
        deadline: Option<Duration>,
    ) -> Result<R::Reply, BridgeError> {
        let message = R::MESSAGE_TYPE;
        let closed = |source| BridgeError::Closed { call: message, source };
        let (id, answer) = self.shared.pending().enter().map_err(closed)?;
        let _leaver = Leaver { shared: &self.shared, id };
        let base = RequestBase::new(container);
        let frame = encode_request(id, &base, call, SizeLimit::FROM_HOST)
            .map_err(|source| BridgeError::Encode { call: message, source })?;
        let exchange = async {
            // A writer that is gone has said why, as has a reader that dropped the call.
            if self.writer.send(frame).await.is_ok()
                && let Ok(answer) = answer.await
            {
                return Ok(answer);
            }
            Err(closed(self.shared.closed_why()))
        };
        let answer = match deadline {
            None => exchange.await,
            Some(waited) => match tokio::time::timeout(waited, exchange).await {
                Ok(result) => result,
                Err(_) => return Err(BridgeError::Timeout { call: message, waited }),
            },
        };
        let (answer_type, payload) = answer?;
        let response = decode_response::<R>(answer_type, &payload)
            .map_err(|source| BridgeError::Answer { call: message, source: Box::new(source) })?;
        response.outcome.map_err(|failure| BridgeError::Failed(Box::new(failure)))
    }

    /// Wants to know when the container `id` ends, which is about to be made. `None`: somebody has made it.
    pub(crate) fn register_maker(&self, id: &ContainerId) -> Option<Registration> {
        let ended = self.shared.containers().register_maker(id)?;
        Some(self.registration(id, ended))
    }

    /// Wants to know when the container `id` ends, which may be there.
    pub(crate) fn register(&self, id: &ContainerId) -> Registration {
        let ended = self.shared.containers().register_other(id);
        self.registration(id, ended)
    }

    fn registration(&self, id: &ContainerId, ended: watch::Sender<Option<ContainerEnd>>) -> Registration {
        let shared = Arc::clone(&self.shared);
        let unregister = move |r: &Registration| shared.containers().unregister(r.id(), r.sender());
        Registration::new(id.clone(), ended, unregister)
    }

    /// The guest has forgotten the container `id`: it has ended for whoever waits.
    pub(crate) fn container_deleted(&self, id: &ContainerId) {
        self.shared.containers().deleted(id);
    }

    /// Calls the guest as [`call`](Self::call) does. If no answer comes in time but the call succeeds after all, `undo` gets
    /// the reply: what it began is there, and nobody knows. It runs by `spawn`.
    pub(crate) async fn call_or_undo<R, U>(
        &self,
        container: ContainerId,
        call: R,
        waited: Duration,
        spawn: impl FnOnce(BoxFuture<'static, ()>),
        undo: impl FnOnce(R::Reply) -> U + Send + 'static,
    ) -> Result<R::Reply, BridgeError>
    where
        R: Rpc<Reply: Send> + Send + Sync + 'static,
        U: Future<Output = ()> + Send,
    {
        let bridge = self.clone();
        let mut exchange = Box::pin(async move { bridge.call(container, &call, None).await });
        tokio::select! {
            biased;
            result = &mut exchange => return result,
            () = tokio::time::sleep(waited) => {}
        }
        spawn(Box::pin(async move {
            if let Ok(reply) = exchange.await {
                undo(reply).await;
            }
        }));
        Err(BridgeError::Timeout { call: R::MESSAGE_TYPE, waited })
    }

    /// Waits until it is closed, and tells why. Does not keep it open.
    pub(crate) fn closed(&self) -> impl Future<Output = Arc<BridgeClosed>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move {
            // The sender is alive: `shared` holds it.
            let _ = shared.closed.subscribe().wait_for(|closed| *closed).await;
            shared.closed_why()
        }
    }

    /// Closes it: every call fails.
    pub(crate) fn close(&self) {
        self.shared.close(BridgeClosed::ByHost);
    }
}

/// Takes a call off the table when its caller has its answer or gives up.
struct Leaver<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Leaver<'_> {
    fn drop(&mut self) {
        self.shared.pending().leave(self.id);
    }
}

async fn read_all(mut stream: ReadHalf<GuestStream>, shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    let why = tokio::select! {
        why = read_messages(&mut stream, &shared) => why,
        _ = closed.wait_for(|closed| *closed) => return,
    };
    shared.close(why);
}

async fn read_messages(stream: &mut ReadHalf<GuestStream>, shared: &Shared) -> BridgeClosed {
    let mut decoder = FrameDecoder::new(SizeLimit::FROM_GUEST);
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let mut bytes = match stream.read(&mut buffer).await {
            Ok(0) => return BridgeClosed::ByGuest,
            Ok(count) => &buffer[..count],
            Err(e) => return BridgeClosed::Io(e),
        };
        loop {
            match decoder.next_frame(&mut bytes) {
                Ok(Some(frame)) => receive(shared, frame.header.message_type, frame.header.id, frame.payload),
                Ok(None) => break,
                Err(e) => return BridgeClosed::Frame(e),
            }
        }
    }
}

fn receive(shared: &Shared, message_type: MessageType, id: u64, payload: &[u8]) {
    if message_type.class() != Some(MessageClass::Notification) {
        if !shared.pending().answer(id, (message_type, payload.to_vec())) {
            tracing::debug!(%message_type, id, "the guest answered a call that nobody waits for");
        }
        return;
    }
    match ContainerNotification::decode(message_type, payload) {
        Ok(notification) => shared.containers().ended(notification),
        Err(e) => {
            tracing::warn!(%message_type, error = crate::error::chain(&e), "the guest sent a notification that makes no sense");
        }
    }
}

async fn write_all(mut stream: WriteHalf<GuestStream>, mut frames: mpsc::Receiver<Vec<u8>>, shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    let write = async {
        while let Some(frame) = frames.recv().await {
            stream.write_all(&frame).await?;
            stream.flush().await?;
        }
        Ok::<(), io::Error>(())
    };
    let result = tokio::select! {
        result = write => result,
        _ = closed.wait_for(|closed| *closed) => Ok(()),
    };
    match result {
        // Nobody calls any more: the guest is told, if it is still there.
        Ok(()) => drop(stream.shutdown().await),
        Err(e) => shared.close(BridgeClosed::Io(e)),
    }
}
