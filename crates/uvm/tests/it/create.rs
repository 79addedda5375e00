//! Creating: checked before anything is made, undone if something fails.

use std::path::Path;

use uvm::platform::fake::{FakePlatform, Fault};
use uvm::platform::spec::RootFs;
use uvm::platform::{Capabilities, Feature};
use uvm::{ErrorKind, OptionsError, RootFsType, UvmError, UvmId};

use crate::support::{ORIGINAL, Played, TestResult, boot_files, chain, create_on, nothing_left, options, settle};

#[tokio::test(start_paused = true)]
async fn d15_options_are_not_changed_and_serve_for_many_vms() -> TestResult {
    let options = options(|_| ());
    let before = format!("{options:?}");
    let host = FakePlatform::new();
    let (first, second) = (create_on(&host, &options).await?, create_on(&host, &options).await?);
    assert_eq!(format!("{options:?}"), before);
    assert_eq!(options.id, None);
    assert_ne!(first.id(), second.id(), "each has an id of its own");
    for vm in [first, second] {
        let id = vm.id().as_str();
        let dashes: Vec<usize> = id.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((id.len(), dashes.as_slice(), &id[14..15]), (36, &[8, 13, 18, 23][..], "4"), "{id}");
        vm.close().await?;
    }
    let named = options.with_id(UvmId::new("mine")?);
    assert_eq!(create_on(&host, &named).await?.id().as_str(), "mine");
    nothing_left(&host).await
}

#[tokio::test(start_paused = true)]
async fn d21_a_listener_that_cannot_be_had_closes_those_before_it() -> TestResult {
    for listen in ["listen 1", "listen 109", "listen 0x40000000"] {
        let host = FakePlatform::new();
        host.plant(listen, 0, Fault::Fail);
        let error = create_on(&host, &options(|_| ())).await.expect_err(listen);
        assert_eq!(error.kind(), ErrorKind::Host);
        assert!(matches!(error, UvmError::Create { .. }), "{error}");
        assert!(chain(&error).ends_with("a planted fault"), "{}", chain(&error));
        nothing_left(&host).await?;
        // What was begun is no hindrance.
        create_on(&host, &options(|_| ())).await?.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d21_a_vm_that_was_never_started_closes_its_listeners() -> TestResult {
    let played = Played::create().await?;
    assert_eq!(played.host.leftovers().get("ports"), Some(&3));
    played.vm.close().await?;
    assert_eq!(played.host.leftovers().get("ports"), None);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d81_every_kind_of_root_is_one_to_boot_from() -> TestResult {
    let host = FakePlatform::new();
    let initrd = boot_files("ours").join("initrd.img");
    for (kind, root) in
        [(RootFsType::Initrd, RootFs::Initrd(initrd.clone())), (RootFsType::Vhd, RootFs::Disk(initrd.clone()))]
    {
        let options = options(|options| {
            options.root_fs_type = Some(kind);
            options.root_fs_file = Some("initrd.img".into());
        });
        create_on(&host, &options).await?.close().await?;
        assert_eq!(host.specs().last().map(|spec| spec.boot.root.clone()), Some(root));
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_host_that_fails_to_create_is_quoted() -> TestResult {
    let host = FakePlatform::new();
    host.plant("create", 0, Fault::Fail);
    let error = create_on(&host, &options(|_| ())).await.expect_err("planted");
    assert_eq!(error.kind(), ErrorKind::Host);
    assert!(chain(&error).ends_with("cannot create: a planted fault"), "{}", chain(&error));
    assert_eq!(host.calls(), ["create"]);
    nothing_left(&host).await
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_is_given_up_leaves_nothing() -> TestResult {
    let host = FakePlatform::new();
    host.plant("create", 0, Fault::Hang);
    let creating = tokio::spawn({
        let host = host.clone();
        async move { create_on(&host, &options(|_| ())).await.map(drop) }
    });
    while host.calls().is_empty() {
        tokio::task::yield_now().await;
    }
    creating.abort();
    assert!(creating.await.expect_err("given up").is_cancelled());
    settle().await;
    nothing_left(&host).await
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_before_the_host_is_asked() -> TestResult {
    let host = FakePlatform::new();
    let controllers = options(|options| options.scsi_controllers = 5);
    let error = create_on(&host, &controllers).await.expect_err("too many");
    assert!(matches!(error, UvmError::Options(OptionsError::TooManyScsiControllers { count: 5 })), "{error}");
    let missing = options(|options| options.kernel_file = Some("/nonexistent/kernel".into()));
    let error = create_on(&host, &missing).await.expect_err("not there");
    let UvmError::Options(OptionsError::BootFile { path, .. }) = &error else { panic!("{error}") };
    assert_eq!(path, Path::new("/nonexistent/kernel"));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(host.calls().is_empty(), "{:?}", host.calls());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_host_that_runs_no_linux_guests_says_so() -> TestResult {
    let host = FakePlatform::new().with_capabilities(Capabilities::all("fake").without(Feature::LinuxGuests, "a test"));
    let error = create_on(&host, &options(|_| ())).await.expect_err("it cannot");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(chain(&error).ends_with("Linux guests: not supported on fake: a test"), "{}", chain(&error));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn damaged_boot_files_are_named() -> TestResult {
    let directory = tempfile::tempdir()?;
    std::fs::copy(boot_files(ORIGINAL).join("manifest.json"), directory.path().join("manifest.json"))?;
    let options = options(|options| options.boot_files = Some(directory.path().to_owned()));
    let error = create_on(&FakePlatform::new(), &options).await.expect_err("its files are missing");
    assert!(matches!(error, UvmError::BootFiles { .. }), "{error}");
    assert!(chain(&error).contains(&directory.path().display().to_string()), "{}", chain(&error));
    assert!(chain(&error).contains("missing"), "{}", chain(&error));
    Ok(())
}
