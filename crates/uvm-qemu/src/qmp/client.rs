//! The QMP client: commands with ids and deadlines, descriptors by `SCM_RIGHTS`, events fanned out.
//!
//! A reader task owns the receiving half and hands each answer to the command it belongs to. Writers share the socket
//! under a lock, so that a descriptor travels with the bytes of its own command.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, oneshot, watch};

use super::codec::{self, MAX_LINE, Message, QemuVersion, QmpError, QmpEvent};
use crate::step_limit::StepLimit;

/// How many events a slow listener may lag behind before it misses some.
const EVENT_BACKLOG: usize = 256;

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Refused(#[from] QmpError),
    #[error("QMP command {command}: no answer within {waited:?}")]
    Timeout { command: &'static str, waited: Duration },
    #[error("QMP command {command}: the connection to QEMU is closed")]
    Closed { command: &'static str },
    #[error("QMP command {command}: cannot send it")]
    Send { command: &'static str, source: io::Error },
}

type Answer = Result<Value, (String, String)>;

/// A connection to one QEMU. Clones share it.
#[derive(Clone)]
pub(crate) struct Qmp {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    socket: Arc<UnixStream>,
    /// Held while one command's bytes and descriptors are sent.
    sending: tokio::sync::Mutex<()>,
    open: Mutex<Open>,
    events: broadcast::Sender<QmpEvent>,
    phase: watch::Sender<Phase>,
}

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Silent,
    Greeted(QemuVersion),
    /// QEMU is gone; everything it said has been handed on.
    Closed,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    closed: bool,
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a waiting command off the list when its caller gives up.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.open().waiting.remove(&self.id);
    }
}

impl Qmp {
    /// Starts to speak over `socket`; each command gets at most `deadline`, or what is left of its change's limit.
    pub(crate) fn new(socket: UnixStream, deadline: Duration) -> Self {
        let shared = Arc::new(Shared {
            socket: Arc::new(socket),
            sending: tokio::sync::Mutex::new(()),
            open: Mutex::default(),
            events: broadcast::Sender::new(EVENT_BACKLOG),
            phase: watch::Sender::new(Phase::Silent),
        });
        tokio::spawn(read(Arc::clone(&shared)));
        Self { shared, deadline }
    }

    /// Waits for QEMU's greeting and accepts it. To be called once, first.
    pub(crate) async fn negotiate(&self) -> Result<QemuVersion, CallError> {
        let command = "qmp_capabilities";
        let mut phase = self.shared.phase.subscribe();
        let greeted = phase.wait_for(|phase| *phase != Phase::Silent);
        let version = match tokio::time::timeout(self.deadline, greeted).await.map(|phase| phase.map(|p| *p)) {
            Ok(Ok(Phase::Greeted(version))) => version,
            Ok(_) => return Err(CallError::Closed { command }),
            Err(_) => return Err(CallError::Timeout { command, waited: self.deadline }),
        };
        self.call(command, Value::Null).await?;
        Ok(version)
    }

    /// Returns once QEMU has closed the connection and all it said has been handed on.
    pub(crate) async fn closed(&self) {
        // The sender lives in `self`.
        let _ = self.shared.phase.subscribe().wait_for(|phase| *phase == Phase::Closed).await;
    }

    /// Sends a command and waits for its answer. Cancel-safe: a late answer is dropped.
    pub(crate) async fn call(&self, command: &'static str, arguments: Value) -> Result<Value, CallError> {
        self.call_with_fds(command, arguments, &[]).await
    }

    /// As [`call`](Self::call), with descriptors for QEMU (`add-fd`, `getfd`).
    pub(crate) async fn call_with_fds(
        &self,
        command: &'static str,
        arguments: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, CallError> {
        let limit = StepLimit::of(self.deadline);
        let late = CallError::Timeout { command, waited: limit.limit };
        if limit.left().is_zero() {
            return Err(late);
        }
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut open = self.shared.open();
            if open.closed {
                return Err(CallError::Closed { command });
            }
            open.next_id += 1;
            let id = open.next_id;
            open.waiting.insert(id, sender);
            id
        };
        let _waiting = Waiting { shared: &self.shared, id };
        let exchange = async {
            let line = codec::encode(id, command, &arguments);
            self.send(&line, fds).await.map_err(|source| CallError::Send { command, source })?;
            match answer.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err((class, desc))) => Err(QmpError { command: command.to_owned(), class, desc }.into()),
                Err(_) => Err(CallError::Closed { command }),
            }
        };
        limit.keep(exchange).await.unwrap_or(Err(late))
    }

    /// Events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<QmpEvent> {
        self.shared.events.subscribe()
    }

    async fn send(&self, line: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _turn = self.shared.sending.lock().await;
        let socket = &self.shared.socket;
        let mut sent = 0;
        while let Some(rest) = line.get(sent..).filter(|rest| !rest.is_empty()) {
            socket.writable().await?;
            // Descriptors go with the first byte.
            let fds = if sent == 0 { fds } else { &[] };
            match socket.try_io(Interest::WRITABLE, || send_once(socket.as_fd(), rest, fds)) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

fn send_once(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1)) * fds.len()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one command"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

async fn read(shared: Arc<Shared>) {
    let mut reader = BufReader::new(SocketReader(Arc::clone(&shared.socket)));
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = MAX_LINE as u64;
        match (&mut reader).take(limit).read_until(b'\n', &mut line).await {
            Ok(n) if n > 0 && line.last() == Some(&b'\n') => {}
            // End of file, a read error, or a line beyond the cap: QEMU is gone or not itself.
            _ => break,
        }
        match codec::decode(&line) {
            Some(Message::Greeting(version)) => {
                shared.phase.send_replace(Phase::Greeted(version));
            }
            Some(Message::Event(event)) => {
                // Without listeners there is nobody to tell.
                let _ = shared.events.send(event);
            }
            Some(Message::Return { id, value }) => answer(&shared, id, Ok(value)),
            Some(Message::Error { id: Some(id), class, desc }) => answer(&shared, id, Err((class, desc))),
            Some(Message::Error { id: None, class, desc }) => tracing::warn!(class, desc, "QMP error without an id"),
            None => tracing::warn!(bytes = line.len(), "QMP message not understood"),
        }
    }
    let mut open = shared.open();
    open.closed = true;
    // Dropping the senders tells every waiting command.
    open.waiting.clear();
    drop(open);
    shared.phase.send_replace(Phase::Closed);
}

fn answer(shared: &Shared, id: u64, answer: Answer) {
    if let Some(sender) = shared.open().waiting.remove(&id) {
        // The caller may have given up between our lock and this line.
        let _ = sender.send(answer);
    }
}

/// Reads from a shared socket, so that writers need no split and keep access to the raw descriptor.
struct SocketReader(Arc<UnixStream>);

impl tokio::io::AsyncRead for SocketReader {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        loop {
            std::task::ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return std::task::Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return std::task::Poll::Ready(Err(e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::step_limit::within;

    const LONG: Duration = Duration::from_secs(30);

    /// Reads one line, and no byte of the next.
    async fn line(socket: &mut UnixStream) -> Value {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.push(socket.read_u8().await.expect("a byte"));
        }
        serde_json::from_slice(&line).expect("JSON")
    }

    #[tokio::test]
    async fn answers_find_their_command_in_any_order() {
        let (ours, mut qemu) = UnixStream::pair().expect("a pair");
        let qmp = Qmp::new(ours, LONG);
        let script = tokio::spawn(async move {
            let greeting = br#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":1}}}}"#;
            qemu.write_all(greeting).await.expect("greeting");
            qemu.write_all(b"\n").await.expect("line end");
            assert_eq!(line(&mut qemu).await["execute"], "qmp_capabilities");
            qemu.write_all(b"{\"return\":{},\"id\":1}\n").await.expect("answer");
            let mut ids = vec![];
            for _ in 0..2 {
                ids.push(line(&mut qemu).await["id"].as_u64().expect("an id"));
            }
            qemu.write_all(format!("{{\"return\":\"last\",\"id\":{}}}\n", ids[1]).as_bytes()).await.expect("answer");
            let no = format!("{{\"id\":{},\"error\":{{\"class\":\"C\",\"desc\":\"D\"}}}}\n", ids[0]);
            qemu.write_all(no.as_bytes()).await.expect("answer");
            qemu
        });
        assert_eq!(qmp.negotiate().await.expect("negotiated"), QemuVersion(7, 2, 1));
        let first = qmp.call("first", Value::Null);
        tokio::pin!(first);
        // Polled once, it has been sent; the second goes out behind it.
        assert!(futures_poll_once(first.as_mut()).await.is_none());
        assert_eq!(qmp.call("second", Value::Null).await.expect("answered"), "last");
        let error = first.await.expect_err("refused");
        assert_eq!(error.to_string(), "QMP command first: C: D");
        drop(script.await);
    }

    async fn futures_poll_once<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match future.as_mut().poll(cx) {
                std::task::Poll::Ready(value) => Some(value),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    #[tokio::test]
    async fn a_silent_qemu_fails_the_call_in_time_and_forgets_it() {
        let (ours, _qemu) = UnixStream::pair().expect("a pair");
        let qmp = Qmp::new(ours, Duration::from_millis(20));
        assert!(matches!(qmp.negotiate().await, Err(CallError::Timeout { .. })));
        assert!(matches!(qmp.call("cont", Value::Null).await, Err(CallError::Timeout { command: "cont", .. })));
        assert!(qmp.shared.open().waiting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_commands_of_a_change_share_its_limit_and_none_is_begun_after_it() {
        let (ours, mut qemu) = UnixStream::pair().expect("a pair");
        let qmp = Qmp::new(ours, LONG);
        let heard = tokio::spawn(async move {
            let mut commands = Vec::new();
            while commands.len() < 2 {
                let command = line(&mut qemu).await;
                commands.push(command["execute"].clone());
                if commands.len() == 1 {
                    tokio::time::sleep(LONG * 2 / 3).await;
                    let answer = format!("{{\"return\":{{}},\"id\":{}}}\n", command["id"]);
                    qemu.write_all(answer.as_bytes()).await.expect("answer");
                }
            }
            let mut rest = String::new();
            qemu.read_to_string(&mut rest).await.expect("the end");
            assert_eq!(rest, "");
            commands
        });
        let began = tokio::time::Instant::now();
        within(LONG, async {
            qmp.call("first", Value::Null).await.expect("answered in time");
            for late in ["second", "third"] {
                let error = qmp.call(late, Value::Null).await.expect_err("no answer");
                assert!(matches!(error, CallError::Timeout { command, waited: LONG } if command == late), "{error}");
                assert_eq!(began.elapsed(), LONG, "{late}");
            }
        })
        .await;
        rustix::net::shutdown(&*qmp.shared.socket, rustix::net::Shutdown::Write).expect("shut");
        assert_eq!(heard.await.expect("joined"), ["first", "second"]);
    }

    #[tokio::test]
    async fn the_end_of_qemu_fails_open_and_later_calls() {
        let (ours, qemu) = UnixStream::pair().expect("a pair");
        let qmp = Qmp::new(ours, LONG);
        let open = tokio::spawn({
            let qmp = qmp.clone();
            async move { qmp.call("open", Value::Null).await }
        });
        drop(qemu);
        assert!(matches!(open.await.expect("joined"), Err(CallError::Closed { .. } | CallError::Send { .. })));
        assert!(matches!(qmp.negotiate().await, Err(CallError::Closed { .. })));
        assert!(matches!(qmp.call("later", Value::Null).await, Err(CallError::Closed { .. })));
    }

    #[tokio::test]
    async fn descriptors_travel_with_their_command() {
        let (ours, qemu) = UnixStream::pair().expect("a pair");
        let qmp = Qmp::new(ours, LONG);
        let file = tempfile::tempfile().expect("a file");
        let call = tokio::spawn(async move {
            let _ = qmp.call_with_fds("add-fd", Value::Null, &[file.as_fd(), file.as_fd()]).await;
        });
        qemu.readable().await.expect("readable");
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 256];
        let mut slices = [io::IoSliceMut::new(&mut bytes)];
        rustix::net::recvmsg(&qemu, &mut slices, &mut control, RecvFlags::empty()).expect("a message");
        let received: usize = control
            .drain()
            .map(|message| if let RecvAncillaryMessage::ScmRights(fds) = message { fds.count() } else { 0 })
            .sum();
        assert_eq!(received, 2);
        call.abort();
    }

    #[tokio::test]
    async fn events_reach_every_listener() {
        let (ours, mut qemu) = UnixStream::pair().expect("a pair");
        let qmp = Qmp::new(ours, LONG);
        let (mut one, mut two) = (qmp.events(), qmp.events());
        qemu.write_all(b"{\"event\":\"STOP\",\"timestamp\":{}}\n").await.expect("event");
        assert_eq!(one.recv().await.expect("event").name, "STOP");
        assert_eq!(two.recv().await.expect("event").name, "STOP");
    }
}
