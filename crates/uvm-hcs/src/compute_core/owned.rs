//! Texts that cross the border, each with its owner.

use std::ptr;

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::System::Com::CoTaskMemFree;
use windows_sys::core::PWSTR;

/// A text in UTF-16 with a zero behind it. One inside ends it early.
pub(super) fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// The text up to the first zero.
///
/// # Safety
/// `text` is null, or points at UTF-16 that ends with a zero and stays as it is during the call.
pub(super) unsafe fn read(text: *const u16) -> String {
    if text.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: the caller says that a zero comes before the text's end.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: so many have just been read.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) })
}

/// A text that the compute core library allocated: freed by `LocalFree`.
pub(super) struct LocalText(PWSTR);

/// A text that the network library allocated: freed by `CoTaskMemFree`.
pub(super) struct TaskText(PWSTR);

impl Default for LocalText {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}

impl Default for TaskText {
    fn default() -> Self {
        Self(ptr::null_mut())
    }
}

impl LocalText {
    /// Where a function puts the text. To be used once.
    pub(super) fn slot(&mut self) -> *mut PWSTR {
        &raw mut self.0
    }

    /// The text; empty if there is none.
    pub(super) fn take(self) -> String {
        // SAFETY: it is null, or what the library allocated, which nobody else has.
        unsafe { read(self.0) }
    }
}

impl TaskText {
    /// Where a function puts the text. To be used once.
    pub(super) fn slot(&mut self) -> *mut PWSTR {
        &raw mut self.0
    }

    /// The text; empty if there is none.
    pub(super) fn take(self) -> String {
        // SAFETY: it is null, or what the library allocated, which nobody else has.
        unsafe { read(self.0) }
    }
}

impl Drop for LocalText {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the library allocated it so, and it is freed once.
            unsafe { LocalFree(self.0.cast()) };
        }
    }
}

impl Drop for TaskText {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the library allocated it so, and it is freed once.
            unsafe { CoTaskMemFree(self.0.cast_const().cast()) };
        }
    }
}
