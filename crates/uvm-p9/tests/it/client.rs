//! A client that sends what it is told to, and a share to try it on.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uvm_p9::protocol::{
    Attributes, Data, Entry, HEADER_LEN, Header, LockRange, Name, Qid, Request, Response, SetAttributes, Target,
    WalkList, flags,
};
use uvm_p9::tree::{Errno, TreeOptions};
use uvm_p9::{Ended, Exports, Limits, ServeError, Share, serve};

/// The root of each client.
pub(crate) const ROOT: u32 = 0;

/// A host: a directory that is shared, and a secret next to it.
pub(crate) struct Host {
    runtime: Runtime,
    directory: TempDir,
}

pub(crate) const SECRET: &str = "nobody's business";

impl Host {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("share")).unwrap();
        fs::write(directory.path().join("secret"), SECRET).unwrap();
        fs::create_dir(directory.path().join("secrets")).unwrap();
        fs::write(directory.path().join("secrets/f"), SECRET).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, directory }
    }

    /// What is around the share.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The share, or something in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.outside("share") } else { self.outside("share").join(name) }
    }

    pub(crate) fn options(&self) -> TreeOptions {
        TreeOptions::new(self.path(""))
    }

    /// Serves a client that has not said anything yet.
    pub(crate) fn connect(&self, exports: Arc<dyn Exports>, limits: Limits) -> Client {
        let (own, other) = UnixStream::pair().unwrap();
        other.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = self.runtime.spawn(async move {
            let connection = tokio::net::UnixStream::from_std(other).unwrap();
            let shutdown = async move {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            serve(connection, exports, limits, shutdown).await
        });
        Client { stream: own, server, stop: Some(stop), handle: self.runtime.handle().clone() }
    }

    /// A client with the share's root.
    pub(crate) fn client(&self, share: &Arc<Share>) -> Client {
        let mut client = self.connect(Arc::new(Arc::clone(share)), Limits::default());
        client.begin();
        client.attach(ROOT, "s").unwrap();
        client
    }

    /// A client of all of the share, to be changed.
    pub(crate) fn only_client(&self) -> Client {
        self.client(&open_share(self.options()))
    }

    /// How many descriptors of this process lead into the share.
    pub(crate) fn descriptors(&self) -> usize {
        let inside = |path: PathBuf| path.starts_with(self.path(""));
        let entries = fs::read_dir("/proc/self/fd").unwrap();
        entries.filter(|entry| fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(inside)).count()
    }

    /// All that is outside the share: names, types and permissions, contents.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
        let mut found = BTreeMap::new();
        note(self.directory.path(), &self.path(""), &mut found);
        found
    }
}

/// A share called `s`.
pub(crate) fn open_share(options: TreeOptions) -> Arc<Share> {
    Share::open("s", options).unwrap()
}

fn note(directory: &Path, except: &Path, found: &mut BTreeMap<PathBuf, (u32, i64, Vec<u8>)>) {
    use std::os::unix::fs::MetadataExt;
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path == except {
            continue;
        }
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path.clone(), (metadata.mode(), metadata.mtime(), content));
        if metadata.is_dir() {
            note(&path, except, found);
        }
    }
}

/// An answer, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) tag: u16,
    kind: u8,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn response(&self) -> Response<'_> {
        Response::decode(self.kind, &self.body).unwrap()
    }
}

pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    server: JoinHandle<Result<Ended, ServeError>>,
    stop: Option<oneshot::Sender<()>>,
    handle: tokio::runtime::Handle,
}

pub(crate) fn name(name: &[u8]) -> Name<'_> {
    Name::new(name).expect("short enough for the wire")
}

macro_rules! expect {
    ($answer:expr, $pattern:pat => $value:expr) => {
        match $answer?.response() {
            $pattern => Ok($value),
            other => panic!("answered with {other:?}"),
        }
    };
}

type Done<T> = Result<T, Errno>;

impl Client {
    pub(crate) fn send(&mut self, tag: u16, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode(tag, &mut frame);
        self.stream.write_all(&frame).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Answer {
        let mut header = [0; HEADER_LEN];
        self.stream.read_exact(&mut header).unwrap();
        let Header { size, kind, tag } = Header::decode(header);
        let mut body = vec![0; size as usize - HEADER_LEN];
        self.stream.read_exact(&mut body).unwrap();
        Answer { tag, kind, body }
    }

    pub(crate) fn call(&mut self, request: &Request<'_>) -> Done<Answer> {
        self.send(1, request);
        let answer = self.receive();
        assert_eq!(answer.tag, 1);
        if let Response::Error { errno } = answer.response() {
            return Err(Errno::from_raw_os_error(errno.cast_signed()));
        }
        assert_eq!(answer.kind, request.kind() + 1, "the answer to {request:?}");
        Ok(answer)
    }

    pub(crate) fn version(&mut self, message_size: u32) -> u32 {
        self.send(flags::NO_TAG, &Request::Version { message_size, version: name(flags::VERSION) });
        match self.receive().response() {
            Response::Version { message_size, version } => {
                assert_eq!(version.as_bytes(), flags::VERSION);
                message_size
            }
            other => panic!("answered with {other:?}"),
        }
    }

    pub(crate) fn begin(&mut self) {
        assert_eq!(self.version(1024 * 1024), 1024 * 1024);
    }

    pub(crate) fn attach(&mut self, fid: u32, share: &str) -> Done<Qid> {
        self.attach_as(fid, share, flags::NO_UID)
    }

    pub(crate) fn attach_as(&mut self, fid: u32, share: &str, uid: u32) -> Done<Qid> {
        let share = name(share.as_bytes());
        let request = Request::Attach { fid, auth_fid: flags::NO_FID, user: name(b"root"), share, uid };
        expect!(self.call(&request), Response::Attach { qid } => qid)
    }

    /// How far it came.
    pub(crate) fn walk_some(&mut self, fid: u32, new_fid: u32, path: &[&[u8]]) -> Done<usize> {
        let names = WalkList::new(path.iter().map(|step| name(step)).collect()).unwrap();
        let request = Request::Walk { fid, new_fid, names };
        expect!(self.call(&request), Response::Walk { qids } => qids.as_slice().len())
    }

    /// From the root, all the way; steps are parted by slashes.
    pub(crate) fn walk(&mut self, new_fid: u32, path: &str) -> Done<()> {
        let steps: Vec<&[u8]> = path.split('/').filter(|step| !step.is_empty()).map(str::as_bytes).collect();
        if self.walk_some(ROOT, new_fid, &steps)? == steps.len() { Ok(()) } else { Err(Errno::NOENT) }
    }

    pub(crate) fn open(&mut self, fid: u32, flags: u32) -> Done<()> {
        expect!(self.call(&Request::Open { fid, flags }), Response::Open { .. } => ())
    }

    /// Walks and opens.
    pub(crate) fn open_path(&mut self, fid: u32, path: &str, flags: u32) -> Done<()> {
        self.walk(fid, path)?;
        self.open(fid, flags).inspect_err(|_| self.clunk(fid).unwrap())
    }

    /// In the root, with permissions 0644; the new fid has it open.
    pub(crate) fn create(&mut self, fid: u32, file: &str, flags: u32) -> Done<()> {
        self.walk(fid, "")?;
        self.create_at(fid, file.as_bytes(), flags, 0o644).inspect_err(|_| self.clunk(fid).unwrap())
    }

    pub(crate) fn create_at(&mut self, fid: u32, file: &[u8], flags: u32, mode: u32) -> Done<()> {
        let request = Request::Create { fid, name: name(file), flags, mode, gid: 0 };
        expect!(self.call(&request), Response::Create { .. } => ())
    }

    pub(crate) fn read(&mut self, fid: u32, offset: u64, count: u32) -> Done<Vec<u8>> {
        expect!(self.call(&Request::Read { fid, offset, count }), Response::Read { data } => data.0.to_vec())
    }

    pub(crate) fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Done<u32> {
        expect!(self.call(&Request::Write { fid, offset, data: Data(data) }), Response::Write { count } => count)
    }

    pub(crate) fn clunk(&mut self, fid: u32) -> Done<()> {
        expect!(self.call(&Request::Clunk { fid }), Response::Clunk {} => ())
    }

    pub(crate) fn remove(&mut self, fid: u32) -> Done<()> {
        expect!(self.call(&Request::Remove { fid }), Response::Remove {} => ())
    }

    pub(crate) fn attributes(&mut self, fid: u32) -> Done<Attributes> {
        let request = Request::GetAttributes { fid, mask: flags::GETATTR_BASIC };
        expect!(self.call(&request), Response::GetAttributes { attributes } => attributes)
    }

    pub(crate) fn set(&mut self, fid: u32, attributes: SetAttributes) -> Done<()> {
        expect!(self.call(&Request::SetAttributes { fid, attributes }), Response::SetAttributes {} => ())
    }

    pub(crate) fn mkdir(&mut self, directory: u32, new: &[u8], mode: u32) -> Done<()> {
        let request = Request::MakeDirectory { directory, name: name(new), mode, gid: 0 };
        expect!(self.call(&request), Response::MakeDirectory { .. } => ())
    }

    pub(crate) fn mknod(&mut self, directory: u32, new: &[u8], mode: u32) -> Done<()> {
        let request = Request::MakeNode { directory, name: name(new), mode, major: 1, minor: 3, gid: 0 };
        expect!(self.call(&request), Response::MakeNode { .. } => ())
    }

    pub(crate) fn symlink(&mut self, directory: u32, new: &[u8], target: &str) -> Done<()> {
        let target = Target::new(target.as_bytes()).unwrap();
        let request = Request::Symlink { directory, name: name(new), target, gid: 0 };
        expect!(self.call(&request), Response::Symlink { .. } => ())
    }

    pub(crate) fn read_link(&mut self, fid: u32) -> Done<Vec<u8>> {
        let request = Request::ReadLink { fid };
        expect!(self.call(&request), Response::ReadLink { target } => target.as_bytes().to_vec())
    }

    pub(crate) fn link(&mut self, directory: u32, fid: u32, new: &[u8]) -> Done<()> {
        expect!(self.call(&Request::Link { directory, fid, name: name(new) }), Response::Link {} => ())
    }

    pub(crate) fn rename(&mut self, fid: u32, directory: u32, new: &[u8]) -> Done<()> {
        expect!(self.call(&Request::Rename { fid, directory, name: name(new) }), Response::Rename {} => ())
    }

    pub(crate) fn rename_at(&mut self, from: u32, old: &[u8], to: u32, new: &[u8]) -> Done<()> {
        let request =
            Request::RenameAt { old_directory: from, old_name: name(old), new_directory: to, new_name: name(new) };
        expect!(self.call(&request), Response::RenameAt {} => ())
    }

    pub(crate) fn unlink(&mut self, directory: u32, old: &[u8], flags: u32) -> Done<()> {
        expect!(self.call(&Request::UnlinkAt { directory, name: name(old), flags }), Response::UnlinkAt {} => ())
    }

    pub(crate) fn sync(&mut self, fid: u32) -> Done<()> {
        expect!(self.call(&Request::Sync { fid, data_only: 0 }), Response::Sync {} => ())
    }

    /// One answer's entries: offset, type and name.
    pub(crate) fn read_dir(&mut self, fid: u32, offset: u64, count: u32) -> Done<Vec<(u64, u8, Vec<u8>)>> {
        let owned = |entry: &Entry<'_>| (entry.offset, entry.kind, entry.name.as_bytes().to_vec());
        expect!(
            self.call(&Request::ReadDir { fid, offset, count }),
            Response::ReadDir { data } => Entry::decode_all(data.0).unwrap().iter().map(owned).collect()
        )
    }

    /// All names of an open directory but the two that every one has.
    pub(crate) fn names(&mut self, fid: u32, count: u32) -> Done<Vec<Vec<u8>>> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let entries = self.read_dir(fid, offset, count)?;
            let Some(&(next, ..)) = entries.last() else { return Ok(names) };
            offset = next;
            let found = entries.into_iter().map(|(_, _, name)| name);
            names.extend(found.filter(|name| name != b"." && name != b".."));
        }
    }

    pub(crate) fn walk_xattr(&mut self, fid: u32, new_fid: u32, attribute: &str) -> Done<u64> {
        let request = Request::WalkXattr { fid, new_fid, name: name(attribute.as_bytes()) };
        expect!(self.call(&request), Response::WalkXattr { size } => size)
    }

    pub(crate) fn create_xattr(&mut self, fid: u32, attribute: &str, size: u64, flags: u32) -> Done<()> {
        let request = Request::CreateXattr { fid, name: name(attribute.as_bytes()), size, flags };
        expect!(self.call(&request), Response::CreateXattr {} => ())
    }

    pub(crate) fn lock(&mut self, fid: u32, kind: u8, (start, length): (u64, u64), process: u32) -> Done<u8> {
        let range = LockRange { start, length, process, client: name(b"guest") };
        expect!(self.call(&Request::Lock { fid, kind, flags: 0, range }), Response::Lock { status } => status)
    }

    /// What Linux sends for `flock`.
    pub(crate) fn flock(&mut self, fid: u32, kind: u8, process: u32) -> Done<u8> {
        let range = LockRange { start: 0, length: 0, process, client: name(b"guest") };
        let request = Request::Lock { fid, kind, flags: flags::LOCK_FLAG_BLOCK, range };
        expect!(self.call(&request), Response::Lock { status } => status)
    }

    /// What is in the way: kind, start, length and process.
    pub(crate) fn get_lock(
        &mut self,
        fid: u32,
        kind: u8,
        (start, length): (u64, u64),
        process: u32,
    ) -> Done<(u8, u64, u64, u32)> {
        let range = LockRange { start, length, process, client: name(b"guest") };
        expect!(
            self.call(&Request::GetLock { fid, kind, range }),
            Response::GetLock { kind, range } => (kind, range.start, range.length, range.process)
        )
    }

    /// Has the server stop, and says how it ended.
    pub(crate) fn stop(mut self) -> Result<Ended, ServeError> {
        self.stop.take().unwrap().send(()).unwrap();
        self.ended()
    }

    /// Hangs up, and says how it ended.
    pub(crate) fn hang_up(self) -> Result<Ended, ServeError> {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
        self.ended()
    }

    /// Drops the server's future, as one who has lost patience.
    pub(crate) fn cancel(self) {
        self.server.abort();
        assert!(self.handle.block_on(self.server).unwrap_err().is_cancelled());
    }

    /// Waits for the server to end by itself.
    pub(crate) fn ended(self) -> Result<Ended, ServeError> {
        self.handle.block_on(self.server).unwrap()
    }
}
