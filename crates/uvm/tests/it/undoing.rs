//! What cannot be plugged in or unplugged, or is not wanted any more: undone, told, tried again.

use std::time::Duration;

use uvm::platform::fake::Fault;
use uvm::{ErrorKind, ResourceError};

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
    let error = played.vm.add_scsi(&disk("/a")).await.expect_err("broken");
    assert!(matches!(source(&error), ResourceError::Broken { .. }), "{error}");
    played.vm.remove_scsi("/a").await?;
    assert_eq!(played.vm.add_scsi(&disk("/a")).await?.lun(), Some(0));
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
