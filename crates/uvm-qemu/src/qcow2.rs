//! The header of a qcow2: whether the image is one file. Offsets and bits as in the published format, version 3; numbers are
//! big endian.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// What one begins with.
pub(crate) const MAGIC: &[u8] = b"QFI\xfb";

/// Refuses what is none, and what names another file.
pub(crate) fn check(file: &File) -> Result<(), String> {
    let mut header = Vec::new();
    file.take(104).read_to_end(&mut header).map_err(|e| e.to_string())?;
    if header.len() < 72 || !header.starts_with(MAGIC) {
        return Err("it is said to be a qcow2, and is none".into());
    }
    // Version 2 has less of it.
    header.resize(104, 0);
    let number = |at: usize, bytes: usize| {
        header[at..at + bytes].iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
    };
    let (version, backing_at, backing_bytes) = (number(4, 4), number(8, 8), number(16, 4));
    if backing_at != 0 {
        let mut name = vec![0; usize::try_from(backing_bytes).unwrap_or_default().min(1023)];
        let read = file.read_at(&mut name, backing_at).map_err(|e| e.to_string())?;
        name.truncate(read);
        let name = String::from_utf8_lossy(&name);
        return Err(format!(
            "it stands on another file, {name:?}, which is not opened; qemu-img rebase -b \"\" joins them"
        ));
    }
    // Bit 2 of the features that must be understood: the data is in another file.
    if version >= 3 && number(72, 8) & 4 != 0 {
        return Err("its data is in another file, which is not opened; qemu-img convert makes one file of both".into());
    }
    Ok(())
}
