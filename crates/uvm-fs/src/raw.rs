//! Requests as a guest writes them into its memory, without a device: for tests and fuzzing.

use std::io;
use std::path::Path;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use virtio_queue::{Queue, QueueT};
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::FileSystem;
use virtiofsd::passthrough::{Config, PassthroughFs};
use virtiofsd::server::Server;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guard::{Access, Guarded, Owners};

type Memory = GuestMemoryMmap<BitmapMmapRegion>;

/// Where in the guest's memory everything is: descriptors, rings, the request, the answer.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x1_0000;
const ANSWER: u64 = 0x40_0000;
const END: usize = 0x80_0000;
/// Room for an answer.
const ANSWER_LEN: u32 = 0x20_0000;

/// The length of a request's header.
pub const HEADER_LEN: usize = 40;
/// The length of an answer's header.
pub const ANSWER_HEADER_LEN: usize = 16;

/// Numbers of requests, named as the published protocol names them.
#[expect(missing_docs, reason = "they are named as the protocol names them")]
pub mod operation {
    pub const LOOKUP: u32 = 1;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const FALLOCATE: u32 = 43;
    pub const RENAME2: u32 = 45;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
}

/// The number of the share's own directory.
pub const ROOT: u64 = 1;

/// A guest that sends what it likes.
pub struct Guest<F: FileSystem + Sync> {
    server: Server<F>,
    memory: Memory,
}

/// The file system behind, without the layer: what it lets through, the layer must not.
///
/// # Errors
/// The directory cannot be used.
pub fn unguarded(directory: &Path, descriptors: u64) -> io::Result<PassthroughFs> {
    let root_dir = directory.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    PassthroughFs::new(Config {
        root_dir,
        xattr: true,
        announce_submounts: true,
        killpriv_v2: true,
        guest_fd_limit: descriptors,
        ..Config::default()
    })
}

impl Guest<Guarded<PassthroughFs>> {
    /// Serves a directory in this process, which nothing else confines.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn of(directory: &Path, access: Access, owners: Owners, descriptors: u64) -> io::Result<Self> {
        Self::new(Guarded::new(unguarded(directory, descriptors)?, access, owners))
    }
}

impl<F: FileSystem + Sync> Guest<F> {
    /// Sends its requests to `file_system`.
    ///
    /// # Errors
    /// No memory.
    pub fn new(file_system: F) -> io::Result<Self> {
        let memory = Memory::from_ranges(&[(GuestAddress(0), END)]).map_err(io::Error::other)?;
        Ok(Self { server: Server::new(file_system), memory })
    }

    /// Sends a request with a true header, from a guest's root, and returns the body of the answer.
    ///
    /// # Errors
    /// The error's number as the guest gets it, positive; `None` if there is no answer because the request is none.
    pub fn ask(&self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Option<i32>> {
        let length = u32::try_from(HEADER_LEN + body.len()).map_err(|_| None)?;
        let mut request = Vec::with_capacity(HEADER_LEN + body.len());
        request.extend_from_slice(&length.to_ne_bytes());
        request.extend_from_slice(&operation.to_ne_bytes());
        request.extend_from_slice(&1_u64.to_ne_bytes());
        request.extend_from_slice(&node.to_ne_bytes());
        // Of user, group and process 0, without extensions.
        request.extend_from_slice(&[0; 16]);
        request.extend_from_slice(body);
        let answer = self.send(&request).ok_or(None)?;
        let Some((header, body)) = answer.split_at_checked(ANSWER_HEADER_LEN) else { return Err(None) };
        match header.get(4..8).and_then(|number| number.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(body.to_vec()),
            number => Err(number.map(i32::abs)),
        }
    }

    /// Begins a session that wants the features of these two words. The body of the answer.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn begin(&self, features: [u32; 2]) -> Result<Vec<u8>, Option<i32>> {
        // Version 7.38, and how much is read ahead.
        let words = [7, 38, 0x2_0000].into_iter().chain(features);
        let mut body: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        body.resize(64, 0);
        self.ask(operation::INIT, 0, &body)
    }

    /// Sends bytes, and returns what is answered: nothing, if they are no request or one that has no answer.
    pub fn send(&self, request: &[u8]) -> Option<Vec<u8>> {
        let length = u32::try_from(request.len()).ok()?;
        self.memory.write_slice(request, GuestAddress(REQUEST)).ok()?;
        let next_written = 3_u16;
        let descriptors = [(REQUEST, length, 1_u16, 1_u16), (ANSWER, ANSWER_LEN, next_written & 2, 0)];
        for (at, (address, length, flags, next)) in (0_u64..).zip(descriptors) {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&next.to_le_bytes());
            self.memory.write_slice(&bytes, GuestAddress(DESCRIPTORS + 16 * at)).ok()?;
        }
        // One chain is offered: the index, then the number of its first descriptor.
        self.memory.write_slice(&[0, 0, 1, 0, 0, 0], GuestAddress(AVAILABLE)).ok()?;
        let mut queue = Queue::new(16).ok()?;
        queue.try_set_desc_table_address(GuestAddress(DESCRIPTORS)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(AVAILABLE)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(USED)).ok()?;
        queue.set_ready(true);
        let chain = queue.pop_descriptor_chain(&self.memory)?;
        let reader = Reader::new(&self.memory, chain.clone()).ok()?;
        let writer = Writer::new(&self.memory, chain).ok()?;
        let length = self.server.handle_message(reader, writer, None::<&mut ()>).ok()?;
        let mut answer = vec![0; length];
        self.memory.read_slice(&mut answer, GuestAddress(ANSWER)).ok()?;
        Some(answer)
    }
}
