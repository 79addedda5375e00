//! The guest's serial console: always into a bounded ring, and where asked for to a file or a socket.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast;
use uvm_platform::PlatformError;
use uvm_platform::spec::Console;

use crate::kill_point::kill_point;
use crate::residue::Residue;
use crate::ring::Ring;
use crate::short_path::ShortDir;
use crate::sink::Sink;
use crate::state::HostObject;

/// Where console output goes besides the ring.
#[derive(Debug)]
pub(crate) enum Outlet {
    None,
    File(File),
    Socket(std::os::unix::net::UnixListener),
}

impl Outlet {
    /// Opens what `console` asks for. A socket is written down in `residue` before it is made.
    pub(crate) fn open(console: &Console, residue: &Residue) -> Result<Self, PlatformError> {
        match console {
            Console::Ring => Ok(Self::None),
            Console::File(path) => open(path).map(Self::File).map_err(|why| bad("console file", path, why)),
            Console::Socket(path) => Self::bind(path, residue).map_err(|e| bad("console socket", path, e.to_string())),
        }
    }

    fn bind(path: &Path, residue: &Residue) -> io::Result<Self> {
        if path.symlink_metadata().is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something is there already"));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name =
            path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no file name"))?;
        let dir = ShortDir::open(parent)?;
        residue.register(&HostObject::File { path: std::path::absolute(path)? })?;
        kill_point("before:console");
        let listener = std::os::unix::net::UnixListener::bind(dir.join(name))?;
        kill_point("after:console");
        listener.set_nonblocking(true)?;
        Ok(Self::Socket(listener))
    }
}

/// Opens a file, terminal, pipe or FIFO for writing, without ever waiting for a reader.
fn open(path: &Path) -> Result<File, String> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(flags);
    options.open(path).map_err(|e| match e.raw_os_error() {
        Some(libc::ENXIO) => {
            "nobody reads from it: a FIFO needs its reader first, and a socket cannot be opened".into()
        }
        _ => e.to_string(),
    })
}

fn bad(what: &'static str, path: &Path, why: String) -> PlatformError {
    PlatformError::BadInput { what, value: path.display().to_string(), why }
}

/// Chunks a slow client of the socket may lag behind before it is cut off.
const BACKLOG: usize = 64;

/// Carries console output until QEMU closes it.
pub(crate) async fn pump(console: UnixStream, ring: Ring, outlet: Outlet) {
    let console = Arc::new(console);
    let output = broadcast::Sender::<Arc<[u8]>>::new(BACKLOG);
    let mut sink = None;
    let mut server = None;
    match outlet {
        Outlet::None => {}
        Outlet::File(open) => sink = Some(Sink::new(open)),
        Outlet::Socket(listener) => match UnixListener::from_std(listener) {
            Ok(listener) => {
                let serving = serve(listener, Arc::clone(&console), output.clone(), ring.clone());
                server = Some(tokio::spawn(serving));
            }
            Err(e) => tracing::warn!(error = %e, "the console socket cannot be served"),
        },
    }
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::select! {
            read = read(&console, &mut buffer) => Some(read),
            () = drained(&mut sink) => None,
        };
        let count = match read {
            Some(Ok(count @ 1..)) => count,
            Some(_) => break,
            None => continue,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        ring.push(bytes);
        if let Some(open) = &mut sink
            && let Err(e) = open.push(bytes)
        {
            give_up(&mut sink, &e);
        }
        if server.is_some() {
            // Nobody may be connected.
            let _ = output.send(bytes.into());
        }
    }
    if let Some(server) = server {
        server.abort();
    }
    // What is left when its reader stays away longer is lost with the VM.
    let _ = tokio::time::timeout(LAST_WRITE, async {
        while sink.as_ref().is_some_and(Sink::is_behind) {
            drained(&mut sink).await;
        }
    })
    .await;
}

/// How long a reader may take for the end of the console's output.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// Waits until something more of what `sink` holds back is written, or it has failed and is given up; for ever if it holds
/// nothing. Cancel-safe.
async fn drained(sink: &mut Option<Sink>) {
    let result = match sink {
        Some(open) if open.is_behind() => open.drain().await,
        _ => std::future::pending().await,
    };
    if let Err(e) = result {
        give_up(sink, &e);
    }
}

fn give_up(sink: &mut Option<Sink>, e: &io::Error) {
    tracing::warn!(error = %e, "cannot write the console file; what follows is in memory only");
    *sink = None;
}

async fn read(socket: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        socket.readable().await?;
        match socket.try_read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn write_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Clients at the same time; more are turned away.
const MAX_CLIENTS: usize = 8;

async fn serve(listener: UnixListener, console: Arc<UnixStream>, output: broadcast::Sender<Arc<[u8]>>, ring: Ring) {
    let mut clients = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) if clients.len() < MAX_CLIENTS => {
                    clients.spawn(serve_one(client, Arc::clone(&console), output.subscribe(), ring.bytes()));
                }
                Ok(_) => tracing::warn!(MAX_CLIENTS, "a client of the console socket was turned away"),
                Err(e) => {
                    tracing::warn!(error = %e, "the console socket takes no more clients");
                    return;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

/// One client: it reads what the console said so far and says from now on; what it writes is typed into the console.
async fn serve_one(
    mut client: UnixStream,
    console: Arc<UnixStream>,
    mut output: broadcast::Receiver<Arc<[u8]>>,
    so_far: Vec<u8>,
) {
    let (mut from_client, mut to_client) = client.split();
    let down = async {
        to_client.write_all(&so_far).await?;
        loop {
            match output.recv().await {
                Ok(bytes) => to_client.write_all(&bytes).await?,
                // Too slow, or the console has ended.
                Err(_) => return Ok::<(), io::Error>(()),
            }
        }
    };
    let up = async {
        let mut buffer = [0; 256];
        loop {
            match from_client.read(&mut buffer).await? {
                // It will type no more, but may go on reading.
                0 => return std::future::pending::<io::Result<()>>().await,
                count => write_all(&console, buffer.get(..count).unwrap_or_default()).await?,
            }
        }
    };
    // A client that goes away is no news.
    let _ = tokio::select! { result = down => result, result = up => result };
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::residue::test_residue;

    #[tokio::test]
    async fn output_goes_to_the_ring_and_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("console.log");
        let residue = test_residue(dir.path());
        let outlet = Outlet::open(&Console::File(path.clone()), &residue).expect("opened");
        let (mut qemu, ours) = UnixStream::pair().expect("a pair");
        let ring = Ring::default();
        let pump = tokio::spawn(pump(ours, ring.clone(), outlet));
        qemu.write_all(b"hello\nworld\n").await.expect("written");
        drop(qemu);
        pump.await.expect("ended");
        assert_eq!(ring.last_lines(2), ["hello", "world"]);
        assert_eq!(std::fs::read(&path).expect("a file"), b"hello\nworld\n");
    }

    #[tokio::test]
    async fn a_socket_client_reads_past_and_present_and_types() {
        let dir = tempfile::tempdir().expect("a directory");
        // Longer than a socket address can hold.
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let path = deep.join("console.sock");
        let residue = test_residue(dir.path());
        let outlet = Outlet::open(&Console::Socket(path.clone()), &residue).expect("bound");
        let taken = Outlet::open(&Console::Socket(path.clone()), &residue).expect_err("taken");
        assert!(taken.to_string().contains("already"), "{taken}");

        let (mut qemu, ours) = UnixStream::pair().expect("a pair");
        let ring = Ring::default();
        let pump = tokio::spawn(pump(ours, ring.clone(), outlet));
        qemu.write_all(b"past ").await.expect("written");
        let in_time = |what| tokio::time::timeout(Duration::from_secs(30), what);
        in_time(async {
            while ring.total() < 5 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("read");

        let short = ShortDir::open(&deep).expect("a directory");
        let mut client = UnixStream::connect(short.join("console.sock")).await.expect("connected");
        let mut past = [0; 5];
        client.read_exact(&mut past).await.expect("past");
        assert_eq!(&past, b"past ");
        qemu.write_all(b"present").await.expect("written");
        let mut present = [0; 7];
        client.read_exact(&mut present).await.expect("present");
        assert_eq!(&present, b"present");
        client.write_all(b"typed").await.expect("typed");
        let mut typed = [0; 5];
        qemu.read_exact(&mut typed).await.expect("typed");
        assert_eq!(&typed, b"typed");
        drop(qemu);
        pump.await.expect("ended");
        drop(residue);
        assert!(!path.exists(), "the socket was written down and is removed");
    }

    #[tokio::test]
    async fn a_fifo_without_a_reader_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("made");
        let residue = test_residue(dir.path());
        let error = Outlet::open(&Console::File(path), &residue).expect_err("nobody reads").to_string();
        assert!(
            error.contains("console file") && error.contains("fifo") && error.contains("needs its reader"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_reader_that_stalls_holds_up_nothing_but_its_own_copy() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let residue_dir = tempfile::tempdir().expect("a directory");
        let residue = test_residue(residue_dir.path());
        // As `--console - 2>&1 | less` opens it.
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let outlet = Outlet::open(&Console::File(path.into()), &residue).expect("opened");
        drop(writer);
        let (mut qemu, ours) = UnixStream::pair().expect("a pair");
        let ring = Ring::default();
        let pump = tokio::spawn(pump(ours, ring.clone(), outlet));
        // More than a pipe and the sink hold.
        let line = [b'x'; 1024];
        for _ in 0..1024 {
            tokio::time::timeout(Duration::from_secs(30), qemu.write_all(&line))
                .await
                .expect("not held up")
                .expect("sent");
        }
        qemu.write_all(b"last").await.expect("sent");
        drop(qemu);
        let text = tokio::task::spawn_blocking(move || {
            let mut text = Vec::new();
            io::Read::read_to_end(&mut File::from(reader), &mut text).map(|_| text)
        });
        pump.await.expect("ended");
        assert_eq!(ring.total(), 1024 * 1024 + 4);
        let text = text.await.expect("joined").expect("read");
        let text = String::from_utf8(text).expect("text");
        assert!(
            text.starts_with("xxx") && text.contains("bytes of console output were dropped"),
            "{} bytes",
            text.len()
        );
    }
}
