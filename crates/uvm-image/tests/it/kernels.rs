//! Kernels from elsewhere than the distribution's archive.

use std::fs;
use std::path::PathBuf;

use uvm_image::{BootFiles, ImageError, ImageErrorKind, Kernel, KernelImage, KernelKind, KernelSource, Progress};

use crate::builders::{ElfBuilder, bzimage, compress};
use crate::machine::{Machine, chain, kernel_image, recorder};

/// A directory like `/lib/modules/<release>`.
fn modules(machine: &Machine, release: &str) -> PathBuf {
    let dir = machine.path("modules");
    let vermagic = format!("vermagic={release} SMP");
    fs::create_dir_all(dir.join("kernel/drivers")).unwrap();
    for (name, depends) in
        [("virtio_pci.ko", "depends=virtio"), ("virtio_console.ko", "depends=virtio"), ("virtio.ko", "depends=")]
    {
        fs::write(dir.join("kernel/drivers").join(name), ElfBuilder::module(&[depends, &vermagic])).unwrap();
    }
    // As on an installed system: a link to a whole source tree, here to something endless.
    std::os::unix::fs::symlink(&dir, dir.join("build")).unwrap();
    dir
}

fn paths(machine: &Machine, image: &[u8], modules: Option<PathBuf>) -> KernelSource {
    fs::write(machine.path("image"), image).unwrap();
    fs::write(machine.path("config"), "CONFIG_HZ=1000\n").unwrap();
    KernelSource::Paths { kernel: machine.path("image"), modules, config: Some(machine.path("config")) }
}

fn boot(machine: &Machine, source: &KernelSource) -> Result<BootFiles, ImageError> {
    BootFiles::ensure(&machine.options().with_kernel(source.clone()))
}

#[test]
fn a_given_kernel_with_modules_is_taken_and_changes_to_it_are_noticed() {
    let machine = Machine::new();
    let source = paths(&machine, &kernel_image("6.9.1"), Some(modules(&machine, "6.9.1")));
    let files = boot(&machine, &source).unwrap();
    let kernel = &files.manifest().kernel;
    assert_eq!((kernel.release.as_str(), kernel.hz, kernel.image), ("6.9.1", Some(1000), KernelImage::Vmlinux));
    assert_eq!(files.manifest().modules, ["virtio", "virtio_console", "virtio_pci"]);
    assert_eq!(boot(&machine, &source).unwrap().dir(), files.dir());
    fs::write(machine.path("config"), "CONFIG_HZ=100\n").unwrap();
    assert_eq!(boot(&machine, &source).unwrap().manifest().kernel.hz, Some(100));
    assert_eq!(machine.downloads(), 1, "busybox only");
}

#[test]
fn an_elf_kernel_without_modules_is_monolithic() {
    let machine = Machine::new();
    let source = paths(&machine, &ElfBuilder::pvh_kernel("Linux version 6.12.5 (x)"), None);
    let files = boot(&machine, &source).unwrap();
    assert_eq!(files.manifest().kernel.release, "6.12.5");
    assert_eq!(files.manifest().modules, [""; 0]);
    assert_eq!(fs::read(files.kernel_path()).unwrap(), fs::read(machine.path("image")).unwrap());
}

#[test]
fn a_bzimage_that_cannot_be_unpacked_is_booted_as_it_is() {
    for (payload, why) in [
        (vec![0x02, 0x21, 0x4c, 0x18, 0, 0], "compressed with lz4"),
        (compress(&ElfBuilder::executable().build(), ".gz"), "no PVH entry"),
    ] {
        let machine = Machine::new();
        let source = paths(&machine, &bzimage(&payload, "6.9.1"), None);
        let (progress, events) = recorder();
        let mut options = machine.options().with_kernel(source);
        options.store = options.store.with_progress(progress);
        let files = BootFiles::ensure(&options).unwrap();
        assert_eq!(files.manifest().kernel.image, KernelImage::BzImage);
        assert_eq!(files.kernel_path(), files.dir().join("kernel"));
        let note = |event: &Progress| matches!(event, Progress::Note { text } if text.contains(why));
        assert!(events.lock().unwrap().iter().any(note), "{why}: {:?}", events.lock().unwrap());
    }
}

#[test]
fn files_that_are_no_kernel_are_refused() {
    let machine = Machine::new();
    let refused = |image: &[u8], modules: Option<PathBuf>, expected: &str| {
        let error = boot(&machine, &paths(&machine, image, modules)).unwrap_err();
        assert!(chain(&error).contains(expected), "{expected} in {}", chain(&error));
        assert!(chain(&error).contains(machine.path("image").to_str().unwrap()), "{}", chain(&error));
        assert!(machine.junk().is_empty());
    };
    refused(b"#!/bin/sh", None, "neither a bzImage nor an ELF file");
    refused(&ElfBuilder::pvh_kernel("nothing"), None, "its release cannot be told");
    refused(&ElfBuilder::executable().section(".x", b"Linux version 6.1 (x)").build(), None, "no PVH entry");
    refused(
        &kernel_image("6.9.2"),
        Some(modules(&machine, "6.9.1")),
        "its release is 6.9.2, but the modules are for 6.9.1",
    );
    let mut rotten = kernel_image("6.9.1");
    let middle = rotten.len() - 200;
    rotten[middle] ^= 0xff;
    refused(&rotten, None, "cannot be decompressed");
    let nowhere = KernelSource::Paths { kernel: "/nowhere".into(), modules: None, config: None };
    assert!(boot(&machine, &nowhere).unwrap_err().to_string().contains("cannot read /nowhere"));
    let device = KernelSource::Paths { kernel: "/dev/zero".into(), modules: None, config: None };
    assert!(matches!(boot(&machine, &device), Err(ImageError::BadInput { .. })), "it would never end");
}

#[test]
fn kernels_are_listed_chosen_by_name_and_removed() {
    let machine = Machine::new();
    let distribution = machine.ensure();
    let given = boot(&machine, &paths(&machine, &kernel_image("6.9.1"), None)).unwrap();
    let data = machine.data_dir();
    let kernels = Kernel::list(&data).unwrap();
    let facts: Vec<_> = kernels.iter().map(|kernel| (kernel.kind(), kernel.release())).collect();
    assert_eq!(facts, [(KernelKind::Given, "6.9.1"), (KernelKind::Distribution, "6.1.0-9-amd64")]);
    assert!(kernels[1].name().starts_with("distribution-6.1.0-9-amd64-"), "{}", kernels[1].name());
    assert_eq!(kernels[1].source(), "linux-image-6.1.0-9-amd64 6.1.9-1");

    let named = boot(&machine, &KernelSource::Named(kernels[0].name().to_owned())).unwrap();
    assert_eq!(named.dir(), given.dir());
    let error = boot(&machine, &KernelSource::Named("none".into())).unwrap_err();
    assert!(error.to_string().contains(kernels[0].name()), "it lists what there is: {error}");
    assert_eq!(error.kind(), ImageErrorKind::NotFound);

    Kernel::remove(&data, "distribution").unwrap();
    assert_eq!(Kernel::list(&data).unwrap().len(), 1);
    distribution.verify().expect("boot files do not need the kernel they were made from");
    assert_eq!(machine.ensure().dir(), distribution.dir());
}

#[test]
fn the_trimmed_kernel_is_not_built_by_the_way() {
    let machine = Machine::new();
    let error = boot(&machine, &KernelSource::Trimmed).unwrap_err();
    assert!(matches!(error, ImageError::TrimmedKernelMissing { .. }));
    assert!(error.to_string().contains("`uvm image kernel`"), "{error}");
}

#[test]
fn an_installed_kernel_that_is_not_there_is_named() {
    let machine = Machine::new();
    let source = KernelSource::Installed { release: Some("0.0.1-none".into()) };
    let error = boot(&machine, &source).unwrap_err();
    assert!(error.to_string().contains("/boot/vmlinuz-0.0.1-none"), "{error}");
}
