//! Serving clients: from bytes to calls of the tree, and back.
//!
//! One task a client reads requests and writes answers. Each request is served by a thread of the client's own [`pool`],
//! as calls of the file system block; so a slow one stalls no other, as long as there is a thread. Files are closed there,
//! too. The order of answers is
//! that in which requests were done. What a client may take is in [`Limits`]; beyond, its next message is not read.

mod buffers;
mod fid;
mod locks;
mod operations;
mod pool;
mod session;
mod tags;

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::timeout;

pub(crate) use self::session::Session;

use self::session::{Fate, Outgoing};
use crate::error::{Ended, ServeError};
use crate::limits::Limits;
use crate::protocol::{FLUSH_REQUEST, HEADER_LEN, Header, Request, VERSION_REQUEST};
use crate::share::Exports;

/// Serves one client on `connection` until it goes, `shutdown` is ready, or a share it uses is closed. `exports` says what
/// it may attach to.
///
/// When it returns, everything the client held (files, locks, threads) is released, unless a call of the file system has
/// not returned within [`Limits::with_drain`]: then that happens as soon as it does.
///
/// Needs a tokio runtime with time. Cancel-safe: when the future is dropped, the same is released in the background, as
/// soon as the calls that run have returned.
///
/// # Errors
/// Each of [`ServeError`]: the connection failed, or the client broke the protocol. Requests that fail are answered with
/// an error number, and are no errors here.
pub async fn serve<C>(
    connection: C,
    exports: Arc<dyn Exports>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, ServeError>
where
    C: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(connection);
    let (session, answers, mut gone) = Session::new(exports, limits);
    let closing = CloseOnDrop(Arc::clone(&session));
    let ended = tokio::select! {
        biased;
        () = shutdown => Ok(Ended::Shutdown),
        fate = session.decided() => match fate {
            Fate::ShareClosed => Ok(Ended::ShareClosed),
            Fate::Panicked | Fate::GoesOn => Err(ServeError::Panicked),
        },
        ended = write_answers(&mut writer, answers) => ended,
        ended = read_requests(reader, &session) => ended,
    };
    drop(closing);
    if matches!(ended, Ok(Ended::Disconnected)) {
        // It may read still. All answers are written, and the connection may hold the last ones back.
        let _ = timeout(limits.drain, writer.flush()).await;
    }
    if timeout(limits.drain, gone.recv()).await.is_err() {
        tracing::warn!(waited = ?limits.drain, "a 9P request is still running; its files are released once it returns");
    }
    ended
}

/// Files are closed and threads end even if nobody waits for them.
struct CloseOnDrop(Arc<Session>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Reads ahead so much: small messages come several at once, long ones go past it into their own buffers.
const READ_AHEAD: usize = 8 * 1024;

async fn read_requests(reader: impl AsyncRead + Unpin, session: &Arc<Session>) -> Result<Ended, ServeError> {
    let mut reader = BufReader::with_capacity(READ_AHEAD, reader);
    loop {
        let most = session.message_size();
        let mut header = [0; HEADER_LEN];
        if !read_header(&mut reader, &mut header).await? {
            // It may have closed its own direction only, and wait for answers.
            session.settle().await;
            return Ok(Ended::Disconnected);
        }
        let Header { size, kind, tag } = Header::decode(header);
        if (size as usize) < HEADER_LEN || size as usize > most {
            return Err(ServeError::BadSize { size, most: most as u32 });
        }
        let mut frame = session.buffers().take(size as usize);
        let (start, body) = frame.as_mut_slice().split_at_mut(HEADER_LEN);
        start.copy_from_slice(&header);
        reader.read_exact(body).await.map_err(|source| ServeError::Connection { source })?;
        // Other requests are decoded by the thread that serves them.
        let own = if matches!(kind, VERSION_REQUEST | FLUSH_REQUEST) { Request::decode(kind, body).ok() } else { None };
        match own {
            Some(Request::Version { message_size, version }) => session.begin(tag, message_size, version).await?,
            _ if !session.has_begun() => return Err(ServeError::NoVersion { kind }),
            Some(Request::Flush { old_tag }) => session.flush(tag, old_tag).await,
            _ => session.submit(tag, frame).await?,
        }
    }
}

/// `false` at the end of the stream.
async fn read_header(reader: &mut (impl AsyncRead + Unpin), header: &mut [u8; HEADER_LEN]) -> Result<bool, ServeError> {
    let mut done = 0;
    while done < HEADER_LEN {
        match reader.read(&mut header[done..]).await {
            Ok(0) if done == 0 => return Ok(false),
            Ok(0) => return Err(ServeError::Connection { source: io::ErrorKind::UnexpectedEof.into() }),
            Ok(count) => done += count,
            Err(error) if done == 0 && is_gone(&error) => return Ok(false),
            Err(source) => return Err(ServeError::Connection { source }),
        }
    }
    Ok(true)
}

async fn write_answers(
    mut writer: impl AsyncWrite + Unpin,
    mut answers: mpsc::UnboundedReceiver<Outgoing>,
) -> Result<Ended, ServeError> {
    loop {
        let written = match answers.try_recv() {
            Ok(answer) => writer.write_all(answer.message.as_slice()).await,
            Err(_) => match writer.flush().await {
                Ok(()) => match answers.recv().await {
                    Some(answer) => writer.write_all(answer.message.as_slice()).await,
                    None => std::future::pending().await,
                },
                failed => failed,
            },
        };
        match written {
            Ok(()) => {}
            Err(error) if is_gone(&error) => return Ok(Ended::Disconnected),
            Err(source) => return Err(ServeError::Connection { source }),
        }
    }
}

/// Whether the error says no more than that the client has gone.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
