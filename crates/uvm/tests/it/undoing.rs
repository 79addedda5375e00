//! What cannot be plugged in or unplugged, or is not wanted any more: undone, told, tried again.

use std::time::Duration;

use uvm::platform::fake::Fault;
use uvm::{ErrorKind, Plan9ShareOptions, ResourceError};

use crate::obedient::{Oddity, asked, boot};
use crate::resources::disk;
use crate::support::{TestResult, chain, poll_once, settle, source};

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
async fn an_attach_that_cannot_be_undone_is_left_broken_and_can_be_released() -> TestResult {
    let (played, guest) = boot().await?;
    guest.refuse(0);
    played.host.plant("undo scsi", 0, Fault::Fail);
    assert!(played.vm.add_scsi(&disk("/a")).await.is_err());
    // Whoever asks for it has it removed first, which fails.
    played.host.plant("remove scsi", 0, Fault::Fail);
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("broken");
    assert!(matches!(source(&error), ResourceError::Broken { .. }), "{error}");
    played.vm.remove_scsi("/a").await?;
    assert_eq!(played.vm.add_scsi(&disk("/a")).await?.lun(), Some(0));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_an_attach_has_left_goes_when_it_is_asked_for_again() -> TestResult {
    let (played, guest) = boot().await?;
    guest.refuse(0);
    played.host.plant("undo pci", 0, Fault::Fail);
    assert!(played.vm.assign_device("0000:01:00.0").await.is_err());
    played.vm.assign_device("0000:01:00.0").await?.release().await?;
    assert_eq!(asked(&played), ["add pci", "undo pci", "remove pci", "add pci", "remove pci"]);
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

#[tokio::test(start_paused = true)]
async fn what_is_dropped_in_vain_is_had_by_the_next_who_adds_it_and_goes_with_that() -> TestResult {
    let (played, guest) = boot().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.refuse(0);
    drop(mount);
    settle().await;
    assert_eq!(guest.words(), ["add disk 0:0 /mnt/a", "remove disk 0:0 /mnt/a"]);
    let again = played.vm.add_scsi(&disk("/a")).await?;
    assert_eq!((again.lun(), guest.words()), (Some(0), Vec::new()));
    guest.refuse(0);
    let error = again.release().await.expect_err("the guest still uses it");
    assert!(matches!(source(&error), ResourceError::Guest(_)), "{error}");
    again.release().await?;
    assert_eq!(asked(&played), ["add scsi", "remove scsi"]);
    assert!(matches!(source(&again.release().await.expect_err("released")), ResourceError::NotAttached));
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_in_vain_is_had_by_who_asks_for_it_meanwhile_and_goes_with_that() -> TestResult {
    let (played, guest) = boot().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.told().pace = Duration::from_secs(1);
    guest.refuse(0);
    drop(mount);
    settle().await;
    played.vm.add_scsi(&disk("/a")).await?.release().await?;
    assert_eq!(asked(&played), ["add scsi", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_in_vain_is_removed_by_its_path_as_often_as_that_takes() -> TestResult {
    let (played, guest) = boot().await?;
    guest.refuse(1);
    drop(played.vm.add_scsi(&disk("/a")).await?);
    settle().await;
    guest.refuse(0);
    let error = played.vm.remove_scsi("/a").await.expect_err("the guest still uses it");
    assert!(matches!(source(&error), ResourceError::Guest(_)), "{error}");
    // It is still nobody's.
    let again = played.vm.add_scsi(&disk("/a")).await?;
    guest.refuse(0);
    drop(again);
    settle().await;
    played.vm.remove_scsi("/a").await?;
    assert_eq!(asked(&played), ["add scsi", "remove scsi"]);
    let error = played.vm.remove_scsi("/a").await.expect_err("it is gone");
    assert!(matches!(source(&error), ResourceError::NotAttached), "{error}");
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_in_vain_and_has_no_path_goes_when_something_else_is_added() -> TestResult {
    let (played, guest) = boot().await?;
    let share = played.vm.add_plan9(&Plan9ShareOptions::new("/srv", "/mnt")).await?;
    let device = played.vm.assign_device("0000:01:00.0").await?;
    guest.refuse(0);
    played.host.plant("remove pci", 0, Fault::Fail);
    drop((share, device));
    settle().await;
    assert_eq!(asked(&played), ["add plan9", "add pci", "remove pci"]);
    let pipe = played.vm.add_pipe("x").await?;
    settle().await;
    assert_eq!(asked(&played)[3..], ["add pipe", "remove pci", "remove plan9"]);
    pipe.release().await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_given_up_goes_on_and_its_outcome_is_told_to_the_next() -> TestResult {
    let (played, guest) = boot().await?;
    let (one, two) = (played.vm.add_scsi(&disk("/a")).await?, played.vm.add_scsi(&disk("/b")).await?);
    guest.told().pace = Duration::from_secs(2);
    guest.refuse(0);
    let soon = Duration::from_secs(1);
    assert!(tokio::time::timeout(soon, one.release()).await.is_err());
    let error = one.release().await.expect_err("it goes on, and the guest refuses");
    assert!(matches!(source(&error), ResourceError::Guest(_)), "{error}");
    guest.refuse(0);
    assert!(tokio::time::timeout(soon, one.release()).await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    one.release().await?;
    assert!(matches!(source(&one.release().await.expect_err("released")), ResourceError::NotAttached));
    // One that goes well is told, too, if nobody was.
    assert!(tokio::time::timeout(soon, two.release()).await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    two.release().await?;
    assert!(matches!(source(&two.release().await.expect_err("released")), ResourceError::NotAttached));
    assert_eq!(asked(&played), ["add scsi", "add scsi", "remove scsi", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_handle_whose_release_was_given_up_and_failed_gives_back_when_it_is_dropped() -> TestResult {
    let (played, guest) = boot().await?;
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.told().pace = Duration::from_secs(2);
    guest.refuse(0);
    assert!(tokio::time::timeout(Duration::from_secs(1), mount.release()).await.is_err());
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(asked(&played), ["add scsi"]);
    drop(mount);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(asked(&played), ["add scsi", "remove scsi"]);
    // Dropped while it goes on: it is nobody's then.
    let mount = played.vm.add_scsi(&disk("/a")).await?;
    guest.refuse(0);
    assert!(tokio::time::timeout(Duration::from_secs(1), mount.release()).await.is_err());
    drop(mount);
    tokio::time::sleep(Duration::from_secs(10)).await;
    played.vm.add_scsi(&disk("/a")).await?.release().await?;
    assert_eq!(asked(&played)[2..], ["add scsi", "remove scsi"]);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn who_releases_what_is_being_removed_is_told_once_that_is_decided() -> TestResult {
    let (played, guest) = boot().await?;
    for is_refused in [true, false] {
        let mount = played.vm.add_scsi(&disk("/a")).await?;
        guest.told().pace = Duration::from_secs(1);
        if is_refused {
            guest.refuse(0);
        }
        let (removed, released) = tokio::join!(played.vm.remove_scsi("/a"), async {
            settle().await;
            mount.release().await
        });
        if is_refused {
            assert!(removed.is_err() && released.is_ok(), "the count was still the handle's");
        } else {
            removed?;
            let error = released.expect_err("it is gone");
            assert!(matches!(source(&error), ResourceError::NotAttached), "{error}");
        }
    }
    assert_eq!(asked(&played), ["add scsi", "remove scsi", "add scsi", "remove scsi"]);
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
