//! Directories of the host: by 9P, and as devices where that can be had; whose failure is told.

use std::time::Duration;

use uvm::platform::fake::{FakePlatform, Fault};
use uvm::platform::requests::{Change, Device};
use uvm::platform::{Capabilities, Feature};
use uvm::{Deadlines, ErrorKind, Plan9ShareOptions, ResourceError, ShareKind, ShareOptions, ShareOwners, ShareWay};
use uvm_testkit::guest::Guest;

use crate::obedient::{Obedient, Oddity, asked, boot};
use crate::support::{Played, TestResult, chain, settle, source};

/// A share's process that does not answer is ended by the host, which then takes its device out: that is the host's to tell.
#[tokio::test(start_paused = true)]
async fn a_host_that_takes_a_half_made_share_back_is_waited_for_and_one_that_is_silent_is_not() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (played, _told) = with_devices(true, true).await?;
    let host_call = Deadlines::default().host_call;
    played.host.plant("add virtio-fs", 0, Fault::Slow(3 * host_call));
    played.vm.share(dir.path(), "/slow", true).await?.release().await?;
    played.host.plant("remove virtio-fs", 0, Fault::Slow(3 * host_call));
    played.vm.share(dir.path(), "/slow", true).await?.release().await?;
    played.host.plant("add virtio-fs", 0, Fault::Slow(100 * host_call));
    let error = played.vm.share(dir.path(), "/silent", true).await.expect_err("it is silent");
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    played.close().await
}

/// It is the code that tells the one from the other, and neither the text nor how long it took.
#[tokio::test(start_paused = true)]
async fn a_share_is_taken_from_a_guest_that_gives_up_and_not_from_one_that_refuses() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (played, guest) = with_devices(true, true).await?;
    let share = played.vm.share(dir.path(), "/d", true).await?;
    guest.told().pace = Duration::from_secs(25);
    guest.refuse(0);
    share.release().await.expect_err("the guest uses it");
    assert_eq!(asked(&played), ["add virtio-fs"]);
    guest.plant(0, Oddity::GiveUp);
    guest.words();
    share.release().await?;
    // The guest waited for what serves the share: once that is gone it is told again.
    assert_eq!(guest.words(), ["remove device share-0 /d"; 2]);
    played.close().await
}

/// A VM on a host that has shares as devices, or not, with an agent that mounts them, or not.
async fn with_devices(host: bool, guest: bool) -> TestResult<(Played, Obedient)> {
    let all = Capabilities::all("fake");
    let capabilities = if host { all } else { all.without(Feature::VirtioFsShares, "the program is not there") };
    let played = Played::create_on(FakePlatform::new().with_capabilities(capabilities), |_| ()).await?;
    let mut reply = Guest::capabilities();
    reply.capabilities.guest_defined.virtio_fs = guest;
    let guest = played.start(reply).await?;
    Ok((played, Obedient::new(guest)))
}

#[tokio::test(start_paused = true)]
async fn a_directory_goes_by_a_device_where_host_and_guest_have_that() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "x")?;
    let by_device = |at: &str| ShareOptions::new(dir.path(), at).with_kind(ShareKind::VirtioFs);
    for (host, guest) in [(true, true), (true, false), (false, true)] {
        let (played, told) = with_devices(host, guest).await?;
        let share = played.vm.share(dir.path(), "/d", true).await?;
        let file = played.vm.share(dir.path().join("file"), "/f", false).await?;
        let way = if host && guest { ShareWay::VirtioFs } else { ShareWay::Plan9 };
        assert_eq!((share.way(), file.way()), (way, ShareWay::Plan9), "host {host}, guest {guest}");
        share.release().await?;
        file.release().await?;
        let forced = played.vm.share_with(&by_device("/forced")).await;
        match (host, guest) {
            (true, true) => {
                forced?.release().await?;
                // Each has a tag of its own.
                assert_eq!(
                    told.words(),
                    [
                        "add device share-0 /d",
                        "add share 0 /f",
                        "remove device share-0 /d",
                        "remove share 0 /f",
                        "add device share-1 /forced",
                        "remove device share-1 /forced"
                    ]
                );
            }
            _ => assert_eq!(forced.expect_err("one of them has none").kind(), ErrorKind::Unsupported),
        }
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_share_that_cannot_be_had_as_asked_for_is_refused() -> TestResult {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("file"), "x")?;
    let (played, told) = with_devices(true, true).await?;
    let passed = ShareOptions::new(dir.path(), "/d").with_owners(ShareOwners::Passthrough);
    let file = |kind| ShareOptions::new(dir.path().join("file"), "/f").with_kind(kind);
    for wrong in [
        passed.clone().with_kind(ShareKind::Plan9),
        file(ShareKind::VirtioFs),
        file(ShareKind::Auto).with_owners(ShareOwners::Passthrough),
        ShareOptions::new(dir.path(), ""),
    ] {
        let error = played.vm.share_with(&wrong).await.expect_err("it cannot be had");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong:?}: {}", chain(&error));
    }
    assert!(told.words().is_empty() && asked(&played).is_empty());
    assert_eq!(played.vm.share_with(&passed).await?.way(), ShareWay::VirtioFs);
    settle().await;
    // The guest refuses, and the host is taken back.
    told.refuse(0);
    played.vm.share_with(&ShareOptions::new(dir.path(), "/e")).await.map(drop).expect_err("refused");
    let undone = || asked(&played).iter().filter(|call| *call == "undo virtio-fs").count();
    assert_eq!(undone(), 1);
    // The host says once that it has lost who serves it: that is why.
    told.refuse(0);
    played.host.plant("undo virtio-fs", 0, Fault::Fail);
    let error = played.vm.share_with(&ShareOptions::new(dir.path(), "/e")).await.map(drop).expect_err("refused");
    assert!(matches!(source(&error), ResourceError::Host(_)), "{}", chain(&error));
    assert_eq!(undone(), 3);
    played.vm.share_with(&ShareOptions::new(dir.path(), "/e")).await?.release().await?;
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
