//! Boot files are made once, found again, and told apart.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use uvm_image::{
    AgentKind, BootFiles, BusyboxSource, CancelFlag, ExtraFile, ImageError, ImageErrorKind, KernelImage, Progress,
    ProgressSink, Step,
};

use crate::machine::{Machine, RELEASE, chain, files_in, recorder};

#[test]
fn the_first_call_makes_them_and_the_manifest_says_what_they_are() {
    let machine = Machine::new();
    let files = machine.ensure();
    let manifest = files.manifest();
    assert_eq!((manifest.agent.kind, manifest.agent.version.as_str()), (AgentKind::Ours, "1.0"));
    assert_eq!((manifest.kernel.release.as_str(), manifest.kernel.hz), (RELEASE, Some(250)));
    assert_eq!(manifest.kernel.image, KernelImage::Vmlinux);
    assert_eq!(manifest.busybox.as_deref(), Some("busybox-static 1:1.35.0-4"));
    assert_eq!(manifest.modules, ["crc32c", "ext4", "virtio", "virtio_console", "virtio_pci"]);
    assert_eq!(files.kernel_path(), files.dir().join("vmlinux"));
    assert!(fs::read(files.kernel_path()).unwrap().starts_with(b"\x7fELF"));
    files.verify().unwrap();
    for path in [files.kernel_path(), files.initrd_path()] {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o444, "another user's QEMU can open {}", path.display());
    }
    assert_eq!(machine.junk(), [""; 0].map(std::path::PathBuf::from));
}

#[test]
fn the_second_call_asks_nobody_and_writes_nothing() {
    let machine = Machine::new();
    let first = machine.ensure();
    let calls = machine.apt_calls();
    let times = || {
        let dirs =
            [machine.data_dir().path().to_owned(), machine.data_dir().path().join("tmp"), first.dir().to_owned()];
        dirs.map(|dir| fs::metadata(dir).unwrap().mtime_nsec())
    };
    let before = times();
    // Not even a machine without apt matters.
    let mut options = machine.options();
    options.store = options.store.with_search_path("/nowhere");
    let (progress, events) = recorder();
    options.store = options.store.with_progress(progress);
    let second = BootFiles::ensure(&options).unwrap();
    assert_eq!(second.dir(), first.dir());
    assert_eq!(machine.apt_calls(), calls);
    assert_eq!(times(), before);
    assert_eq!(*events.lock().unwrap(), []);
}

#[test]
fn another_agent_makes_other_files_that_share_the_kernel() {
    let machine = Machine::new();
    let first = machine.ensure();
    machine.put_agent("2.0");
    let second = machine.ensure();
    assert_ne!(first.dir(), second.dir());
    let inode = |files: &BootFiles| fs::metadata(files.kernel_path()).unwrap().ino();
    assert_eq!(inode(&first), inode(&second), "the kernel is on disk once");
    assert_eq!(machine.downloads(), 2);
    machine.put_agent("1.0");
    assert_eq!(machine.ensure().dir(), first.dir(), "the first are still there");
}

#[test]
fn the_same_inputs_give_the_same_bytes_anywhere() {
    let (one, two) = (Machine::new(), Machine::new());
    let (one, two) = (one.ensure(), two.ensure());
    assert_eq!(one.dir().file_name(), two.dir().file_name());
    for name in ["initrd.img", "vmlinux", "manifest.json"] {
        assert!(fs::read(one.dir().join(name)).unwrap() == fs::read(two.dir().join(name)).unwrap(), "{name}");
    }
}

#[test]
fn extra_files_and_other_tools_count_as_inputs() {
    let machine = Machine::new();
    let plain = machine.ensure();
    fs::write(machine.path("motd"), "one").unwrap();
    let with_motd = || machine.options().with_extra_file(ExtraFile::new("/etc/motd", machine.path("motd")).unwrap());
    let one = BootFiles::ensure(&with_motd()).unwrap();
    fs::write(machine.path("motd"), "two").unwrap();
    let two = BootFiles::ensure(&with_motd()).unwrap();
    let none = BootFiles::ensure(&machine.options().with_busybox(BusyboxSource::None)).unwrap();
    let own = machine.options().with_busybox(BusyboxSource::Path(machine.path("agent")));
    let own = BootFiles::ensure(&own).unwrap();
    let dirs: std::collections::BTreeSet<_> = [&plain, &one, &two, &none, &own].map(BootFiles::dir).into();
    assert_eq!(dirs.len(), 5);
    assert_eq!(none.manifest().busybox, None);
    fs::remove_file(machine.path("motd")).unwrap();
    let error = BootFiles::ensure(&with_motd()).unwrap_err();
    assert!(error.to_string().contains("motd"), "{error}");
}

#[test]
fn what_is_in_use_cannot_be_removed() {
    let machine = Machine::new();
    let files = machine.ensure();
    let key = files.dir().file_name().unwrap().to_str().unwrap().to_owned();
    let data = machine.data_dir();
    let clone = files.clone();
    drop(files);
    assert!(matches!(BootFiles::remove(&data, &key[..6]), Err(ImageError::InUse { name }) if name == key));
    let listed = BootFiles::list(&data).unwrap();
    assert!(listed.len() == 1 && listed[0].in_use && listed[0].key == key);
    assert_eq!(listed[0].manifest.as_ref().unwrap().agent.version, "1.0");
    drop(clone);
    // A child of another test has the lock, too, between its fork and its exec.
    let began = std::time::Instant::now();
    while BootFiles::list(&data).unwrap()[0].in_use {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "it stays in use");
        std::thread::yield_now();
    }
    let removed = BootFiles::remove(&data, &key[..6]).unwrap();
    assert!(removed.name == key && removed.bytes > 0);
    assert!(BootFiles::list(&data).unwrap().is_empty() && machine.junk().is_empty());
    assert!(matches!(BootFiles::remove(&data, &key), Err(ImageError::NoSuchEntry { .. })));
    assert_eq!(machine.ensure().dir().file_name().unwrap().to_str(), Some(key.as_str()));
}

#[test]
fn what_is_superseded_is_neither_in_use_nor_the_newest_nor_damaged() {
    let machine = Machine::new();
    let data = machine.data_dir();
    let made = |number: u64| {
        fs::write(machine.path("motd"), number.to_string()).unwrap();
        let extra = ExtraFile::new("/etc/motd", machine.path("motd")).unwrap();
        let files = BootFiles::ensure(&machine.options().with_extra_file(extra)).unwrap();
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + number);
        fs::File::open(files.dir()).unwrap().set_modified(at).unwrap();
        files
    };
    let [used, damaged, old, older] = [3, 2, 1, 0].map(made);
    let newest = made(4);
    let initrd = damaged.initrd_path();
    fs::remove_file(&initrd).unwrap();
    fs::File::open(damaged.dir()).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let kept = [&newest, &used, &damaged].map(|files| files.dir().to_owned());
    let expected = [&old, &older].map(|files| files.dir().to_owned());
    drop((newest, damaged, old, older));
    // A child of another test has the locks, too, between its fork and its exec.
    let began = std::time::Instant::now();
    let found = || -> Vec<_> { BootFiles::superseded(&data).unwrap().into_iter().map(|entry| entry.dir).collect() };
    while found() != expected {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{:?}, not {expected:?}", found());
        std::thread::yield_now();
    }
    for entry in BootFiles::superseded(&data).unwrap() {
        BootFiles::remove(&data, &entry.key).unwrap();
    }
    assert!(found().is_empty() && kept.iter().all(|dir| dir.is_dir()));
}

#[test]
fn a_copied_directory_can_be_opened_and_another_one_not() {
    let machine = Machine::new();
    let files = machine.ensure();
    let copy = machine.path("copy");
    fs::create_dir(&copy).unwrap();
    for path in files_in(files.dir()) {
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let opened = BootFiles::open(&copy).unwrap();
    assert_eq!(opened.manifest(), files.manifest());
    opened.verify().unwrap();
    let error = BootFiles::open(machine.path("bin")).unwrap_err();
    assert!(matches!(error, ImageError::NotBootFiles { .. }) && error.kind() == ImageErrorKind::NotFound, "{error}");
    assert!(matches!(BootFiles::open(machine.path("agent")), Err(ImageError::NotBootFiles { .. })));
}

#[test]
fn every_step_is_reported_in_order() {
    let machine = Machine::new();
    let (progress, events) = recorder();
    let mut options = machine.options();
    options.store = options.store.with_progress(progress);
    let _files = BootFiles::ensure(&options).unwrap();
    let mut open = Vec::new();
    let mut steps = Vec::new();
    for event in events.lock().unwrap().iter() {
        match event {
            Progress::Started { step, detail } => {
                assert!(!detail.is_empty());
                open.push(*step);
                steps.push(*step);
            }
            Progress::Finished { step } => assert_eq!(open.pop(), Some(*step)),
            _ => {}
        }
    }
    assert!(open.is_empty());
    let expected = [
        Step::Downloading,
        Step::Unpacking,
        Step::ExtractingKernel,
        Step::ChoosingModules,
        Step::Downloading,
        Step::Unpacking,
        Step::Verifying,
        Step::BuildingInitramfs,
    ];
    assert_eq!(steps, expected);
}

#[test]
fn cancelled_at_any_event_it_leaves_nothing_half_made() {
    for at in 0.. {
        let machine = Machine::new();
        let cancel = CancelFlag::default();
        let count = std::sync::atomic::AtomicUsize::new(0);
        let mut options = machine.options();
        options.store = options.store.with_cancel(cancel.clone()).with_progress(ProgressSink::new(move |_| {
            if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == at {
                cancel.cancel();
            }
        }));
        let result = BootFiles::ensure(&options);
        assert!(machine.junk().is_empty(), "cancelled at event {at}: {:?}", machine.junk());
        match result {
            Err(ImageError::Cancelled) => {
                machine.ensure().verify().unwrap();
                assert_eq!(machine.junk().len(), 0);
            }
            // The last events come after the point of no return.
            Ok(_) if at >= 10 => return,
            other => {
                panic!("cancelled at event {at}: {}", other.map_or_else(|error| chain(&error), |_| "finished".into()))
            }
        }
    }
}
