//! Makes small archives and ELF files for tests, good ones and hostile ones.
//!
//! Shared by the unit tests (as `crate::testing`), the integration tests and the fuzz seeds, none of which use all of
//! it.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "a tool box for several test programs")]

use std::io::Write;

use tar::{EntryType, Header};

/// Builds an ELF64 file with the given sections and notes.
pub struct ElfBuilder {
    kind: u16,
    machine: u16,
    sections: Vec<(String, Vec<u8>)>,
    notes: Vec<u8>,
    interpreter: Option<String>,
    trailer: Vec<u8>,
}

impl ElfBuilder {
    pub fn executable() -> Self {
        Self { kind: 2, machine: 62, sections: Vec::new(), notes: Vec::new(), interpreter: None, trailer: Vec::new() }
    }

    /// A kernel module with this `.modinfo`.
    pub fn module(info: &[&str]) -> Vec<u8> {
        let info: Vec<u8> = info.iter().flat_map(|line| line.bytes().chain([0])).collect();
        Self { kind: 1, ..Self::executable() }.section(".modinfo", &info).build()
    }

    /// A kernel that QEMU could start by PVH, were there any code in it.
    pub fn pvh_kernel(banner: &str) -> Vec<u8> {
        Self::executable().note(b"Xen\0", 18, &[0, 0, 0, 1]).section(".rodata", banner.as_bytes()).build()
    }

    /// A static program that carries `text`.
    pub fn program(text: &[u8]) -> Vec<u8> {
        Self::executable().section(".rodata", text).build()
    }

    pub fn kind(self, kind: u16) -> Self {
        Self { kind, ..self }
    }

    pub fn machine(self, machine: u16) -> Self {
        Self { machine, ..self }
    }

    pub fn section(mut self, name: &str, contents: &[u8]) -> Self {
        self.sections.push((name.to_owned(), contents.to_vec()));
        self
    }

    pub fn note(mut self, name: &[u8], kind: u32, description: &[u8]) -> Self {
        for word in [name.len() as u32, description.len() as u32, kind] {
            self.notes.extend_from_slice(&word.to_le_bytes());
        }
        for part in [name, description] {
            self.notes.extend_from_slice(part);
            self.notes.resize(self.notes.len().next_multiple_of(4), 0);
        }
        self
    }

    pub fn interpreter(mut self, path: &str) -> Self {
        self.interpreter = Some(path.to_owned());
        self
    }

    pub fn build(self) -> Vec<u8> {
        let mut segments = Vec::new();
        if !self.notes.is_empty() {
            segments.push((4u32, self.notes));
        }
        if let Some(path) = self.interpreter {
            segments.push((3, format!("{path}\0").into_bytes()));
        }
        let mut names = vec![0u8];
        let mut sections = vec![(0u32, 0u32, Vec::new())];
        for (name, contents) in self.sections {
            sections.push((names.len() as u32, 1, contents));
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        sections.push((names.len() as u32, 3, Vec::new()));
        names.extend_from_slice(b".shstrtab\0");
        sections.last_mut().unwrap().2 = names;

        let phoff = 64u64;
        let mut data_at = phoff + 56 * segments.len() as u64;
        let mut data = Vec::new();
        let mut program_headers = Vec::new();
        for (kind, contents) in &segments {
            let size = contents.len() as u64;
            program_headers.extend_from_slice(&kind.to_le_bytes());
            program_headers.extend_from_slice(&4u32.to_le_bytes());
            for word in [data_at, 0, 0, size, size, 4] {
                program_headers.extend_from_slice(&word.to_le_bytes());
            }
            data.extend_from_slice(contents);
            data_at += size;
        }
        let mut section_headers = Vec::new();
        for (name, kind, contents) in &sections {
            for word in [*name, *kind] {
                section_headers.extend_from_slice(&word.to_le_bytes());
            }
            for word in [0u64, 0, data_at, contents.len() as u64, 0, 1, 0] {
                section_headers.extend_from_slice(&word.to_le_bytes());
            }
            data.extend_from_slice(contents);
            data_at += contents.len() as u64;
        }
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [self.kind, self.machine] {
            elf.extend_from_slice(&half.to_le_bytes());
        }
        elf.extend_from_slice(&1u32.to_le_bytes());
        for word in [0, phoff, data_at] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
        elf.extend_from_slice(&0u32.to_le_bytes());
        for half in [64, 56, segments.len() as u16, 64, sections.len() as u16, sections.len() as u16 - 1] {
            elf.extend_from_slice(&half.to_le_bytes());
        }
        elf.extend(program_headers);
        elf.extend(data);
        elf.extend(section_headers);
        elf.extend(self.trailer);
        elf
    }
}

/// An `ar` archive.
pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, contents) in members {
        writeln!(bytes, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, 100_644, contents.len()).unwrap();
        bytes.extend_from_slice(contents);
        if contents.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// A Debian package whose `data.tar` is compressed as `suffix` says.
pub fn deb(tar: &[u8], suffix: &str) -> Vec<u8> {
    let member = format!("data.tar{suffix}");
    ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"odd"), (&member, &compress(tar, suffix))])
}

/// `bytes`, compressed as the file name suffix says.
pub fn compress(bytes: &[u8], suffix: &str) -> Vec<u8> {
    match suffix {
        "" => bytes.to_vec(),
        ".gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        ".zst" => zstd::encode_all(bytes, 1).unwrap(),
        other => panic!("no compression {other}"),
    }
}

/// A bzImage (boot protocol 2.15) with this compressed payload and release.
pub fn bzimage(payload: &[u8], release: &str) -> Vec<u8> {
    let setup_sectors = 3usize;
    let mut image = vec![0u8; (setup_sectors + 1) * 512];
    image[0x1f1] = setup_sectors as u8;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    let text = format!("{release} (builder@host) #1 SMP\0");
    let text_at = 0x400;
    image[text_at..text_at + text.len()].copy_from_slice(text.as_bytes());
    image[0x20e..0x210].copy_from_slice(&(text_at as u16 - 0x200).to_le_bytes());
    let payload_offset = 0x40_u32;
    image[0x248..0x24c].copy_from_slice(&payload_offset.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(&vec![0x90; payload_offset as usize]);
    image.extend_from_slice(payload);
    image.extend_from_slice(&[0; 64]);
    image
}

/// Builds tar archives, including ones that no sane tool would write.
#[derive(Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
    mode: Option<u32>,
    claim: Option<u64>,
}

impl TarBuilder {
    /// The size that the next entry claims to have.
    pub fn claiming(mut self, size: u64) -> Self {
        self.claim = Some(size);
        self
    }

    /// The mode of the next entry.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    pub fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    /// A file; a path too long for the header gets a GNU long name.
    pub fn file(self, path: &str, contents: &[u8]) -> Self {
        if path.len() > 100 { self.long_name(path).file(&path[..100], contents) } else { self.raw_file(path, contents) }
    }

    /// A file whose path is written just as it is given.
    pub fn raw_file(self, path: &str, contents: &[u8]) -> Self {
        self.entry(EntryType::Regular, path, "", contents)
    }

    pub fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        self.entry(kind, path, target, b"")
    }

    /// A GNU long name for the next entry.
    pub fn long_name(self, path: &str) -> Self {
        self.entry(EntryType::GNULongName, "././@LongLink", "", format!("{path}\0").as_bytes())
    }

    /// A pax header for the next entry.
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut contents = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..rest + 8).find(|length| rest + length.to_string().len() == *length).unwrap();
            contents += [length.to_string().as_str(), " ", key, "=", value, "\n"].concat().as_str();
        }
        self.entry(EntryType::XHeader, "pax", "", contents.as_bytes())
    }

    pub fn entry(mut self, kind: EntryType, path: &str, target: &str, contents: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_mode(self.mode.take().unwrap_or(0o644));
        header.set_size(self.claim.take().unwrap_or(contents.len() as u64));
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub fn build(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}
