//! What is plugged in: had by several, as it was asked for, at a place of its own; over the fake host and a guest that is
//! played.

use std::time::Duration;

use uvm::platform::fake::Fault;
use uvm::{ErrorKind, ResourceError, ScsiDisk, VmAccess};

use crate::obedient::{asked, boot};
use crate::support::{Played, TestResult, chain, settle, source};

pub(crate) fn disk(path: &str) -> ScsiDisk {
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

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn names_that_are_not_unicode_are_not_taken_for_each_other() -> TestResult {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    let (played, guest) = Played::boot_with(|options| options.vpmem_devices = 2).await?;
    let guest = crate::obedient::Obedient::new(guest);
    let dir = tempfile::tempdir()?;
    let [one, two] = [b"\xff", b"\xfe"].map(|name| dir.path().join(OsString::from_vec(name.to_vec())).join("image"));
    for file in [&one, &two] {
        std::fs::create_dir(file.parent().ok_or("it has none")?)?;
        std::fs::write(file, "a layer")?;
    }
    let disks = [played.vm.add_scsi(&ScsiDisk::new(&one)).await?, played.vm.add_scsi(&ScsiDisk::new(&two)).await?];
    assert_eq!(
        disks.each_ref().map(|disk| (disk.lun(), disk.host_path())),
        [(Some(0), Some(&*one)), (Some(1), Some(&*two))]
    );
    let layers = [played.vm.add_vpmem(&one).await?, played.vm.add_vpmem(&two).await?];
    assert_eq!(layers.each_ref().map(uvm::VpmemMount::slot), [Some(0), Some(1)]);
    let pipes = [played.vm.add_pipe(&one).await?, played.vm.add_pipe(&two).await?];
    assert_eq!(asked(&played).iter().filter(|call| *call == "add pipe").count(), 2);
    played.vm.remove_scsi(&two).await?;
    assert!(matches!(source(&disks[1].release().await.expect_err("removed")), ResourceError::NotAttached));
    disks[0].release().await?;
    drop((layers, pipes, guest));
    played.close().await
}
