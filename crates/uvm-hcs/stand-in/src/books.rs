//! The books: what is open, in which state, and what was done that must not be.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use windows_sys::Win32::System::HostComputeSystem::{HCS_EVENT_CALLBACK, HCS_OPERATION_COMPLETION};
use windows_sys::core::HRESULT;

/// Everything there is, by handle.
#[derive(Default)]
pub(crate) struct Books {
    last_handle: usize,
    pub(crate) operations: BTreeMap<usize, Operation>,
    pub(crate) systems: BTreeMap<usize, System>,
    pub(crate) processes: BTreeMap<usize, Process>,
    violations: Vec<String>,
}

/// An operation.
pub(crate) struct Operation {
    pub(crate) callback: HCS_OPERATION_COMPLETION,
    pub(crate) context: usize,
    pub(crate) begun: bool,
    /// Its result and the text with it, once it is finished.
    pub(crate) result: Option<(HRESULT, String)>,
    /// The process it started, and what is to be read of it.
    pub(crate) process: Option<(u32, usize)>,
}

/// A system.
pub(crate) struct System {
    pub(crate) id: String,
    pub(crate) state: &'static str,
    pub(crate) listener: Listener,
}

/// A process.
pub(crate) struct Process {
    pub(crate) listener: Listener,
    pub(crate) exited: bool,
}

/// Who is told.
#[derive(Clone, Copy, Default)]
pub(crate) struct Listener {
    pub(crate) callback: HCS_EVENT_CALLBACK,
    pub(crate) context: usize,
}

static BOOKS: Mutex<Option<Books>> = Mutex::new(None);

/// Works on the books.
pub(crate) fn with<T>(work: impl FnOnce(&mut Books) -> T) -> T {
    let mut books: MutexGuard<'_, Option<Books>> = BOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    work(books.get_or_insert_with(Books::default))
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
            "Unfreed": crate::text::unfreed(),
            "Violations": self.violations,
        })
    }
}
