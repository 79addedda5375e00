//! What is plugged in: shared, undone, removed, over the fake host and a guest that is played.

use std::time::Duration;

use uvm::platform::fake::Fault;
use uvm::platform::requests::{Change, Device};
use uvm::{ErrorKind, Plan9ShareOptions, ResourceError, ScsiDisk, UvmError, VmAccess};

use crate::obedient::{Obedient, Oddity, asked, boot};
use crate::support::{Played, TestResult, chain, poll_once, settle};

pub(crate) fn source(error: &UvmError) -> &ResourceError {
    match error {
        UvmError::Resource { source, .. } => source,
        other => panic!("{other}"),
    }
}

fn disk(path: &str) -> ScsiDisk {
    ScsiDisk::new(path).with_guest_path(format!("/mnt{path}"))
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_shared_and_goes_with_the_last_who_has_it() -> TestResult {
    let (played, guest) = boot().await?;
    let one = played.vm.add_scsi(&disk("/a")).await?;
    // Spelt otherwise, it is the same.
    let two = played.vm.add_scsi(&ScsiDisk::new("/A").with_guest_path("/mnt/a")).await?;
    assert_eq!((one.controller(), one.lun(), one.guest_path()), (Some(0), Some(0), Some("/mnt/a")));
    assert_eq!(two.lun(), Some(0));
    let other = played.vm.add_scsi(&disk("/b")).await?;
    assert_eq!(other.lun(), Some(1));
    assert_eq!(played.vm.scsi_guest_path("/b").await?.as_deref(), Some("/mnt/b"));
    one.release().await?;
    assert_eq!(asked(&played), ["add scsi", "add scsi"]);
    assert!(matches!(source(&one.release().await.expect_err("released")), ResourceError::NotAttached));
    two.release().await?;
    assert_eq!(asked(&played), ["add scsi", "add scsi", "remove scsi"]);
    assert_eq!(guest.words(), ["add disk 0:0 /mnt/a", "add disk 0:1 /mnt/b", "remove disk 0:0 /mnt/a"]);
    let error = played.vm.remove_scsi("/a").await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    // By path, whoever has it; and a handle that is dropped gives back in the background.
    let again = played.vm.add_scsi(&disk("/a")).await?;
    played.vm.remove_scsi("/A").await?;
    assert!(matches!(source(&again.release().await.expect_err("gone")), ResourceError::NotAttached));
    drop(other);
    settle().await;
    assert_eq!(guest.words().last().map(String::as_str), Some("remove disk 0:1 /mnt/b"));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d34_failed_add_frees_its_slot() -> TestResult {
    let (played, guest) = boot().await?;
    played.host.plant("add scsi", 0, Fault::Fail);
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("planted");
    assert!(matches!(source(&error), ResourceError::Host(_)), "{error}");
    assert!(guest.words().is_empty(), "the guest knows nothing of it");
    guest.refuse(0);
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("refused");
    assert!(chain(&error).contains("no such disk"), "{}", chain(&error));
    assert_eq!(asked(&played), ["add scsi", "add scsi", "undo scsi"]);
    let mount = played.vm.add_scsi(&disk("/b")).await?;
    assert_eq!(mount.lun(), Some(0), "both places are free again");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d36_d35_who_asks_meanwhile_waits_and_shares_success_and_failure() -> TestResult {
    let (played, guest) = boot().await?;
    for refused in [true, false] {
        played.host.plant("add scsi", 0, Fault::Slow(Duration::from_secs(2)));
        if refused {
            guest.refuse(0);
        }
        let disk = disk("/a");
        let add = || played.vm.add_scsi(&disk);
        let (one, two, three) = tokio::join!(add(), add(), add());
        for outcome in [one, two, three] {
            match outcome {
                Ok(mount) => {
                    assert!(!refused && mount.lun() == Some(0));
                    mount.release().await?;
                }
                Err(error) => assert!(refused && chain(&error).contains("no such disk"), "{error}"),
            }
        }
    }
    assert_eq!(asked(&played), ["add scsi", "undo scsi", "add scsi", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d43_d44_two_disks_attach_at_the_same_time() -> TestResult {
    let (played, _guest) = boot().await?;
    let slow = Fault::Slow(Duration::from_secs(3));
    played.host.plant("add scsi", 0, slow);
    played.host.plant("add scsi", 0, slow);
    let began = tokio::time::Instant::now();
    let (a, b) = (disk("/a"), disk("/b"));
    let (one, two) = tokio::join!(played.vm.add_scsi(&a), played.vm.add_scsi(&b));
    assert_ne!(one?.lun(), two?.lun());
    assert!(began.elapsed() < Duration::from_secs(5), "of the paused clock: they overlap");
    played.close().await
}

/// A guest takes layers one after the other: of many, none may wait there for longer than it is given.
#[tokio::test(start_paused = true)]
async fn layers_attach_a_few_at_a_time() -> TestResult {
    let (played, _guest) = boot().await?;
    let dir = tempfile::tempdir()?;
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..9 {
        played.host.plant("add vpmem", 0, Fault::Slow(Duration::from_secs(3)));
        let (vm, path) = (played.vm.clone(), dir.path().join(number.to_string()));
        std::fs::write(&path, "x")?;
        tasks.spawn(async move { vm.add_vpmem(path).await });
    }
    let began = tokio::time::Instant::now();
    let mut layers = Vec::new();
    while let Some(layer) = tasks.join_next().await {
        layers.push(layer??);
        let turn = if layers.len() <= 8 { 3..5 } else { 6..8 };
        assert!(turn.contains(&began.elapsed().as_secs()), "{} after {:?}", layers.len(), began.elapsed());
    }
    drop(layers);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d37_a_disk_that_is_there_otherwise_is_refused_and_one_only_attached_is_mounted() -> TestResult {
    let (played, guest) = boot().await?;
    let bare = played.vm.add_scsi(&ScsiDisk::new("/a")).await?;
    assert!(guest.words().is_empty());
    for other in [ScsiDisk::new("/a").read_only(), ScsiDisk::physical("/a")] {
        let error = played.vm.add_scsi(&other).await.expect_err("otherwise");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    }
    // A mount that the guest refuses changes nothing.
    guest.refuse(0);
    assert!(played.vm.add_scsi(&disk("/a")).await.is_err());
    let mounted = played.vm.add_scsi(&disk("/a")).await?;
    assert_eq!((mounted.lun(), mounted.guest_path()), (Some(0), Some("/mnt/a")));
    let error = played.vm.add_scsi(&ScsiDisk::new("/a").with_guest_path("/else")).await.expect_err("elsewhere");
    assert!(chain(&error).contains("mounted at \"/mnt/a\", asked for at \"/else\""), "{}", chain(&error));
    bare.release().await?;
    mounted.release().await?;
    assert_eq!(guest.words(), ["add disk 0:0 /mnt/a", "add disk 0:0 /mnt/a", "remove disk 0:0 /mnt/a"]);
    assert_eq!(asked(&played), ["add scsi", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_otherwise_meanwhile_waits_and_is_had_then() -> TestResult {
    let (played, guest) = boot().await?;
    let slow = Fault::Slow(Duration::from_secs(2));
    let (bare, mounted, read_only) = (ScsiDisk::new("/a"), disk("/a"), ScsiDisk::new("/a").read_only());
    // While it comes: it is mounted once it is there.
    played.host.plant("add scsi", 0, slow);
    let (one, two) = tokio::join!(played.vm.add_scsi(&bare), played.vm.add_scsi(&mounted));
    let (one, two) = (one?, two?);
    assert_eq!((one.guest_path(), two.guest_path()), (None, Some("/mnt/a")));
    assert_eq!(guest.words(), ["add disk 0:0 /mnt/a"]);
    one.release().await?;
    // While it goes: as it is then does not matter.
    played.host.plant("remove scsi", 0, slow);
    let (released, other) = tokio::join!(two.release(), async {
        settle().await;
        played.vm.add_scsi(&read_only).await
    });
    released?;
    assert_eq!(other?.guest_path(), None);
    assert_eq!(asked(&played)[..3], ["add scsi", "remove scsi", "add scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d41_access_is_given_once_and_taken_back_at_the_end_and_on_failure() -> TestResult {
    let (played, guest) = boot().await?;
    let wanted = disk("/a").with_access(VmAccess::Individual);
    let (one, two) = (played.vm.add_scsi(&wanted).await?, played.vm.add_scsi(&wanted).await?);
    one.release().await?;
    two.release().await?;
    assert_eq!(asked(&played), ["grant Individual /a", "add scsi", "remove scsi", "revoke /a"]);
    guest.refuse(0);
    assert!(played.vm.add_scsi(&wanted).await.is_err());
    assert_eq!(asked(&played)[4..], ["grant Individual /a", "add scsi", "undo scsi", "revoke /a"]);
    let group = disk("/g").with_access(VmAccess::Group);
    played.vm.add_scsi(&group).await?.release().await?;
    assert_eq!(asked(&played)[8..], ["grant Group /g", "add scsi", "remove scsi"], "that of all VMs stays");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d8_the_65th_disk_of_one_controller_is_refused_and_so_is_any_without_one() -> TestResult {
    let (played, _guest) = boot().await?;
    let mut mounts = Vec::new();
    for number in 0..64 {
        mounts.push(played.vm.add_scsi(&ScsiDisk::new(format!("/{number}"))).await?);
    }
    let error = played.vm.add_scsi(&ScsiDisk::new("/more")).await.expect_err("full");
    assert!(matches!(source(&error), ResourceError::NoAvailableLocation { count: 64, .. }), "{error}");
    mounts[17].release().await?;
    assert_eq!(played.vm.add_scsi(&ScsiDisk::new("/more")).await?.lun(), Some(17));
    drop(mounts);
    played.close().await?;
    let (played, _guest) = Played::boot_with(|options| options.scsi_controllers = 0).await?;
    let error = played.vm.add_scsi(&ScsiDisk::new("/a")).await.expect_err("no controller");
    assert!(chain(&error).ends_with("no SCSI controllers configured for this utility VM"), "{}", chain(&error));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d32_what_fails_is_undone_within_limits_of_its_own() -> TestResult {
    let (played, guest) = boot().await?;
    guest.told().silent = true;
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("silence");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    guest.told().silent = false;
    assert_eq!(asked(&played), ["add scsi", "undo scsi"]);
    // The guest may have mounted it by now: it was told to let go, too.
    assert_eq!(guest.words(), ["add disk 0:0 /mnt/a", "remove disk 0:0 /mnt/a"]);
    assert_eq!(played.vm.add_scsi(&disk("/b")).await?.lun(), Some(0));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d33_a_removal_that_the_host_refuses_goes_on_where_it_was() -> TestResult {
    let (played, guest) = boot().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.refuse(0);
    let error = mount.release().await.expect_err("the guest refused");
    assert!(matches!(source(&error), ResourceError::Guest(_)), "{error}");
    let shared = played.vm.add_scsi(&disk("/a")).await?;
    shared.release().await?;
    played.host.plant("remove scsi", 0, Fault::Fail);
    let error = mount.release().await.expect_err("planted");
    assert!(matches!(source(&error), ResourceError::Host(_)), "{error}");
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("half gone");
    assert!(matches!(source(&error), ResourceError::Broken { .. }), "{error}");
    guest.words();
    mount.release().await?;
    assert!(guest.words().is_empty(), "the guest is not asked again");
    played.vm.add_scsi(&disk("/a")).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_nobody_answered_is_shared_by_nobody_and_can_be_made_again() -> TestResult {
    let (played, guest) = boot().await?;
    let pipe = played.vm.add_pipe(r"\\.\pipe\x").await?;
    played.host.plant("remove pipe", 0, Fault::Hang);
    assert_eq!(pipe.release().await.expect_err("silence").kind(), ErrorKind::Timeout);
    let error = played.vm.add_pipe(r"\\.\pipe\x").await.expect_err("it may be gone");
    assert!(matches!(source(&error), ResourceError::Broken { .. }), "{error}");
    pipe.release().await?;
    played.vm.add_pipe(r"\\.\pipe\x").await?.release().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.told().silent = true;
    assert_eq!(mount.release().await.expect_err("silence").kind(), ErrorKind::Timeout);
    guest.told().silent = false;
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("the guest may have unmounted it");
    assert!(matches!(source(&error), ResourceError::Broken { .. }), "{error}");
    guest.words();
    mount.release().await?;
    assert_eq!(guest.words(), ["remove disk 0:0 /mnt/a"], "it may not have heard");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn an_attach_that_cannot_be_undone_is_left_broken_and_can_be_released() -> TestResult {
    let (played, guest) = boot().await?;
    guest.refuse(0);
    played.host.plant("undo scsi", 0, Fault::Fail);
    assert!(played.vm.add_scsi(&disk("/a")).await.is_err());
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("broken");
    assert!(matches!(source(&error), ResourceError::Broken { .. }), "{error}");
    played.vm.remove_scsi("/a").await?;
    assert_eq!(played.vm.add_scsi(&disk("/a")).await?.lun(), Some(0));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_leaves_nothing_attached() -> TestResult {
    let (played, guest) = boot().await?;
    played.host.plant("add scsi", 0, Fault::Slow(Duration::from_secs(2)));
    let given_up = tokio::time::timeout(Duration::from_secs(1), played.vm.add_scsi(&disk("/a"))).await;
    assert!(given_up.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(asked(&played), ["add scsi", "remove scsi"]);
    assert_eq!(guest.words(), ["add disk 0:0 /mnt/a", "remove disk 0:0 /mnt/a"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_vm_ends_every_wait_and_later_calls_say_so() -> TestResult {
    let (played, _guest) = boot().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    played.host.plant("add scsi", 0, Fault::Hang);
    let disk = disk("/b");
    let (added, terminated) = tokio::join!(played.vm.add_scsi(&disk), async {
        settle().await;
        played.vm.terminate().await
    });
    terminated?;
    assert_eq!(added.expect_err("ended").kind(), ErrorKind::Exited);
    assert_eq!(played.vm.add_scsi(&disk).await.expect_err("ended").kind(), ErrorKind::Exited);
    played.vm.close().await?;
    assert_eq!(mount.release().await.expect_err("closed").kind(), ErrorKind::WrongState);
    drop(mount);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d45_layers_have_places_a_size_and_paths_of_their_own() -> TestResult {
    let dir = tempfile::tempdir()?;
    let layer = |name: &str, bytes: u64| -> TestResult<_> {
        let path = dir.path().join(name);
        std::fs::File::create(&path)?.set_len(bytes)?;
        Ok(path)
    };
    let (played, guest) = Played::boot_with(|options| {
        (options.vpmem_devices, options.vpmem_size_bytes) = (2, 8192);
    })
    .await?;
    let guest = Obedient::new(guest);
    let (small, fits, large) = (layer("small", 1)?, layer("fits", 8191)?, layer("large", 8193)?);
    let one = played.vm.add_vpmem(&small).await?;
    assert_eq!(one.guest_path().as_deref(), Some("/run/layers/p0"));
    assert_eq!(played.vm.add_vpmem(&small).await?.slot(), Some(0), "shared");
    settle().await;
    let error = played.vm.add_vpmem(&large).await.expect_err("too large");
    assert!(matches!(source(&error), ResourceError::LayerTooLarge { bytes: 12288, max: 8192 }), "{error}");
    assert_eq!(played.vm.add_vpmem(dir.path()).await.expect_err("a directory").kind(), ErrorKind::InvalidInput);
    assert_eq!(played.vm.add_vpmem("/nonexistent").await.expect_err("missing").kind(), ErrorKind::InvalidInput);
    let two = played.vm.add_vpmem(&fits).await?;
    let error = played.vm.add_vpmem(layer("more", 1)?).await.expect_err("full");
    assert!(matches!(source(&error), ResourceError::NoAvailableLocation { count: 2, .. }), "{error}");
    two.release().await?;
    played.vm.remove_vpmem(&small).await?;
    assert_eq!(
        guest.words(),
        [
            "add pmem 0 /run/layers/p0",
            "add pmem 1 /run/layers/p1",
            "remove pmem 1 /run/layers/p1",
            "remove pmem 0 /run/layers/p0"
        ]
    );
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d46_d52_shares_are_each_their_own_and_can_be_undone() -> TestResult {
    let (played, guest) = boot().await?;
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "x")?;
    let options = Plan9ShareOptions::new(dir.path(), "/a");
    let (one, two) = (played.vm.add_plan9(&options).await?, played.vm.add_plan9(&options).await?);
    let error = played.vm.add_plan9(&Plan9ShareOptions::new(dir.path(), "")).await.expect_err("no path");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let file = played.vm.share(dir.path().join("file"), "/f", true).await?;
    assert_eq!(played.vm.share("/nonexistent", "/n", true).await.expect_err("missing").kind(), ErrorKind::InvalidInput);
    let names = |change: &(Change, Option<String>)| match &change.0 {
        Change::Add(Device::Plan9(share)) => share.allowed_files.clone(),
        _ => None,
    };
    assert_eq!(played.host.changes().iter().filter_map(names).collect::<Vec<_>>(), [vec!["file".to_owned()]]);
    guest.refuse(0);
    assert!(played.vm.share(dir.path(), "/d", false).await.is_err());
    played.vm.remove_plan9(&one).await?;
    two.release().await?;
    file.release().await?;
    assert_eq!(
        guest.words(),
        [
            "add share 0 /a",
            "add share 1 /a",
            "add share 2 /f",
            "add share 3 /d",
            "remove share 0 /a",
            "remove share 1 /a",
            "remove share 2 /f"
        ]
    );
    assert_eq!(asked(&played).iter().filter(|call| *call == "undo plan9").count(), 1);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn each_combination_of_layers_is_its_own_and_the_last_one_goes_first() -> TestResult {
    let (played, guest) = boot().await?;
    let layers = ["/run/layers/p1".to_owned(), "/run/layers/p0".to_owned()];
    let one = played.vm.combine_layers_lcow(&layers, "/scratch", "/root").await?;
    let two = played.vm.combine_layers_lcow(&layers, "/scratch", "/root").await?;
    guest.refuse(0);
    let refused = played.vm.combine_layers_lcow(&layers[..1], "", "/other").await.expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::Guest, "{refused}");
    played.vm.remove_combined_layers("/root").await?;
    assert_eq!(two.release().await.expect_err("removed").kind(), ErrorKind::NotFound);
    one.release().await?;
    assert_eq!(played.vm.remove_combined_layers("/root").await.expect_err("none").kind(), ErrorKind::NotFound);
    let expected =
        ["add layers /root", "add layers /root", "add layers /other", "remove layers /root", "remove layers /root"];
    assert_eq!(guest.words(), expected);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_before_it_looks_at_what_it_got_keeps_nothing() -> TestResult {
    let (played, _guest) = boot().await?;
    let mut adding = Box::pin(played.vm.add_pipe("x"));
    poll_once(&mut adding).await;
    settle().await;
    assert_eq!(asked(&played), ["add pipe"], "it was granted");
    drop(adding);
    settle().await;
    assert_eq!(asked(&played), ["add pipe", "remove pipe"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d53_a_pipe_is_there_as_long_as_somebody_has_it_in_guests_of_both_kinds() -> TestResult {
    let (played, guest) = boot().await?;
    let pipe = r"\\.\pipe\x";
    played.host.plant("add pipe", 0, Fault::Fail);
    assert!(played.vm.add_pipe(pipe).await.is_err());
    let (one, two) = (played.vm.add_pipe(pipe).await?, played.vm.add_pipe(pipe).await?);
    one.release().await?;
    assert!(asked(&played).iter().all(|call| call != "remove pipe"));
    two.release().await?;
    assert_eq!(played.vm.remove_pipe(pipe).await.expect_err("nobody's").kind(), ErrorKind::NotFound);
    assert_eq!(asked(&played), ["add pipe", "add pipe", "remove pipe"]);
    assert_eq!(guest.words(), Vec::<String>::new());
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d2_the_disk_it_booted_from_has_the_first_place_and_stays() -> TestResult {
    let files = tempfile::tempdir()?;
    let root = files.path().join("rootfs.vhd");
    std::fs::write(files.path().join("kernel"), "")?;
    std::fs::write(&root, "root")?;
    std::fs::write(files.path().join("layer"), "layer")?;
    let path = files.path().to_owned();
    let (played, guest) = Played::boot_with(|options| options.boot_files = Some(path)).await?;
    let guest = Obedient::new(guest);
    let layer = played.vm.add_vpmem(files.path().join("layer")).await?;
    assert_eq!(layer.slot(), Some(1));
    let shared = played.vm.add_vpmem(&root).await?;
    assert_eq!(shared.slot(), Some(0), "it is not attached twice");
    shared.release().await?;
    let error = played.vm.remove_vpmem(&root).await.expect_err("the VM needs it");
    assert!(matches!(source(&error), ResourceError::Pinned { .. }), "{error}");
    assert_eq!(guest.words(), ["add pmem 1 /run/layers/p1"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d60_d61_d62_a_device_is_known_until_it_is_gone_in_any_spelling() -> TestResult {
    let (played, guest) = boot().await?;
    guest.refuse(0);
    assert!(played.vm.assign_device("PCI\\VEN_1").await.is_err(), "the guest waited in vain");
    assert_eq!(asked(&played), ["add pci", "undo pci"]);
    let one = played.vm.assign_device("PCI\\VEN_1").await?;
    let two = played.vm.assign_device("pci\\ven_1").await?;
    assert_eq!(one.vmbus_guid(), two.vmbus_guid());
    assert_eq!(
        one.vmbus_instance_id(),
        format!("VMBUS\\{{44c4f61d-4444-4400-9d52-802e27ede19f}}\\{{{}}}", one.vmbus_guid())
    );
    two.release().await?;
    played.host.plant("remove pci", 0, Fault::Fail);
    assert!(one.release().await.is_err());
    let still = played.vm.assign_device("PCI\\VEN_1").await?;
    assert_eq!(still.vmbus_guid(), one.vmbus_guid(), "it is still assigned");
    still.release().await?;
    one.release().await?;
    assert_ne!(played.vm.assign_device("PCI\\VEN_1").await?.vmbus_guid(), one.vmbus_guid());
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_the_guest_gave_up_removing_may_be_gone_and_is_not_given_to_others() -> TestResult {
    let (played, guest) = boot().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.plant(0, Oddity::GiveUp);
    let error = mount.release().await.expect_err("it takes too long");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    played.vm.add_scsi(&disk("/a")).await.expect_err("it may be unmounted by now");
    mount.release().await?;
    played.vm.add_scsi(&disk("/a")).await?.release().await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_the_guest_gave_up_adding_may_be_there_and_is_taken_back() -> TestResult {
    let (played, guest) = boot().await?;
    guest.plant(0, Oddity::GiveUp);
    let error = played.vm.add_scsi(&disk("/a")).await.map(drop).expect_err("it takes too long");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let words = guest.words();
    assert!(
        matches!(&words[..], [added, removed] if added.starts_with("add") && removed.starts_with("remove")),
        "{words:?}"
    );
    played.close().await
}
