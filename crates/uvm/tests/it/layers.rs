//! Layers: their places, how many come at a time, and what is made of several.

use std::time::Duration;

use uvm::platform::fake::Fault;
use uvm::{ErrorKind, ResourceError};

use crate::obedient::{Obedient, boot};
use crate::support::{Played, TestResult, settle, source};

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
