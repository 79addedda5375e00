//! The decoders of `uvm-image`: packages, kernels and kernel modules.

use std::io::Read;
use std::path::Component;

use uvm_image::deb::{DebError, TarEntry, Visit, walk_deb, walk_tar};
use uvm_image::elf::Elf;
use uvm_image::kernel::{bzimage, kconfig};
use uvm_image::modules::{ModInfo, ModuleName};

/// A Debian package, or the tar archive in one: the compression around it hides the archive from a fuzzer.
///
/// # Panics
/// At a finding.
pub fn image_deb(data: &[u8]) {
    let _ = walk_deb(data, LIMIT, visit);
    let _ = walk_tar(data.take(LIMIT), visit);
}

/// Reads an entry to its end and checks what the walk promises of it.
fn visit(mut entry: TarEntry<'_>) -> Result<Visit, DebError> {
    let path = entry.path.as_path();
    assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{}", path.display());
    assert!(!path.as_os_str().is_empty());
    let (size, mut read) = (entry.size, 0);
    let mut buffer = [0; 4096];
    loop {
        match entry.read(&mut buffer)? {
            0 => break,
            count => read += count as u64,
        }
    }
    assert_eq!(read, size, "an entry has as many bytes as it says, or fails");
    Ok(Visit::Continue)
}

/// A kernel image, a kernel module, a `.modinfo` section, or a configuration.
///
/// # Panics
/// At a finding.
pub fn image_kernel(data: &[u8]) {
    if let Ok(release) = bzimage::release(data) {
        assert!(!release.contains('/') && !release.is_empty() && !release.starts_with('.'), "{release}");
    }
    if let Ok(kernel) = bzimage::extract_vmlinux(data, LIMIT) {
        assert!(kernel.len() as u64 <= LIMIT);
        let _ = bzimage::vmlinux_release(&kernel);
    }
    let _ = bzimage::vmlinux_release(data);
    let _ = bzimage::check_vmlinux(data);
    if let Ok(elf) = Elf::parse(data) {
        let _ = (elf.section(".modinfo"), elf.interpreter());
        for note in elf.notes() {
            assert!(note.name.len() + note.description.len() <= data.len());
        }
    }
    for info in [ModInfo::of_module(data), ModInfo::parse(data)].into_iter().flatten() {
        let words = info.aliases.iter().chain(&info.soft_before).chain(&info.soft_after).map(String::as_str);
        for word in words.chain(info.depends.iter().map(ModuleName::as_str)) {
            assert!(
                !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic()),
                "{word:?} stands in a line of words"
            );
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let symbols = kconfig::parse(text);
        assert!(kconfig::differences(&symbols, &symbols).is_empty());
        let _ = kconfig::hz(text);
    }
}

/// The most that is decompressed.
const LIMIT: u64 = 1 << 20;
