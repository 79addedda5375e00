//! What can go wrong with packages.

use std::fs;
use std::time::Duration;

use uvm_image::{BootFiles, Freshness, ImageError, ImageErrorKind, Progress, Step};

use crate::builders::{ElfBuilder, TarBuilder};
use crate::machine::{Machine, RELEASE, chain, kernel_tar, recorder};

fn fail(machine: &Machine) -> ImageError {
    let error = BootFiles::ensure(&machine.options()).expect_err("it cannot work");
    assert!(machine.junk().is_empty(), "{error} left {:?}", machine.junk());
    error
}

#[test]
fn a_machine_without_apt_is_told_what_to_do_instead() {
    let machine = Machine::new();
    fs::remove_file(machine.path("bin/apt-cache")).unwrap();
    let error = fail(&machine);
    let text = error.to_string();
    assert_eq!(error.kind(), ImageErrorKind::Download);
    for part in ["no apt-cache in", machine.path("bin").to_str().unwrap(), "--kernel PATH", "--kernel installed"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn missing_lists_are_fetched_into_our_own_directory() {
    let machine = Machine::new();
    fs::write(machine.path("archive/no-lists"), "").unwrap();
    machine.ensure().verify().unwrap();
    let lists = format!("Dir::State::lists={}", machine.data_dir().path().join("apt/lists").display());
    let calls = machine.apt_calls();
    let update = calls.iter().position(|call| call.ends_with(" update")).expect("it updated");
    assert!(calls[update].contains(&lists) && calls[update].contains("Error-Mode=any"), "{}", calls[update]);
    assert!(calls[update + 1].contains(&lists), "then it asks them: {}", calls[update + 1]);
    assert_eq!(calls.iter().filter(|call| call.ends_with(" update")).count(), 1);
}

#[test]
fn lists_that_name_a_file_gone_from_the_mirror_are_refreshed() {
    let machine = Machine::new();
    fs::write(machine.path("archive/stale"), "").unwrap();
    machine.ensure().verify().unwrap();
    assert_eq!(machine.apt_calls().iter().filter(|call| call.ends_with(" update")).count(), 1);
}

#[test]
fn our_own_lists_are_used_again_without_a_network() {
    let machine = Machine::new();
    fs::write(machine.path("archive/no-lists"), "").unwrap();
    drop(machine.ensure());
    // The machine's lists are empty still, ours are not; the network is gone.
    let archive = machine.path("archive").display().to_string();
    machine.script("apt-get", "echo 'E: no network' >&2; exit 100\n");
    let only_ours = format!(
        "case \"$*\" in *Dir::State::lists=*) ;; *) exit 100;; esac\nfor w; do :; done\n/bin/cat {archive}/${{w%%=*}}\n"
    );
    machine.script("apt-cache", &only_ours);
    for dir in ["boot", "kernels", "busybox"] {
        fs::remove_dir_all(machine.data_dir().path().join(dir)).unwrap();
    }
    machine.ensure().verify().unwrap();
}

#[test]
fn an_unknown_package_is_named_with_what_apt_says() {
    let machine = Machine::new();
    fs::remove_file(machine.path("archive/linux-image-amd64")).unwrap();
    let text = fail(&machine).to_string();
    for part in ["linux-image-amd64", "E: No packages found", "sources.list"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_failing_network_is_quoted() {
    let machine = Machine::new();
    machine.script("apt-get", "echo 'E: Could not resolve the mirror' >&2; exit 100\n");
    let text = fail(&machine).to_string();
    assert!(text.contains("update` failed") && text.contains("Could not resolve the mirror"), "{text}");
}

#[test]
fn an_apt_that_hangs_is_ended() {
    let machine = Machine::new();
    machine.script("apt-get", "echo 'waiting for headers' >&2; exec /bin/sleep 60\n");
    let mut options = machine.options();
    options.store.deadlines.download = Duration::from_millis(300);
    let error = BootFiles::ensure(&options).unwrap_err();
    assert!(matches!(&error, ImageError::CommandTimeout { .. }), "{error}");
    assert!(error.to_string().contains("waiting for headers"), "{error}");
    assert!(machine.junk().is_empty());
}

#[test]
fn a_slow_download_says_how_far_it_is() {
    let machine = Machine::new();
    let archive = machine.path("archive").display().to_string();
    let slowly =
        format!("for w; do :; done\nprintf half > part.deb; /bin/sleep 0.5; /bin/cp \"{archive}/$w.deb\" part.deb\n");
    machine.script("apt-get", &slowly);
    let (progress, events) = recorder();
    let mut options = machine.options();
    options.store = options.store.with_progress(progress);
    let _files = BootFiles::ensure(&options).unwrap();
    let half = |event: &Progress| match event {
        Progress::Advanced { step: Step::Downloading, done: 4, total } => total.is_some_and(|total| total > 4),
        _ => false,
    };
    assert_eq!(events.lock().unwrap().iter().filter(|event| half(event)).count(), 2, "once for each package");
}

#[test]
fn a_package_that_is_not_the_one_in_the_index_is_refused() {
    let machine = Machine::new();
    let record = machine.path("archive").join(format!("linux-image-{RELEASE}"));
    let text = fs::read_to_string(&record).unwrap();
    let (start, _) = text.split_once("SHA256: ").unwrap();
    fs::write(&record, format!("{start}SHA256: {}\n", "0".repeat(64))).unwrap();
    let error = fail(&machine);
    assert!(matches!(error, ImageError::PackageMismatch { .. }), "{error}");
    assert!(!machine.data_dir().downloads().join(format!("linux-image-{RELEASE}_6.1.9-1_amd64.deb")).exists());
}

#[test]
fn records_that_cannot_be_used_are_named() {
    let machine = Machine::new();
    fs::write(machine.path("archive/linux-image-amd64"), "Package: linux-image-amd64\nVersion: 1\n").unwrap();
    let text = fail(&machine).to_string();
    assert!(text.contains("linux-image-amd64") && text.contains("no field Architecture"), "{text}");
    let machine = Machine::new();
    let record = machine.path("archive/linux-image-amd64");
    let without = fs::read_to_string(&record).unwrap().replace("Depends: linux-image-", "Depends: other-");
    fs::write(&record, without).unwrap();
    assert!(fail(&machine).to_string().contains("depends on no linux-image-"));
}

#[test]
fn packages_that_hold_no_usable_kernel_are_named() {
    let check = |tar: TarBuilder, expected: &str| {
        let machine = Machine::new();
        machine.put_kernel_package(RELEASE, "6.1.9-1", &tar.build());
        let text = chain(&fail(&machine));
        assert!(text.contains(expected), "{expected} in {text}");
    };
    check(TarBuilder::default(), "holds no kernel image");
    check(kernel_tar(RELEASE).raw_file("../../etc/passwd", b"x"), "leads out of it");
    check(kernel_tar(RELEASE).raw_file("/etc/passwd", b"x"), "leads out of it");
    let image = format!("./boot/vmlinuz-{RELEASE}");
    check(TarBuilder::default().file(&image, b"no kernel"), "neither a bzImage nor an ELF file");
    let half = &crate::machine::kernel_image(RELEASE)[..2200];
    check(TarBuilder::default().file(&image, half), "cut short or damaged");
    let other = ElfBuilder::module(&["depends=", "vermagic=5.10.0 SMP"]);
    let mixed = kernel_tar(RELEASE).file(&format!("./lib/modules/{RELEASE}/kernel/virtio.ko"), &other);
    check(mixed, &format!("its release is {RELEASE}, but the modules are for 5.10.0"));
    let bare = TarBuilder::default()
        .file(&image, &crate::machine::kernel_image(RELEASE))
        .file(&format!("./lib/modules/{RELEASE}/kernel/x.ko"), &ElfBuilder::module(&["depends="]));
    check(bare, "lacks the driver virtio_pci");
    let nested = kernel_tar(RELEASE)
        .file(&format!("./lib/modules/{RELEASE}/kernel/virtio.ko"), &ElfBuilder::module(&["depends=nowhere"]));
    check(nested, "needs the module nowhere");
}

#[test]
fn a_newer_kernel_is_fetched_only_when_asked_for() {
    let machine = Machine::new();
    let old = machine.ensure();
    machine.put_kernel("6.1.0-10-amd64", "6.1.10-1");
    assert_eq!(machine.ensure().dir(), old.dir());
    let newest = BootFiles::ensure(&machine.options().with_freshness(Freshness::Newest)).unwrap();
    assert_eq!(newest.manifest().kernel.release, "6.1.0-10-amd64");
    assert_eq!(machine.ensure().dir(), newest.dir(), "from now on it is the default");
    old.verify().unwrap();
    let calls = machine.downloads();
    let again = BootFiles::ensure(&machine.options().with_freshness(Freshness::Newest)).unwrap();
    assert_eq!(again.dir(), newest.dir());
    assert_eq!(machine.downloads(), calls + 1, "one update, no download");
}

#[test]
fn kernels_in_several_packages_are_put_together() {
    let machine = Machine::new();
    let whole = kernel_tar("6.17.0-3-amd64").build();
    let image = TarBuilder::default()
        .file("./boot/vmlinuz-6.17.0-3-amd64", &crate::machine::kernel_image("6.17.0-3-amd64"))
        .build();
    machine.put_package("linux-modules-6.17.0-3-amd64", "6.17-1", "", &crate::builders::deb(&whole, ".zst"));
    let fields = "Depends: kmod, linux-modules-6.17.0-3-amd64 (= 6.17-1)\n";
    machine.put_package("linux-image-6.17.0-3-amd64", "6.17-1", fields, &crate::builders::deb(&image, ".zst"));
    let vermagic = "vermagic=6.17.0-3-amd64 SMP";
    let extra = TarBuilder::default()
        .file("./lib/modules/6.17.0-3-amd64/kernel/virtio_pmem.ko", &ElfBuilder::module(&["depends=", vermagic]))
        .build();
    machine.put_package("linux-modules-extra-6.17.0-3-amd64", "6.17-1", "", &crate::builders::deb(&extra, ".zst"));
    let fields = "Depends: linux-image-6.17.0-3-amd64 (= 6.17-1), linux-modules-extra-6.17.0-3-amd64, linux-firmware\n";
    fs::remove_file(machine.path("archive/linux-image-amd64")).unwrap();
    machine.put_package("linux-image-generic", "6.17-1", fields, b"");
    let files = machine.ensure();
    assert_eq!(files.manifest().kernel.release, "6.17.0-3-amd64");
    assert!(files.manifest().modules.contains(&"virtio_pmem".to_owned()));
}
