//! The guest's requests, as bytes.

use uvm_fs::raw::operation::*;
use uvm_fs::raw::{Guest, ROOT};
use virtiofsd::filesystem::FileSystem;

pub(crate) fn bytes(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

pub(crate) fn u64s(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

pub(crate) fn with_names(start: &[u8], names: &[&[u8]]) -> Vec<u8> {
    let mut body = start.to_vec();
    for name in names {
        body.extend_from_slice(name);
        body.push(0);
    }
    body
}

/// As a guest of this day, with everything it knows.
pub(crate) fn init<F: FileSystem + Sync>(guest: &Guest<F>) -> u64 {
    let answer = guest.begin([u32::MAX; 2]).expect("negotiated");
    let word = |at: usize| u64::from(u32::from_ne_bytes(answer[at..at + 4].try_into().expect("four bytes")));
    word(12) | word(32) << 32
}

pub(crate) fn node(answer: &[u8]) -> u64 {
    u64::from_ne_bytes(answer[..8].try_into().expect("eight bytes"))
}

fn number(error: Option<i32>) -> i32 {
    error.expect("an answer")
}

pub(crate) fn look<F: FileSystem + Sync>(guest: &Guest<F>, parent: u64, name: &str) -> Result<u64, i32> {
    guest.ask(LOOKUP, parent, &with_names(&[], &[name.as_bytes()])).map(|answer| node(&answer)).map_err(number)
}

pub(crate) fn open<F: FileSystem + Sync>(guest: &Guest<F>, node: u64, flags: i32) -> Result<u64, i32> {
    let answer = guest.ask(OPEN, node, &bytes(&[flags.cast_unsigned(), 0])).map_err(number)?;
    Ok(u64::from_ne_bytes(answer[..8].try_into().expect("eight bytes")))
}

pub(crate) fn read<F: FileSystem + Sync>(guest: &Guest<F>, node: u64, handle: u64) -> Result<Vec<u8>, i32> {
    let body = [u64s(&[handle, 0]), bytes(&[4096, 0]), u64s(&[0]), bytes(&[0, 0])].concat();
    guest.ask(READ, node, &body).map_err(number)
}

pub(crate) fn setattr(valid: u32, mode: u32, owner: (u32, u32)) -> Vec<u8> {
    [bytes(&[valid, 0]), u64s(&[0; 6]), bytes(&[0, 0, 0, mode, 0, owner.0, owner.1, 0])].concat()
}

/// Every request that has names, with this name in each place; what each is called.
pub(crate) fn requests(name: &[u8], file: u64, directory: u64) -> Vec<(&'static str, u32, u64, Vec<u8>)> {
    let mode = bytes(&[0o100_644, 0, 0, 0]);
    let rename2 = [u64s(&[directory]), bytes(&[0, 0])].concat();
    vec![
        ("lookup", LOOKUP, ROOT, with_names(&[], &[name])),
        ("lookup below", LOOKUP, directory, with_names(&[], &[name])),
        ("symlink", SYMLINK, ROOT, with_names(&[], &[name, b"target"])),
        ("mknod", MKNOD, ROOT, with_names(&mode, &[name])),
        ("mkdir", MKDIR, ROOT, with_names(&bytes(&[0o755, 0]), &[name])),
        ("unlink", UNLINK, ROOT, with_names(&[], &[name])),
        ("unlink below", UNLINK, directory, with_names(&[], &[name])),
        ("rmdir", RMDIR, ROOT, with_names(&[], &[name])),
        ("rename from", RENAME, ROOT, with_names(&u64s(&[directory]), &[name, b"new"])),
        ("rename to", RENAME, ROOT, with_names(&u64s(&[ROOT]), &[b"f", name])),
        ("rename2 from", RENAME2, ROOT, with_names(&rename2, &[name, b"new"])),
        ("rename2 to", RENAME2, ROOT, with_names(&rename2, &[b"f", name])),
        ("link", LINK, ROOT, with_names(&u64s(&[file]), &[name])),
        ("create", CREATE, ROOT, with_names(&bytes(&[2, 0o100_644, 0, 0]), &[name])),
        ("create below", CREATE, directory, with_names(&bytes(&[2, 0o100_644, 0, 0]), &[name])),
    ]
}
