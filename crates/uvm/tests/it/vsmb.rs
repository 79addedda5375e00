//! What is shared with Windows guests: directories, single files, and where the guest sees them, over the fake host.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uvm::platform::HostGuestConnection;
use uvm::platform::fake::{FakePlatform, Fault};
use uvm::platform::requests::{Change, Device, Setting, VsmbExport};
use uvm::wire::modify::{Modification, Resource, WindowsMappedDirectory, WindowsResource};
use uvm::{ErrorKind, GuestConnection, MemoryBacking, ResourceError, UtilityVm, UvmError, VsmbOptions, WcowOptions};

use crate::support::{Played, TestResult, chain, settle};

const PREFIX: &str = r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}\";

/// A VM whose guest is told what it is told by the host's service, and a directory with three files.
struct Shared {
    host: FakePlatform,
    vm: UtilityVm,
    dir: TempDir,
}

impl Shared {
    async fn boot() -> TestResult<Self> {
        Self::boot_with(|_| ()).await
    }

    async fn boot_with(change: impl FnOnce(&mut WcowOptions)) -> TestResult<Self> {
        let host = FakePlatform::new();
        host.set_guest_connection(HostGuestConnection { protocol_version: 4, capabilities: "{}".into() });
        let mut options = WcowOptions::new([r"C:\top", r"C:\base", r"C:\scratch"]);
        options.guest_connection = GuestConnection::HostService;
        change(&mut options);
        let vm = UtilityVm::create_wcow_on(Arc::new(host.clone()), &options).await?;
        vm.start().await?;
        let dir = tempfile::tempdir()?;
        for name in ["a", "b", "c"] {
            fs::write(dir.path().join(name), name)?;
        }
        Ok(Self { host, vm, dir })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the host was asked of shares and of what the guest is to do, in order.
    fn asked(&self) -> Vec<String> {
        let calls = self.host.calls();
        let short = |call: String| match call.strip_prefix("pass on ") {
            Some(request) if request.contains(r#""Remove""#) => Some("guest remove".to_owned()),
            Some(_) => Some("guest add".to_owned()),
            None => call.contains("vsmb").then_some(call),
        };
        calls.into_iter().filter_map(short).collect()
    }

    /// What the host has done of that, with the names of shares and files.
    fn done(&self) -> Vec<String> {
        let words = |share: &VsmbExport| {
            let files = share.allowed_files.iter().filter_map(|file| file.file_name()?.to_str());
            [share.name.as_str()].into_iter().chain(files).collect::<Vec<_>>().join(" ")
        };
        let of = |change: &Change| match change {
            Change::Add(Device::Vsmb(share)) => Some(format!("add {}", words(share))),
            Change::Update(Setting::VsmbFiles(share)) => Some(format!("update {}", words(share))),
            Change::Remove(Device::Vsmb(share)) => Some(format!("remove {}", share.name)),
            _ => None,
        };
        self.host.changes().iter().filter_map(|(change, _)| of(change)).collect()
    }
}

fn source(error: &UvmError) -> &ResourceError {
    match error {
        UvmError::Resource { source, .. } => source,
        other => panic!("{other}"),
    }
}

/// The call by which the host's service has the guest map a share.
fn maps(share: &str, to: &str) -> TestResult<String> {
    let mapped = WindowsMappedDirectory {
        host_path: format!("{PREFIX}{share}"),
        container_path: to.to_owned(),
        ..WindowsMappedDirectory::default()
    };
    let resource = Resource::Windows(WindowsResource::MappedDirectory(mapped));
    Ok(format!("pass on {}", serde_json::to_string(&Modification::add(resource))?))
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_shared_once_for_reading_and_once_for_writing() -> TestResult {
    let shared = Shared::boot().await?;
    let (vm, path) = (&shared.vm, shared.dir.path());
    let read_only = vm.default_vsmb_options(true);
    let expected = VsmbOptions {
        read_only: true,
        share_read: true,
        cache_io: true,
        pseudo_oplocks: true,
        ..VsmbOptions::default()
    };
    assert_eq!((read_only, vm.default_vsmb_options(false)), (expected, VsmbOptions::default()));
    let (one, two) = (vm.add_vsmb(path, read_only).await?, vm.add_vsmb(path, read_only).await?);
    let writable = vm.add_vsmb(path, vm.default_vsmb_options(false)).await?;
    assert_eq!(one.guest_path(), format!("{PREFIX}s1"));
    assert_eq!((two.guest_path(), writable.guest_path()), (one.guest_path(), format!("{PREFIX}s2").as_str()));
    assert_eq!(vm.vsmb_guest_path(path, true).await?, one.guest_path());
    one.release().await?;
    assert_eq!(shared.done(), ["add s1", "add s2"]);
    vm.remove_vsmb(path, true).await?;
    assert_eq!(vm.vsmb_guest_path(path, true).await.expect_err("gone").kind(), ErrorKind::NotFound);
    drop(writable);
    settle().await;
    assert_eq!(shared.done()[2..], ["remove s1", "remove s2"]);
    // A name is never used again.
    assert_eq!(vm.add_vsmb(path, read_only).await?.guest_path(), format!("{PREFIX}s3"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn files_are_not_mapped_where_devices_are_backed_physically_or_the_host_cannot_say() -> TestResult {
    let shared = Shared::boot_with(|options| options.backing = MemoryBacking::FullyPhysical).await?;
    assert!(shared.vm.default_vsmb_options(false).no_direct_map);
    shared.host.plant(&format!("can map files of {}", shared.dir.path().display()), 0, Fault::Fail);
    let error = shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()).await.expect_err("planted");
    assert!(matches!(source(&error), ResourceError::Host(_)), "{error}");
    assert!(shared.asked().is_empty());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn linux_guests_have_no_vsmb_shares() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let error = played.vm.add_vsmb("/", VsmbOptions::default()).await.expect_err("Linux");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d47_a_share_is_released_by_its_handle() -> TestResult {
    let shared = Shared::boot().await?;
    for path in [shared.dir.path().to_owned(), shared.file("a")] {
        let share = shared.vm.add_vsmb(&path, VsmbOptions::default()).await?;
        assert_eq!(share.host_path(), path);
        share.release().await?;
        assert!(matches!(source(&share.release().await.expect_err("released")), ResourceError::NotAttached));
    }
    assert_eq!(shared.done(), ["add s1", "remove s1", "add s2 a", "remove s2"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d48_what_is_gone_from_the_host_is_found_and_removed_all_the_same() -> TestResult {
    let shared = Shared::boot().await?;
    let file = shared.file("a");
    let share = shared.vm.add_vsmb(&file, VsmbOptions::default()).await?;
    fs::remove_file(&file)?;
    assert_eq!(shared.vm.vsmb_guest_path(&file, false).await?, share.guest_path());
    shared.vm.remove_vsmb(&file, false).await?;
    assert_eq!(shared.done(), ["add s1 a", "remove s1"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d49_a_removal_that_fails_takes_no_count() -> TestResult {
    let shared = Shared::boot().await?;
    let (a, b) = (
        shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()).await?,
        shared.vm.add_vsmb(shared.file("b"), VsmbOptions::default()).await?,
    );
    for (call, share) in [("update vsmb files", &a), ("remove vsmb", &b)] {
        shared.host.plant(call, 0, Fault::Fail);
        assert!(matches!(source(&share.release().await.expect_err("planted")), ResourceError::Host(_)));
        assert_eq!(shared.vm.vsmb_guest_path(share.host_path(), false).await?, share.guest_path());
        share.release().await?;
        let error = shared.vm.remove_vsmb(share.host_path(), false).await.expect_err("nobody has it");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    assert_eq!(shared.done(), ["add s1 a", "update s1 a b", "update s1 b", "remove s1"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d50_each_file_is_counted_and_hidden_when_nobody_has_it() -> TestResult {
    let shared = Shared::boot().await?;
    let (vm, [a, b, c]) = (&shared.vm, ["a", "b", "c"].map(|name| shared.file(name)));
    let one = vm.add_vsmb(&a, VsmbOptions::default()).await?;
    let two = vm.add_vsmb(&b, VsmbOptions::default()).await?;
    let one_again = vm.add_vsmb(&a, VsmbOptions::default()).await?;
    assert_eq!(one_again.guest_path(), format!(r"{PREFIX}s1\a"));
    let directory = vm.add_vsmb(shared.dir.path(), VsmbOptions::default()).await?;
    assert_eq!(vm.vsmb_guest_path(&c, false).await.expect_err("not of this share").kind(), ErrorKind::NotFound);
    assert_eq!(vm.remove_vsmb(&c, false).await.expect_err("nobody's").kind(), ErrorKind::NotFound);
    one.release().await?;
    assert_eq!(shared.done(), ["add s1 a", "update s1 a b", "add s2"]);
    drop(one_again);
    settle().await;
    assert_eq!(vm.vsmb_guest_path(&a, false).await.expect_err("hidden").kind(), ErrorKind::NotFound);
    let three = vm.add_vsmb(&c, VsmbOptions::default()).await?;
    two.release().await?;
    three.release().await?;
    directory.release().await?;
    assert_eq!(shared.done()[3..], ["update s1 b", "update s1 b c", "update s1 c", "remove s1", "remove s2"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn files_that_are_added_at_once_share_one_share_and_one_that_fails_fails_alone() -> TestResult {
    let shared = Shared::boot().await?;
    shared.host.plant("add vsmb", 0, Fault::Slow(Duration::from_secs(2)));
    shared.host.plant("update vsmb files", 0, Fault::Fail);
    // Each a moment after the one before, and all while the first is being added.
    let add = |after: u64, name| {
        let (vm, file) = (&shared.vm, shared.file(name));
        async move {
            tokio::time::sleep(Duration::from_millis(100 * after)).await;
            vm.add_vsmb(file, VsmbOptions::default()).await
        }
    };
    let (a, b, c, again) = tokio::join!(add(0, "a"), add(1, "b"), add(2, "c"), add(3, "a"));
    let (a, c, again) = (a?, c?, again?);
    assert!(matches!(source(&b.expect_err("planted")), ResourceError::Host(_)));
    assert_eq!(shared.done(), ["add s1 a", "update s1 a c"]);
    again.release().await?;
    let (left, right) = tokio::join!(a.release(), c.release());
    left?;
    right?;
    assert_eq!(shared.done()[2..], ["update s1 c", "remove s1"]);
    // The first one fails: who waited for the same fails with it, another file is a share of its own.
    shared.host.plant("add vsmb", 0, Fault::Hang);
    let (a, c, again) = tokio::join!(add(0, "a"), add(1, "c"), add(2, "a"));
    assert!(a.is_err() && again.is_err());
    assert_eq!(c?.guest_path(), format!(r"{PREFIX}s3\c"));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_adds_a_file_while_the_last_goes_gets_a_share_of_its_own() -> TestResult {
    let shared = Shared::boot().await?;
    let a = shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()).await?;
    shared.host.plant("remove vsmb", 0, Fault::Slow(Duration::from_secs(2)));
    let (released, b) = tokio::join!(a.release(), shared.vm.add_vsmb(shared.file("b"), VsmbOptions::default()));
    released?;
    assert_eq!(b?.guest_path(), format!(r"{PREFIX}s2\b"));
    settle().await;
    assert_eq!(shared.done(), ["add s1 a", "remove s1", "add s2 b", "remove s2"]);
    // While one of several goes, it can be asked for again.
    let (a, _b) = (
        shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()).await?,
        shared.vm.add_vsmb(shared.file("b"), VsmbOptions::default()).await?,
    );
    shared.host.plant("update vsmb files", 0, Fault::Slow(Duration::from_secs(2)));
    let (released, again) = tokio::join!(a.release(), shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()));
    released?;
    assert_eq!(again?.guest_path(), format!(r"{PREFIX}s3\a"));
    assert_eq!(shared.done()[4..], ["add s3 a", "update s3 a b", "update s3 b", "update s3 b a"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_host_did_not_answer_for_is_hidden_again() -> TestResult {
    let shared = Shared::boot().await?;
    let _a = shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()).await?;
    shared.host.plant("update vsmb files", 0, Fault::Hang);
    let error = shared.vm.add_vsmb(shared.file("b"), VsmbOptions::default()).await.expect_err("no answer");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(shared.done(), ["add s1 a", "update s1 a"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d51_a_share_with_other_options_is_refused() -> TestResult {
    let shared = Shared::boot().await?;
    let _directory = shared.vm.add_vsmb(shared.dir.path(), VsmbOptions::default()).await?;
    let _file = shared.vm.add_vsmb(shared.file("a"), VsmbOptions::default()).await?;
    let other = VsmbOptions { no_locks: true, ..VsmbOptions::default() };
    for path in [shared.dir.path().to_owned(), shared.file("a"), shared.file("b")] {
        let error = shared.vm.add_vsmb(path, other).await.expect_err("other options");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(chain(&error).contains("no_locks"), "{}", chain(&error));
    }
    assert_eq!(shared.done(), ["add s1", "add s2 a"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d52_what_is_shared_is_undone_in_order_and_when_the_guest_refuses() -> TestResult {
    let shared = Shared::boot().await?;
    let (vm, path) = (&shared.vm, shared.dir.path());
    shared.host.plant(&maps("s1", r"C:\x")?, 0, Fault::Fail);
    let error = vm.share(path, r"C:\x", false).await.expect_err("refused");
    assert!(matches!(source(&error), ResourceError::Host(_)), "{error}");
    assert_eq!(shared.asked(), ["add vsmb", "guest add", "remove vsmb"]);
    let share = vm.share(path, r"C:\x", false).await?;
    assert_eq!(share.guest_path(), r"C:\x");
    let also = vm.share(path, r"C:\y", false).await?;
    share.release().await?;
    assert_eq!(shared.asked()[3..], ["add vsmb", "guest add", "guest add", "guest remove"]);
    assert_eq!(share.release().await.expect_err("released").kind(), ErrorKind::NotFound);
    drop(also);
    settle().await;
    assert_eq!(shared.asked()[7..], ["guest remove", "remove vsmb"]);
    // The guest has a single file where it was asked to.
    let file = vm.share(shared.file("a"), r"C:\a", false).await?;
    assert_eq!(shared.host.calls().last(), Some(&maps(r"s3\a", r"C:\a")?));
    shared.host.plant("remove vsmb", 0, Fault::Fail);
    assert!(matches!(source(&file.release().await.expect_err("planted")), ResourceError::Host(_)));
    file.release().await?;
    assert_eq!(shared.asked()[9..], ["add vsmb", "guest add", "guest remove", "remove vsmb", "remove vsmb"]);
    assert_eq!(vm.share("/nonexistent", r"C:\n", true).await.expect_err("missing").kind(), ErrorKind::InvalidInput);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_nothing_shared() -> TestResult {
    let shared = Shared::boot().await?;
    for slow in ["add vsmb".to_owned(), maps("s2", r"C:\x")?] {
        shared.host.plant(&slow, 0, Fault::Slow(Duration::from_secs(2)));
        let share = shared.vm.share(shared.dir.path(), r"C:\x", false);
        assert!(tokio::time::timeout(Duration::from_secs(1), share).await.is_err());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let expected = ["add vsmb", "remove vsmb", "add vsmb", "guest add", "guest remove", "remove vsmb"];
    assert_eq!(shared.asked(), expected);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d78_a_directory_cannot_be_restricted_to_files() -> TestResult {
    let shared = Shared::boot().await?;
    let restricted = VsmbOptions { restrict_file_access: true, ..VsmbOptions::default() };
    let error = shared.vm.add_vsmb(shared.dir.path(), restricted).await.expect_err("restricted");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(shared.asked().is_empty());
    // Of a file it goes without saying.
    shared.vm.add_vsmb(shared.file("a"), restricted).await?.release().await?;
    assert_eq!(shared.done(), ["add s1 a", "remove s1"]);
    Ok(())
}
