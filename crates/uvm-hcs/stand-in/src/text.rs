//! Texts given and taken.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::sync::{Mutex, PoisonError};

use windows_sys::Win32::System::Memory::{GetProcessHeap, HeapValidate, LPTR, LocalAlloc};
use windows_sys::core::{PCWSTR, PWSTR};

/// Where texts were given. An address that is given again was freed in between.
static GIVEN: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// The text that a caller gave; empty for none.
///
/// # Safety
/// It is null, or ends with a zero.
pub(crate) unsafe fn read(text: PCWSTR) -> String {
    if text.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: the caller says that it ends.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: so many have just been read.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) })
}

/// Gives a text, which the caller frees by `LocalFree`; none for an empty one.
///
/// # Safety
/// `slot` is null, or valid for a write.
pub(crate) unsafe fn give(text: &str, slot: *mut PWSTR) {
    if slot.is_null() || text.is_empty() {
        return;
    }
    let units: Vec<u16> = text.encode_utf16().chain([0]).collect();
    // So large that the system gives each a place of its own, whose end can be seen.
    // SAFETY: any size may be asked for.
    let place = unsafe { LocalAlloc(LPTR, LARGE.max(2 * units.len())) };
    if place.is_null() {
        return;
    }
    // SAFETY: the place is as large, and nobody else has it; the slot is valid.
    unsafe {
        std::ptr::copy_nonoverlapping(units.as_ptr(), place.cast::<u16>(), units.len());
        slot.write(place.cast());
    }
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    given.retain(|address| *address != place.addr());
    given.push(place.addr());
}

/// How many texts were given and not freed.
pub(crate) fn unfreed() -> usize {
    let given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the heap is that of the process; an address that is none of its is what is asked.
    let lives = |address: &&usize| unsafe {
        HeapValidate(GetProcessHeap(), 0, std::ptr::with_exposed_provenance(**address)) != 0
    };
    given.iter().filter(lives).count()
}

const LARGE: usize = 4 << 20;
