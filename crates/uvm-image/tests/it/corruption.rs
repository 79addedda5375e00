//! Damage to anything that was made is noticed, and what is damaged is made anew.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use uvm_image::{BootFiles, ImageError, ImageErrorKind, Kernel};

use crate::machine::{Machine, files_in, only};

/// A way to damage a file, and its name.
type DamageBy = (&'static str, fn(&Path));

const DAMAGES: &[DamageBy] = &[
    ("missing", |path| fs::remove_file(path).unwrap()),
    ("empty", |path| rewrite(path, Vec::clear)),
    ("cut short", |path| rewrite(path, |bytes| bytes.truncate(bytes.len() / 2))),
    ("one byte short", |path| rewrite(path, |bytes| bytes.truncate(bytes.len() - 1))),
    ("one byte longer", |path| rewrite(path, |bytes| bytes.push(0))),
    ("first bit flipped", |path| rewrite(path, |bytes| bytes[0] ^= 1)),
    ("middle bit flipped", |path| {
        rewrite(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        });
    }),
    ("a directory", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("a dangling link", |path| {
        fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("nowhere", path).unwrap();
    }),
];

/// Changes a sealed file in place, as a disk error or a careless program would.
fn rewrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// All files below a directory.
fn all_files(dir: &Path) -> Vec<PathBuf> {
    files_in(dir).into_iter().flat_map(|path| if path.is_dir() { all_files(&path) } else { vec![path] }).collect()
}

#[test]
fn damaged_boot_files_are_noticed_and_made_anew() {
    let machine = Machine::new();
    let good = machine.ensure();
    let (dir, manifest) = (good.dir().to_owned(), good.manifest().clone());
    drop(good);
    for name in ["vmlinux", "initrd.img", "manifest.json"] {
        for (damage, apply) in DAMAGES {
            if name == "manifest.json" && *damage == "one byte short" {
                continue; // a final newline, without which it says the same; see the test of every cut
            }
            apply(&dir.join(name));
            let opened = BootFiles::open(&dir);
            let error = opened.err().unwrap_or_else(|| panic!("{name} {damage} went unnoticed"));
            let expected = name == "manifest.json" && matches!(*damage, "missing" | "a dangling link");
            match error {
                ImageError::NotBootFiles { .. } => assert!(expected, "{name} {damage}"),
                ImageError::Damaged { .. } => assert_eq!(error.kind(), ImageErrorKind::Corrupt),
                ImageError::Io { .. } => assert!(*damage == "a directory", "{name} {damage}: {error}"),
                other => panic!("{name} {damage}: {other}"),
            }
            let remade = machine.ensure();
            assert_eq!(*remade.manifest(), manifest, "{name} {damage}");
            remade.verify().unwrap_or_else(|error| panic!("{name} {damage}: {error}"));
            assert!(machine.junk().is_empty());
        }
    }
}

#[test]
fn a_manifest_cut_anywhere_is_noticed() {
    let machine = Machine::new();
    let files = machine.ensure();
    let path = files.dir().join("manifest.json");
    let whole = fs::read(&path).unwrap();
    // Without its last byte, a newline, it still says all.
    for at in 0..whole.len() - 1 {
        rewrite(&path, |bytes| *bytes = whole[..at].to_vec());
        assert!(matches!(BootFiles::open(files.dir()), Err(ImageError::Damaged { .. })), "cut at {at}");
    }
    let dir = files.dir().to_owned();
    drop(files);
    assert_eq!(machine.ensure().dir(), dir);
}

#[test]
fn a_damaged_kernel_or_busybox_is_not_built_from() {
    let machine = Machine::new();
    let good = machine.ensure();
    let (manifest, boot) = (good.manifest().clone(), machine.data_dir().boot());
    drop(good);
    let downloads = machine.downloads();
    let sources = [only(&machine.data_dir().kernels()), only(&machine.data_dir().path().join("busybox"))];
    let files: Vec<_> = sources.iter().flat_map(|dir| all_files(dir)).collect();
    assert!(files.len() > 10, "{files:?}");
    for (number, file) in files.iter().enumerate() {
        // Each build syncs to disk, so not all ways for all files: each way hits some, each file suffers three.
        for (damage, apply) in DAMAGES.iter().cycle().skip(number).step_by(3).take(3) {
            fs::remove_dir_all(&boot).unwrap();
            apply(file);
            let remade = machine.ensure();
            remade.verify().unwrap();
            assert_eq!(*remade.manifest(), manifest, "{} {damage}", file.display());
            for dir in &sources {
                assert!(all_files(dir).iter().all(|path| path.is_file()), "{} {damage}", file.display());
            }
        }
    }
    for kernel in Kernel::list(&machine.data_dir()).unwrap() {
        kernel.verify().unwrap();
    }
    assert_eq!(machine.downloads(), downloads, "the packages were still there");
}

#[test]
fn a_damaged_download_is_downloaded_again() {
    let machine = Machine::new();
    drop(machine.ensure());
    let downloads = machine.downloads();
    for path in files_in(&machine.data_dir().downloads()) {
        rewrite(&path, |bytes| bytes[100] ^= 1);
    }
    for dir in ["boot", "kernels", "busybox"] {
        fs::remove_dir_all(machine.data_dir().path().join(dir)).unwrap();
    }
    machine.ensure().verify().unwrap();
    assert_eq!(machine.downloads(), downloads + 2);
}

#[test]
fn bytes_that_rot_silently_are_found_by_verify() {
    let machine = Machine::new();
    let files = machine.ensure();
    let path = files.initrd_path();
    let sealed = fs::metadata(&path).unwrap().modified().unwrap();
    rewrite(&path, |bytes| bytes[1000] ^= 1);
    fs::File::options().write(true).open(&path).unwrap().set_modified(sealed).unwrap();
    assert_eq!(machine.ensure().dir(), files.dir(), "the quick check does not read files");
    let error = files.verify().unwrap_err();
    assert!(error.to_string().contains("initrd.img has SHA-256"), "{error}");
}
