//! The host's part in the conversation about resources of the VM.

use uvm::wire::RawJson;
use uvm::wire::modify::{CombinedLayers, Layer, Modification, Resource, VpciDevice, VpmemDevice};
use uvm::{ErrorKind, UtilityVm};
use uvm_testkit::TestResult;

use crate::{chain, ended, run, shell};

/// An overlay of these layers, the top one first.
pub(crate) fn layers(root: &str, layers: &[&str], scratch: &str) -> CombinedLayers {
    CombinedLayers {
        container_root_path: root.into(),
        layers: layers.iter().map(|&path| Layer { path: path.into(), ..Layer::default() }).collect(),
        scratch_path: scratch.into(),
        ..CombinedLayers::default()
    }
}

pub(crate) async fn add(vm: &UtilityVm, layers: CombinedLayers) -> TestResult {
    Ok(vm.guest_request(Modification::add(Resource::CombinedLayers(layers))).await?)
}

pub(crate) async fn remove(vm: &UtilityVm, layers: CombinedLayers) -> TestResult {
    Ok(vm.guest_request(Modification::remove(Resource::CombinedLayers(layers))).await?)
}

/// Passes if the guest refuses with these words.
async fn refused(vm: &UtilityVm, request: Modification, words: &str) {
    let error = vm.guest_request(request).await.expect_err(words);
    assert_eq!(error.kind(), ErrorKind::Guest);
    assert!(chain(&error).contains(words), "{}", chain(&error));
}

pub(crate) async fn modify(vm: UtilityVm) -> TestResult {
    let resource = Resource::Other { resource_type: "NoSuchThing".into(), settings: Some(RawJson::parse("{}")?) };
    refused(&vm, Modification::add(resource), "invalid ResourceType 'NoSuchThing'").await;
    let device = VpciDevice { vmbus_guid: "d0a3cf1b-4a6a-4d4c-a9a4-3f1b9b2f0001".into(), port: String::new() };
    refused(&vm, Modification::remove(Resource::VpciDevice(device)), "RequestType \"Remove\" is not supported").await;

    let script = "mkdir -p /run/wt/a /run/wt/b /run/wt/s; \
                  echo a >/run/wt/a/both; echo b >/run/wt/b/both; echo b >/run/wt/b/low";
    assert_eq!(run(&vm, &shell(script)).await?, ended(0, "", ""));
    let both = ["/run/wt/a", "/run/wt/b"];
    add(&vm, layers("/run/wt/root", &both, "/run/wt/s")).await?;
    let script = "cat /run/wt/root/both /run/wt/root/low; echo new >/run/wt/root/new; cat /run/wt/s/upper/new; \
                  test -d /run/wt/s/work && grep -c ' /run/wt/root overlay ' /proc/mounts";
    assert_eq!(run(&vm, &shell(script)).await?, ended(0, "a\nb\nnew\n1\n", ""));
    remove(&vm, layers("/run/wt/root", &both, "")).await?;
    let script = "test -e /run/wt/root; echo $?; cat /run/wt/s/upper/new";
    assert_eq!(run(&vm, &shell(script)).await?, ended(0, "1\nnew\n", ""));

    add(&vm, layers("/run/wt/ro", &both, "")).await?;
    let script = "cat /run/wt/ro/both; touch /run/wt/ro/x 2>/dev/null; echo $?";
    assert_eq!(run(&vm, &shell(script)).await?, ended(0, "a\n1\n", ""));
    remove(&vm, layers("/run/wt/ro", &[], "")).await?;
    // What is not there is removed already.
    remove(&vm, layers("/run/wt/never", &[], "")).await?;
    let missing = Resource::CombinedLayers(layers("/run/wt/r2", &["/run/wt/nolayer"], "/run/wt/s2"));
    refused(&vm, Modification::add(missing), "/run/wt/r2: no such file or directory").await;

    assert_eq!(run(&vm, &shell("test -b /dev/pmem0")).await?, ended(1, "", ""));
    let device = VpmemDevice { device_number: 77, mount_path: "/run/layers/p77".into(), ..VpmemDevice::default() };
    refused(&vm, Modification::add(Resource::VpmemDevice(device)), "/run/layers/p77: no such file or directory").await;
    Ok(())
}
