//! The books: what is open, in which state, and what was done that must not be.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::fs::File;
use std::net::TcpStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uvm_wire::Guid;
use windows_sys::Win32::System::HostComputeSystem::{HCS_EVENT_CALLBACK, HCS_OPERATION_COMPLETION};
use windows_sys::core::HRESULT;

/// Everything there is, by handle.
#[derive(Default)]
pub(crate) struct Books {
    last_handle: usize,
    pub(crate) operations: BTreeMap<usize, Operation>,
    pub(crate) systems: BTreeMap<usize, System>,
    pub(crate) processes: BTreeMap<usize, Process>,
    /// Hyper-V sockets of the host, and what those that listen listen for.
    pub(crate) sockets: BTreeMap<usize, Option<Guid>>,
    violations: Vec<String>,
}

/// An operation.
pub(crate) struct Operation {
    pub(crate) callback: HCS_OPERATION_COMPLETION,
    pub(crate) context: usize,
    /// The system or process that it is about, once it was begun.
    pub(crate) about: Option<usize>,
    /// Its result and the text with it, once it is finished.
    pub(crate) result: Option<(HRESULT, String)>,
    /// The process it started, and the ends of its standard streams that are given away.
    pub(crate) process: Option<(u32, [usize; 3])>,
}

/// A system.
pub(crate) struct System {
    pub(crate) id: String,
    pub(crate) state: &'static str,
    pub(crate) listener: Listener,
    /// Whether it is a VM, which has a guest.
    pub(crate) is_vm: bool,
    /// Whether the service is to hold the guest connection.
    pub(crate) holds_connection: bool,
    /// What was plugged into it, by its place in the document.
    pub(crate) plugged: BTreeSet<String>,
    /// The guest's ends of all streams, which end with it.
    pub(crate) streams: Vec<TcpStream>,
    /// Ports of the loopback interface at which the guest listens, by service.
    pub(crate) services: BTreeMap<Guid, u16>,
}

/// A process.
pub(crate) struct Process {
    pub(crate) system: usize,
    pub(crate) listener: Listener,
    pub(crate) exited: bool,
    /// The end of its standard input was told.
    pub(crate) input_ended: bool,
    /// Its own ends of its outputs, which go with it.
    pub(crate) outputs: Vec<File>,
}

/// Who is told.
#[derive(Clone, Copy, Default)]
pub(crate) struct Listener {
    pub(crate) callback: HCS_EVENT_CALLBACK,
    pub(crate) context: usize,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);
/// An operation was closed.
static CLOSED: Condvar = Condvar::new();

/// Works on the books.
pub(crate) fn with<T>(work: impl FnOnce(&mut Books) -> T) -> T {
    work(lock().get_or_insert_with(Books::default))
}

fn lock() -> MutexGuard<'static, Option<Books>> {
    BOOKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The books if nobody works on them: a thread that was ended in the middle of it will never let them go.
pub(crate) fn last_report() -> Value {
    match BOOKS.try_lock() {
        Ok(books) => books.as_ref().map_or(Value::Null, Books::report),
        Err(_) => json!({"Violations": ["somebody worked on the books when the program ended"]}),
    }
}

/// An operation was closed: whoever waits for that looks again.
pub(crate) fn operation_closed() {
    CLOSED.notify_all();
}

/// Waits until the operations about `handle` are closed, as whoever closes what they are about is to have done or to be
/// doing.
pub(crate) fn await_operations_about(handle: usize) {
    let deadline = Instant::now() + SOON;
    let mut books = lock();
    loop {
        let open = |operation: &Operation| operation.about == Some(handle);
        let Some(books_now) = books.as_mut() else { return };
        if !books_now.operations.values().any(open) {
            return;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            books_now.violation("an operation stayed open when this was closed:", crate::as_handle(handle));
            return;
        }
        books = CLOSED.wait_timeout(books, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Books {
    /// A handle that nothing has had.
    pub(crate) fn new_handle(&mut self) -> usize {
        self.last_handle += 16;
        self.last_handle
    }

    pub(crate) fn violation(&mut self, what: &str, handle: *mut c_void) {
        self.violations.push(format!("{what} {handle:?}"));
    }

    /// What a test asks for.
    pub(crate) fn report(&self) -> Value {
        json!({
            "Systems": self.systems.len(),
            "Processes": self.processes.len(),
            "Operations": self.operations.len(),
            "Sockets": self.sockets.len(),
            "Unfreed": crate::text::unfreed(),
            "Violations": self.violations,
        })
    }
}

/// How long after the end of an operation its closing may take.
const SOON: Duration = Duration::from_secs(10);
