//! The little of ELF that is needed here: sections, notes, and whether a program is static. Bytes may be hostile.
//!
//! 64-bit little-endian only. Nothing is trusted: every offset is checked, and whatever does not fit is an error or
//! is not there. Work is bounded by the file's size and by [`MAX_TABLE`] headers.

/// An ELF file in memory.
#[derive(Clone, Copy, Debug)]
pub struct Elf<'a> {
    bytes: &'a [u8],
    kind: u16,
    machine: u16,
    segments: Table<'a>,
    sections: Table<'a>,
    names_index: u16,
}

/// The bytes are no ELF file that is understood here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The magic number is missing.
    #[error("no ELF magic number")]
    NoMagic,
    /// It is 32-bit or big-endian.
    #[error("not a 64-bit little-endian ELF file")]
    WrongClass,
    /// A header or a table of headers lies outside of the file.
    #[error("an ELF {0} lies outside of the file")]
    OutOfBounds(&'static str),
    /// Headers have another size than ELF64 gives them, or are too many.
    #[error("an ELF {0} has an impossible size")]
    BadTable(&'static str),
}

/// One note: who defined it, its number, and its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// The definer's name, without the final zero byte.
    pub name: &'a [u8],
    /// The definer's number for it.
    pub kind: u32,
    /// The contents.
    pub description: &'a [u8],
}

impl<'a> Elf<'a> {
    /// Looks at `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        if bytes.get(..4) != Some(b"\x7fELF".as_slice()) {
            return Err(ElfError::NoMagic);
        }
        if bytes.get(4..6) != Some([2, 1].as_slice()) {
            return Err(ElfError::WrongClass);
        }
        let header = bytes.get(..EHDR_SIZE).ok_or(ElfError::OutOfBounds("header"))?;
        let segments =
            Table::new(bytes, "program header table", u64_at(header, 32), u16_at(header, 54), u16_at(header, 56))?;
        let sections =
            Table::new(bytes, "section header table", u64_at(header, 40), u16_at(header, 58), u16_at(header, 60))?;
        segments.expect_size(PHDR_SIZE)?;
        sections.expect_size(SHDR_SIZE)?;
        let (kind, machine, names_index) = (u16_at(header, 16), u16_at(header, 18), u16_at(header, 62));
        Ok(Self { bytes, kind, machine, segments, sections, names_index })
    }

    /// The file's type: [`ET_EXEC`], [`ET_DYN`] or another.
    pub fn kind(&self) -> u16 {
        self.kind
    }

    /// The processor: [`EM_X86_64`] or another.
    pub fn machine(&self) -> u16 {
        self.machine
    }

    /// The contents of the first section named `name`.
    pub fn section(&self, name: &str) -> Option<&'a [u8]> {
        let names = self.sections.rows().nth(usize::from(self.names_index))?;
        let names = self.slice(u64_at(names, 24), u64_at(names, 32))?;
        self.sections
            .rows()
            .filter(|row| u32_at(row, 4) != SHT_NOBITS)
            .find(|row| text_at(names, u32_at(row, 0)) == Some(name.as_bytes()))
            .and_then(|row| self.slice(u64_at(row, 24), u64_at(row, 32)))
    }

    /// The dynamic loader the program asks for.
    pub fn interpreter(&self) -> Option<String> {
        let row = self.segments.rows().find(|row| u32_at(row, 0) == PT_INTERP)?;
        let path = self.slice(u64_at(row, 8), u64_at(row, 32).min(MAX_INTERPRETER)).unwrap_or_default();
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(String::from_utf8_lossy(path).into_owned())
    }

    /// All notes in the note segments and note sections. One that is in both is seen twice; what is cut short is left
    /// out.
    pub fn notes(&self) -> impl Iterator<Item = Note<'a>> {
        let segments =
            self.segments.rows().filter(|row| u32_at(row, 0) == PT_NOTE).map(|row| (u64_at(row, 8), u64_at(row, 32)));
        let sections =
            self.sections.rows().filter(|row| u32_at(row, 4) == SHT_NOTE).map(|row| (u64_at(row, 24), u64_at(row, 32)));
        let elf = *self;
        segments.chain(sections).filter_map(move |(offset, size)| elf.slice(offset, size)).flat_map(Notes)
    }

    /// Whether QEMU can start this kernel at its PVH entry: it has Xen's note of that name.
    pub fn has_pvh_entry(&self) -> bool {
        self.notes().any(|note| note.name == b"Xen" && note.kind == XEN_ELFNOTE_PHYS32_ENTRY)
    }

    fn slice(&self, offset: u64, size: u64) -> Option<&'a [u8]> {
        let start = usize::try_from(offset).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(size).ok()?)?)
    }
}

/// A table of headers, all of one size.
#[derive(Clone, Copy, Debug)]
struct Table<'a> {
    bytes: &'a [u8],
    row_size: usize,
    what: &'static str,
}

impl<'a> Table<'a> {
    fn new(bytes: &'a [u8], what: &'static str, offset: u64, row_size: u16, rows: u16) -> Result<Self, ElfError> {
        let row_size = usize::from(row_size);
        if rows == 0 {
            return Ok(Self { bytes: &[], row_size: 1, what });
        }
        if rows > MAX_TABLE {
            return Err(ElfError::BadTable(what));
        }
        let size = row_size * usize::from(rows);
        let start = usize::try_from(offset).map_err(|_| ElfError::OutOfBounds(what))?;
        let table = start.checked_add(size).and_then(|end| bytes.get(start..end)).ok_or(ElfError::OutOfBounds(what))?;
        Ok(Self { bytes: table, row_size, what })
    }

    fn expect_size(&self, row_size: usize) -> Result<(), ElfError> {
        if self.bytes.is_empty() || self.row_size == row_size { Ok(()) } else { Err(ElfError::BadTable(self.what)) }
    }

    fn rows(self) -> impl Iterator<Item = &'a [u8]> {
        self.bytes.chunks_exact(self.row_size.max(1))
    }
}

/// The notes in one block of them.
struct Notes<'a>(&'a [u8]);

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let header = self.0.get(..12)?;
        let (name_size, size, kind) = (u32_at(header, 0) as usize, u32_at(header, 4) as usize, u32_at(header, 8));
        let start = 12usize.checked_add(name_size.checked_next_multiple_of(4)?)?;
        let name = self.0.get(12..12usize.checked_add(name_size)?)?;
        let description = self.0.get(start..start.checked_add(size)?)?;
        self.0 = self.0.get(start.checked_add(size.checked_next_multiple_of(4)?)?..).unwrap_or_default();
        Some(Note { name: name.strip_suffix(&[0]).unwrap_or(name), kind, description })
    }
}

/// The text at `offset`, up to its zero byte.
fn text_at(bytes: &[u8], offset: u32) -> Option<&[u8]> {
    let rest = bytes.get(offset as usize..)?;
    Some(&rest[..rest.iter().position(|byte| *byte == 0)?])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Only called with offsets inside of a header whose size was checked.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes makes an array of N bytes")
}

/// An executable at a fixed address.
pub const ET_EXEC: u16 = 2;
/// A shared object, or an executable at any address.
pub const ET_DYN: u16 = 3;
/// The x86-64 processor.
pub const EM_X86_64: u16 = 62;
/// More headers than this are refused. The largest kernel module has some hundreds of sections.
pub const MAX_TABLE: u16 = 8192;

const EHDR_SIZE: usize = 64;
const PHDR_SIZE: usize = 56;
const SHDR_SIZE: usize = 64;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const SHT_NOTE: u32 = 7;
const SHT_NOBITS: u32 = 8;
const MAX_INTERPRETER: u64 = 256;
/// Xen's number for the note that holds a kernel's PVH entry.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::ElfBuilder;

    #[test]
    fn sections_notes_and_the_loader_are_found() {
        let bytes = ElfBuilder::executable()
            .section(".modinfo", b"name=x\0")
            .note(b"GNU\0", 3, b"build id")
            .note(b"Xen\0", 18, &[1, 2, 3, 4])
            .interpreter("/lib64/ld-linux-x86-64.so.2")
            .build();
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!((elf.kind(), elf.machine()), (ET_EXEC, EM_X86_64));
        assert_eq!(elf.section(".modinfo"), Some(b"name=x\0".as_slice()));
        assert_eq!(elf.section(".text"), None);
        assert_eq!(elf.interpreter().as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
        assert!(elf.has_pvh_entry());
        let build_id = Note { name: b"GNU", kind: 3, description: b"build id" };
        assert_eq!(elf.notes().next(), Some(build_id));
    }

    #[test]
    fn a_kernel_without_the_note_has_no_pvh_entry() {
        for (name, kind) in [(b"Xen\0", 17), (b"GNU\0", 18)] {
            let bytes = ElfBuilder::executable().note(name, kind, &[0; 4]).build();
            assert!(!Elf::parse(&bytes).unwrap().has_pvh_entry());
        }
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let good = ElfBuilder::executable().section(".x", b"y").build();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Elf::parse(&bytes).unwrap_err()
        };
        assert_eq!(Elf::parse(b"#!/bin/sh").unwrap_err(), ElfError::NoMagic);
        assert_eq!(with(4, 1), ElfError::WrongClass);
        assert_eq!(with(5, 2), ElfError::WrongClass);
        assert_eq!(with(58, 40), ElfError::BadTable("section header table"));
        assert_eq!(with(47, 0x80), ElfError::OutOfBounds("section header table"));
        assert_eq!(with(61, 0xff), ElfError::BadTable("section header table"));
        assert_eq!(Elf::parse(&good[..63]).unwrap_err(), ElfError::OutOfBounds("header"));
    }

    fn look_at_everything(bytes: &[u8]) {
        if let Ok(elf) = Elf::parse(bytes) {
            let _ = (elf.section(".modinfo"), elf.interpreter(), elf.has_pvh_entry(), elf.notes().count());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            look_at_everything(&bytes);
            look_at_everything(&[b"\x7fELF\x02\x01".as_slice(), &bytes].concat());
        }

        #[test]
        fn damaged_files_never_panic(at in 0usize..600, byte: u8, cut in 0usize..600) {
            let mut bytes = ElfBuilder::executable()
                .section(".modinfo", b"name=x\0")
                .note(b"Xen\0", 18, &[1; 9])
                .interpreter("/lib/ld.so")
                .build();
            let end = bytes.len();
            bytes[at % end] = byte;
            look_at_everything(&bytes);
            look_at_everything(&bytes[..cut % end]);
        }
    }
}
