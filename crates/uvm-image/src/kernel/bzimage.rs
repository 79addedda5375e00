//! Taking the kernel's ELF file out of a bzImage.
//!
//! A bzImage is a loader with the compressed kernel inside; its set-up header (boot protocol 2.08 and later) says
//! where. Unpacking it once here saves the guest doing it at each boot: 5 seconds to 2 for Debian's kernel under
//! emulation.

use std::io::{self, Read};

use crate::compression::Compression;
use crate::elf::{EM_X86_64, Elf, ElfError};

/// Why a kernel image cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// It is neither an ELF file nor a bzImage.
    #[error("it is neither a bzImage nor an ELF file")]
    UnknownImage,
    /// The set-up header of the bzImage is too old to say where the kernel is.
    #[error("its boot protocol {}.{:02} is older than 2.08", .0 >> 8, .0 & 0xff)]
    OldProtocol(u16),
    /// The header points out of the file.
    #[error("its header points out of the file: it is cut short or damaged")]
    Truncated,
    /// The kernel in it is compressed in a way not supported.
    #[error("the kernel in it is compressed with {0}; only gzip, xz and zstd can be unpacked")]
    Compression(&'static str),
    /// The kernel in it cannot be decompressed.
    #[error("the kernel in it cannot be decompressed")]
    Decompress(#[source] io::Error),
    /// What was unpacked is no kernel.
    #[error("the kernel in it is damaged")]
    Payload(#[source] ElfError),
    /// It is for another processor.
    #[error("it is for another processor than x86-64 (ELF machine {0})")]
    WrongMachine(u16),
    /// QEMU cannot start it directly.
    #[error("it has no PVH entry (CONFIG_PVH)")]
    NoPvhEntry,
    /// No release is in it.
    #[error("its release cannot be told")]
    NoRelease,
    /// It does not fit the modules given with it.
    #[error("its release is {kernel}, but the modules are for {modules}")]
    ModulesDiffer {
        /// The kernel's.
        kernel: String,
        /// The modules'.
        modules: String,
    },
}

/// Whether `bytes` begin like a bzImage.
pub fn is_bzimage(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS".as_slice()) && bytes.get(0x1fe..0x200) == Some([0x55, 0xaa].as_slice())
}

/// The kernel's release: the first word of the version text that the set-up header points to.
pub fn release(image: &[u8]) -> Result<String, KernelError> {
    if !is_bzimage(image) {
        return Err(KernelError::UnknownImage);
    }
    let offset = usize::from(u16_at(image, 0x20e)?);
    let text = image.get(offset + 0x200..).filter(|_| offset != 0).ok_or(KernelError::NoRelease)?;
    first_word(text).ok_or(KernelError::NoRelease)
}

/// The ELF file in a bzImage, if QEMU can start it at a PVH entry. Unpacked, it may have `limit` bytes.
pub fn extract_vmlinux(image: &[u8], limit: u64) -> Result<Vec<u8>, KernelError> {
    if !is_bzimage(image) {
        return Err(KernelError::UnknownImage);
    }
    let protocol = u16_at(image, 0x206)?;
    if protocol < 0x208 {
        return Err(KernelError::OldProtocol(protocol));
    }
    let setup_sectors = match image[0x1f1] {
        0 => 4, // as the boot protocol has it
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + u32_at(image, 0x248)? as usize;
    let payload = start
        .checked_add(u32_at(image, 0x24c)? as usize)
        .and_then(|end| image.get(start..end))
        .ok_or(KernelError::Truncated)?;
    let compression = Compression::of_payload(payload).map_err(KernelError::Compression)?;
    let mut kernel = Vec::new();
    compression
        .reader(payload, limit)
        .and_then(|mut reader| reader.read_to_end(&mut kernel))
        .map_err(KernelError::Decompress)?;
    check_vmlinux(&kernel)?;
    Ok(kernel)
}

/// Whether QEMU can start this uncompressed kernel.
pub fn check_vmlinux(kernel: &[u8]) -> Result<(), KernelError> {
    let elf = Elf::parse(kernel).map_err(KernelError::Payload)?;
    if elf.machine() != EM_X86_64 {
        return Err(KernelError::WrongMachine(elf.machine()));
    }
    if elf.has_pvh_entry() { Ok(()) } else { Err(KernelError::NoPvhEntry) }
}

/// The release in an uncompressed kernel, from its banner: `Linux version 6.12.1 (...)`.
pub fn vmlinux_release(kernel: &[u8]) -> Option<String> {
    // Format strings with the same beginning go on with `%s`.
    find_all(kernel, BANNER).find_map(|at| first_word(&kernel[at + BANNER.len()..]).filter(|word| !word.contains('%')))
}

/// The offsets of `needle` in `bytes`.
fn find_all<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + find(&bytes[from..], needle)?;
        from = at + 1;
        Some(at)
    })
}

/// The first offset of `needle` in `bytes`. The first byte of `needle` should be rare.
fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    loop {
        from += bytes.get(from..)?.iter().position(|byte| *byte == first)?;
        if bytes[from..].starts_with(needle) {
            return Some(from);
        }
        from += 1;
    }
}

/// The first word of a text in memory, if it can be a kernel release.
fn first_word(text: &[u8]) -> Option<String> {
    let end = text.iter().take(MAX_RELEASE + 1).position(|byte| matches!(byte, b' ' | b'\0' | b'\n'))?;
    let word = std::str::from_utf8(&text[..end]).ok()?;
    is_release(word).then(|| word.to_owned())
}

/// Whether `text` can be a kernel release: it becomes part of paths and of the initramfs.
pub(crate) fn is_release(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '~' | '%');
    (1..=MAX_RELEASE).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '%')
        && text.chars().all(allowed)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, KernelError> {
    let bytes = bytes.get(at..at + 2).ok_or(KernelError::Truncated)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, KernelError> {
    let bytes = bytes.get(at..at + 4).ok_or(KernelError::Truncated)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

const BANNER: &[u8] = b"Linux version ";
/// `__NEW_UTS_LEN`.
const MAX_RELEASE: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{ElfBuilder, bzimage, compress};

    const RELEASE: &str = "6.1.0-56-amd64";
    const LIMIT: u64 = 1 << 20;

    fn image(suffix: &str) -> Vec<u8> {
        let mut payload = compress(&ElfBuilder::pvh_kernel("Linux version 6.1.0-56-amd64 (x)"), suffix);
        payload.extend_from_slice(&[1, 2, 3, 4]); // the size that the kernel's build appends
        bzimage(&payload, RELEASE)
    }

    #[test]
    fn kernels_come_out_of_every_supported_compression() {
        for suffix in ["", ".gz", ".xz", ".zst"] {
            let kernel = extract_vmlinux(&image(suffix), LIMIT).unwrap();
            assert_eq!(vmlinux_release(&kernel).as_deref(), Some(RELEASE), "{suffix}");
            assert_eq!(release(&image(suffix)).unwrap(), RELEASE);
        }
    }

    #[test]
    fn each_defect_is_told_apart() {
        let extract = |image: &[u8]| extract_vmlinux(image, LIMIT).unwrap_err();
        assert!(matches!(extract(b"MZ"), KernelError::UnknownImage));
        let mut old = image(".xz");
        old[0x206] = 0x07;
        assert_eq!(extract(&old).to_string(), "its boot protocol 2.07 is older than 2.08");
        let lz4 = bzimage(&[0x02, 0x21, 0x4c, 0x18, 0, 0], RELEASE);
        assert!(matches!(extract(&lz4), KernelError::Compression("lz4")));
        let no_pvh = bzimage(&compress(&ElfBuilder::executable().build(), ".xz"), RELEASE);
        assert!(matches!(extract(&no_pvh), KernelError::NoPvhEntry));
        let arm = ElfBuilder::executable().machine(183).note(b"Xen\0", 18, &[0; 4]).build();
        assert!(matches!(extract(&bzimage(&compress(&arm, ".gz"), RELEASE)), KernelError::WrongMachine(183)));
        let bomb = bzimage(&compress(&vec![0x7f; 2 << 20], ".xz"), RELEASE);
        assert!(matches!(extract(&bomb), KernelError::Decompress(_)));
        let mut wild = image(".xz");
        wild[0x248..0x250].copy_from_slice(&[0xff; 8]);
        assert!(matches!(extract(&wild), KernelError::Truncated));
    }

    #[test]
    fn a_release_that_could_be_a_path_is_none() {
        for bad in ["../../etc", "a/b", "", "-rf", ".hidden"] {
            assert!(matches!(release(&bzimage(b"", bad)), Err(KernelError::NoRelease)), "{bad}");
        }
        let mut none = bzimage(b"", RELEASE);
        none[0x20e..0x210].copy_from_slice(&[0, 0]);
        assert!(matches!(release(&none), Err(KernelError::NoRelease)));
    }

    #[test]
    fn the_banner_is_found_behind_its_look_alikes() {
        let text = b"LLinux version %s (x)\0...Linux version \0Linux version 6.12.117 (u@h)";
        assert_eq!(vmlinux_release(text).as_deref(), Some("6.12.117"));
        assert_eq!(vmlinux_release(b"no kernel"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damaged_images_never_panic(at: usize, byte: u8, cut: usize) {
            let mut image = image(".xz");
            let end = image.len();
            image[at % end] = byte;
            let _ = (extract_vmlinux(&image, LIMIT), release(&image));
            let _ = (extract_vmlinux(&image[..cut % end], LIMIT), release(&image[..cut % end]));
        }

        #[test]
        fn damaged_headers_never_panic(header in proptest::collection::vec(any::<u8>(), 0x60)) {
            let mut image = image(".zst");
            image[0x1f0..0x1fe].copy_from_slice(&header[..0xe]);
            image[0x206..0x250].copy_from_slice(&header[..0x4a]);
            let _ = (extract_vmlinux(&image, LIMIT), release(&image));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..0x300)) {
            let _ = (extract_vmlinux(&bytes, LIMIT), release(&bytes), vmlinux_release(&bytes), check_vmlinux(&bytes));
        }
    }
}
