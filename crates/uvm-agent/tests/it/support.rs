//! A host that writes bytes: the other end of an agent's bridge, over the multiplexer or over sockets.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uvm_agent::agent::Agent;
use uvm_agent::bridge;
use uvm_agent::flags::AgentFlags;
use uvm_agent::link::{Link, Sockets};
use uvm_agent::log::Log;
use uvm_agent::process::Reap;
use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, MuxListener, Role};

/// Runs each test over each carrier.
macro_rules! over_each_link {
    ($($test:ident)*) => {
        mod over_the_mux {
            $(#[tokio::test] async fn $test() { super::$test($crate::support::Over::Mux).await; })*
        }
        mod over_sockets {
            $(#[tokio::test] async fn $test() { super::$test($crate::support::Over::Sockets).await; })*
        }
    };
}
pub(crate) use over_each_link;

/// What carries the streams between host and agent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Over {
    Mux,
    Sockets,
}

/// A stream at the host's end.
pub(crate) type Stream = Box<dyn Duplex>;

/// Both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The host's end of the carrier.
enum Carrier {
    Mux(Mux),
    /// Each port is a socket of its name.
    Sockets(TempDir),
}

impl Carrier {
    /// Both ends.
    fn pair(over: Over) -> (Self, Link) {
        match over {
            Over::Mux => {
                let (ours, theirs) = UnixStream::pair().expect("a pair");
                let greeting = Greeting::new(GuestState::Fresh).expect("random bytes");
                let end = |socket, role| {
                    let channel = SocketChannel::new(socket).expect("a channel");
                    let (mux, driver) = Mux::new(channel, role, Config::default());
                    tokio::spawn(driver);
                    mux
                };
                (Self::Mux(end(ours, Role::Owner(greeting))), Link::Mux(end(theirs, Role::Guest)))
            }
            Over::Sockets => {
                let dir = tempfile::tempdir().expect("a directory");
                let path = dir.path().to_owned();
                let begin = move |port: u32| {
                    let socket = UnixStream::connect(socket(&path, port))?;
                    socket.set_nonblocking(true)?;
                    Ok(socket.into())
                };
                (Self::Sockets(dir), Link::Sockets(Sockets::new(begin)))
            }
        }
    }

    fn listen(&self, port: u32) -> Listener {
        match self {
            Self::Mux(mux) => Listener::Mux(mux.listen(port).expect("free")),
            Self::Sockets(dir) => Listener::Sockets(UnixListener::bind(socket(dir.path(), port)).expect("free")),
        }
    }
}

fn socket(dir: &Path, port: u32) -> std::path::PathBuf {
    dir.join(port.to_string())
}

/// A port of the host that the agent may dial.
enum Listener {
    Mux(MuxListener),
    Sockets(UnixListener),
}

impl Listener {
    async fn accept(&mut self) -> Stream {
        match self {
            Self::Mux(listener) => Box::new(listener.accept().await.expect("dialled")),
            Self::Sockets(listener) => Box::new(listener.accept().await.expect("dialled").0),
        }
    }
}

/// Nothing here takes longer, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long nothing must come, where nothing may.
const QUIET: Duration = Duration::from_millis(300);

/// A host with an agent at the other end.
pub(crate) struct Host {
    pub(crate) agent: Arc<Agent>,
    carrier: Carrier,
    listener: Listener,
    bridge: Option<Stream>,
}

impl Host {
    /// An agent that is ready, connected, and not asked for the protocol yet.
    pub(crate) async fn connected(over: Over) -> Self {
        let (host, ready) = Self::before_ready(over).await;
        ready.send(()).expect("the agent waits");
        host
    }

    /// An agent that has agreed on version 4, by request 0.
    pub(crate) async fn negotiated(over: Over) -> Self {
        let mut host = Self::connected(over).await;
        host.negotiate().await;
        host
    }

    /// An agent whose guest is not complete yet.
    pub(crate) async fn before_ready(over: Over) -> (Self, oneshot::Sender<()>) {
        let (carrier, link) = Carrier::pair(over);
        let mut listener = carrier.listen(0x4000_0000);
        let (ready, receiver) = oneshot::channel();
        let agent = Arc::new(Agent::new(Reap::Known, Log::new(&AgentFlags::default()), receiver).expect("an agent"));
        agent.processes().reap_on_signals().expect("watched");
        tokio::spawn(bridge::serve(Arc::clone(&agent), link));
        let bridge = Some(soon(listener.accept()).await);
        (Self { agent, carrier, listener, bridge }, ready)
    }

    /// Agrees on the protocol, by the example of its description.
    pub(crate) async fn negotiate(&mut self) {
        self.send(&message("01 0b 10 10 | 7d 00 00 00 | 00 00 00 00 00 00 00 00", NEGOTIATE)).await;
        let answer = self.receive().await;
        assert_eq!((answer.kind, answer.id, answer.json()["Version"].as_u64()), (0x2010_0b01, 0, Some(4)));
    }

    /// Listens where the agent is to dial a stream, and accepts one in the background.
    pub(crate) fn listen(&self, port: u32) -> JoinHandle<Stream> {
        let mut listener = self.carrier.listen(port);
        tokio::spawn(async move { listener.accept().await })
    }

    /// Ends the connection of the bridge.
    pub(crate) fn hang_up(&mut self) {
        drop(self.bridge.take());
    }

    /// Takes the agent's next connection.
    pub(crate) async fn pick_up(&mut self) {
        self.bridge = Some(soon(self.listener.accept()).await);
    }

    /// Writes bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.bridge().write_all(bytes).await.expect("the agent reads");
    }

    /// The next message.
    pub(crate) async fn receive(&mut self) -> Message {
        soon(read(self.bridge())).await.expect("a message, not the end")
    }

    /// The next message has just these bytes.
    pub(crate) async fn expect(&mut self, header: &str, json: &str) {
        let answer = self.receive().await;
        assert_eq!(answer.body, json);
        assert_eq!(answer.bytes, message(header, json));
    }

    /// The next message says that a request failed: it has all keys of a failure, and no other than `Errno`.
    pub(crate) async fn expect_failure(&mut self, kind: u32, id: u64, code: u32) -> Message {
        let answer = self.receive().await;
        let json = answer.json();
        assert_eq!((answer.kind, answer.id), (kind, id), "{json}");
        assert_eq!(json["Result"], code.cast_signed(), "{json}");
        let text = json["ErrorMessage"].as_str().expect("a text");
        assert!(!text.is_empty());
        let record = &json["ErrorRecords"][0];
        assert_eq!((&record["Result"], &record["Message"]), (&json["Result"], &json["ErrorMessage"]), "{json}");
        assert_eq!((&record["ModuleName"], &record["FileName"]), (&"gcs".into(), &"".into()), "{json}");
        assert_eq!((&record["Line"], json["ErrorRecords"].as_array().map(Vec::len)), (&u32::MAX.into(), Some(1)));
        let known = ["Result", "ActivityId", "ErrorMessage", "ErrorRecords", "Errno"];
        assert!(json.as_object().expect("an object").keys().all(|key| known.contains(&key.as_str())), "{json}");
        answer
    }

    /// The bridge comes to its end, with no further message.
    pub(crate) async fn expect_end(&mut self) {
        assert!(soon(read(self.bridge())).await.is_none(), "no message but the end");
    }

    /// For a while nothing comes.
    pub(crate) async fn expect_silence(&mut self) {
        let mut byte = [0];
        let came = tokio::time::timeout(QUIET, self.bridge().read(&mut byte)).await;
        assert!(came.is_err(), "{came:?} came");
    }

    /// The process that the next message, an answer to `ExecuteProcess`, names. The message has no other key.
    pub(crate) async fn expect_process(&mut self, id: u64) -> u32 {
        let answer = self.receive().await;
        let json = answer.json();
        let process = u32::try_from(json["ProcessId"].as_u64().unwrap_or_else(|| panic!("{json}"))).expect("a number");
        assert_eq!(answer.body, format!(r#"{{"Result":0,"ActivityId":"{ZERO}","ProcessId":{process}}}"#));
        assert_eq!((answer.kind, answer.id), (0x2010_0501, id));
        process
    }

    fn bridge(&mut self) -> &mut Stream {
        self.bridge.as_mut().expect("connected")
    }
}

/// The body of the first request of every host.
pub(crate) const NEGOTIATE: &str = "{\"ContainerId\":\"\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\",\"MinimumVersion\":4,\"MaximumVersion\":4}\n";
/// The id of the VM, and the activity of every request of the originals.
pub(crate) const ZERO: &str = "00000000-0000-0000-0000-000000000000";

/// A message: its header in hex, and its body. The header must tell the truth about the size.
pub(crate) fn message(header: &str, body: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = header
        .split([' ', '|'])
        .filter(|digits| !digits.is_empty())
        .map(|digits| u8::from_str_radix(digits, 16).expect("hex"))
        .collect();
    assert_eq!(bytes.len(), 16, "{header}");
    bytes.extend_from_slice(body.as_bytes());
    assert_eq!(
        bytes[4..8],
        u32::try_from(bytes.len()).expect("small").to_le_bytes(),
        "{} bytes: {header}",
        bytes.len()
    );
    bytes
}

/// A request whose body is a row of a table: its header counts the bytes.
pub(crate) fn request(kind: u32, id: u64, body: &str) -> Vec<u8> {
    let size = u32::try_from(16 + body.len()).expect("small");
    [&kind.to_le_bytes()[..], &size.to_le_bytes(), &id.to_le_bytes(), body.as_bytes()].concat()
}

/// A [`message`] with a process in the place of `$PID`, which takes ten bytes whatever its number.
pub(crate) fn about(process: u32, header: &str, body: &str) -> Vec<u8> {
    message(header, &body.replace("$PID", &format!("{process:<10}")))
}

/// What an agent sent.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: u32,
    pub(crate) id: u64,
    pub(crate) body: String,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

/// Reads a message; `None` at the end.
async fn read(stream: &mut Stream) -> Option<Message> {
    let mut bytes = vec![0; 16];
    stream.read_exact(&mut bytes[..1]).await.ok()?;
    stream.read_exact(&mut bytes[1..]).await.expect("a whole header");
    let number = |range: std::ops::Range<usize>| u32::from_le_bytes(bytes[range].try_into().expect("four bytes"));
    let (kind, size) = (number(0..4), number(4..8));
    let id = u64::from_le_bytes(bytes[8..].try_into().expect("eight bytes"));
    assert!((16..=65_536).contains(&size), "a host takes no message of {size} bytes");
    bytes.resize(size as usize, 0);
    stream.read_exact(&mut bytes[16..]).await.expect("a whole body");
    let body = String::from_utf8(bytes[16..].to_vec()).expect("text");
    Some(Message { bytes, kind, id, body })
}

/// All that comes on a stream until its end.
pub(crate) async fn read_all(stream: JoinHandle<Stream>) -> String {
    let mut stream = soon(stream).await.expect("joined");
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.expect("read");
    text
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}
