//! What the program imports, replaced: its calls go elsewhere.

#![expect(unsafe_code, reason = "reads and changes the program's own image; each block says why it is sound")]
#![expect(clippy::cast_ptr_alignment, reason = "the loader aligns what it reads")]

use std::ffi::{CStr, c_void};
use std::ptr;

use windows_sys::Win32::System::Diagnostics::Debug::{IMAGE_DIRECTORY_ENTRY_IMPORT, IMAGE_NT_HEADERS64};
use windows_sys::Win32::System::LibraryLoader::GetModuleHandleW;
use windows_sys::Win32::System::Memory::{PAGE_READWRITE, VirtualProtect};
use windows_sys::Win32::System::SystemServices::{
    IMAGE_DOS_HEADER, IMAGE_IMPORT_BY_NAME, IMAGE_IMPORT_DESCRIPTOR, IMAGE_ORDINAL_FLAG64,
};

/// Has every call that the program itself makes to a function of a library go to `replacement`. What libraries call
/// stays as it is, those of this one too.
///
/// # Safety
/// The replacement takes what the function takes, by the same convention, and never goes away.
pub(crate) unsafe fn replace(library: &str, function: &str, replacement: *const c_void) {
    // SAFETY: no name is given, so it is the program's own image, which stays where it is.
    let image = unsafe { GetModuleHandleW(ptr::null()) }.cast::<u8>();
    // SAFETY: the loader has read this image, so its headers and tables are well-formed, and all offsets in them lie
    // within it.
    unsafe {
        let dos = image.cast::<IMAGE_DOS_HEADER>().read_unaligned();
        let headers = image.offset(dos.e_lfanew as isize).cast::<IMAGE_NT_HEADERS64>().read_unaligned();
        let directory = headers.OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT as usize];
        let mut descriptor = image.add(directory.VirtualAddress as usize).cast::<IMAGE_IMPORT_DESCRIPTOR>();
        while (*descriptor).Name != 0 {
            let name = CStr::from_ptr(image.add((*descriptor).Name as usize).cast());
            if name.to_bytes().eq_ignore_ascii_case(library.as_bytes()) {
                let names = image.add((*descriptor).Anonymous.OriginalFirstThunk as usize).cast::<u64>();
                let addresses = image.add((*descriptor).FirstThunk as usize).cast::<*const c_void>();
                replace_in(image, names, addresses, function, replacement);
            }
            descriptor = descriptor.add(1);
        }
    }
}

/// # Safety
/// As the loader left them: the names of one library's functions, up to a zero, and as many addresses.
unsafe fn replace_in(
    image: *const u8,
    mut names: *const u64,
    mut addresses: *mut *const c_void,
    function: &str,
    replacement: *const c_void,
) {
    // SAFETY: the caller says so; a page that is made writable for the moment of the change is the program's own.
    unsafe {
        while *names != 0 {
            if *names & IMAGE_ORDINAL_FLAG64 == 0 {
                let by_name = image.add(*names as usize).cast::<IMAGE_IMPORT_BY_NAME>();
                let name = CStr::from_ptr((&raw const (*by_name).Name).cast());
                if name.to_bytes() == function.as_bytes() {
                    let mut before = 0;
                    VirtualProtect(addresses.cast(), size_of::<usize>(), PAGE_READWRITE, &raw mut before);
                    addresses.write_volatile(replacement);
                    VirtualProtect(addresses.cast(), size_of::<usize>(), before, &raw mut before);
                }
            }
            names = names.add(1);
            addresses = addresses.add(1);
        }
    }
}
