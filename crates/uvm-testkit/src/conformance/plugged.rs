//! What is plugged into a VM that runs: shared, counted, released, refused.

use uvm::{
    Endpoint, ErrorKind, Plan9ShareOptions, ResourceError, ScsiDisk, ScsiMount, UvmError, VmAccess, VsmbOptions,
};
use uvm_platform::Feature;

use super::Subject;
use super::subject::{cause, failure, not_attached, resource};
use crate::TestResult;
use crate::memory::{ENDPOINT, NAMESPACE};

pub(super) async fn disks_are_shared_and_counted(vm: &Subject) -> TestResult {
    let disk = ScsiDisk::new(&vm.things().file).with_guest_path("/mnt/disk").with_access(VmAccess::Individual);
    let Some(one) = vm.if_it_can(Feature::ScsiDisks, vm.add_scsi(&disk).await)? else {
        not_attached("a disk that could not be had", vm.remove_scsi(&vm.things().file).await)?;
        return not_attached("its path", vm.scsi_guest_path(&vm.things().file).await);
    };
    let place = |disk: &ScsiMount| (disk.controller(), disk.lun(), disk.guest_path().map(str::to_owned));
    let two = vm.add_scsi(&disk).await?;
    assert_eq!(place(&one), (Some(0), Some(0), Some("/mnt/disk".to_owned())));
    assert_eq!(place(&one), place(&two), "it is the same");
    assert_eq!(vm.scsi_guest_path(&vm.things().file).await?.as_deref(), Some("/mnt/disk"));
    one.release().await?;
    not_attached("a second release", one.release().await)?;
    // Another still has it.
    assert_eq!(vm.scsi_guest_path(&vm.things().file).await?.as_deref(), Some("/mnt/disk"));
    vm.remove_scsi(&vm.things().file).await?;
    not_attached("what was removed by its path", two.release().await)?;
    not_attached("a disk that is gone", vm.remove_scsi(&vm.things().file).await)?;
    not_attached("its path", vm.scsi_guest_path(&vm.things().file).await)?;
    // Its place is free.
    let again = vm.add_scsi(&disk).await?;
    assert_eq!(again.lun(), Some(0));
    Ok(again.release().await?)
}

pub(super) async fn disks_that_do_not_fit_are_refused(vm: &Subject) -> TestResult {
    let bare = ScsiDisk::new(&vm.things().file);
    let Some(there) = vm.if_it_can(Feature::ScsiDisks, vm.add_scsi(&bare).await)? else { return Ok(()) };
    assert_eq!(there.guest_path(), None);
    for other in [bare.clone().read_only(), ScsiDisk::physical(&vm.things().file)] {
        let error = failure("otherwise", vm.add_scsi(&other).await)?;
        assert!(matches!(resource(&error), ResourceError::AttachedOtherwise { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }
    // One that is only attached can be mounted.
    let mounted = vm.add_scsi(&bare.clone().with_guest_path("/mnt/disk")).await?;
    assert_eq!((mounted.lun(), mounted.guest_path()), (there.lun(), Some("/mnt/disk")));
    let error = failure("elsewhere", vm.add_scsi(&bare.with_guest_path("/mnt/else")).await)?;
    assert!(matches!(resource(&error), ResourceError::AttachedOtherwise { .. }), "{error:?}");
    there.release().await?;
    Ok(mounted.release().await?)
}

pub(super) async fn layers_of_memory_are_shared_and_counted(vm: &Subject) -> TestResult {
    let things = vm.things();
    for wrong in [&things.nowhere, &things.directory] {
        let error = failure("no layer", vm.add_vpmem(wrong).await)?;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    }
    let Some(one) = vm.if_it_can(Feature::Vpmem, vm.add_vpmem(&things.file).await)? else {
        return not_attached("a layer that could not be had", vm.remove_vpmem(&things.file).await);
    };
    let two = vm.add_vpmem(&things.file).await?;
    assert_eq!((one.slot(), one.guest_path().as_deref()), (Some(0), Some("/run/layers/p0")));
    assert_eq!(two.slot(), Some(0), "it is the same");
    two.release().await?;
    not_attached("a second release", two.release().await)?;
    vm.remove_vpmem(&things.file).await?;
    not_attached("what was removed by its path", one.release().await)?;
    not_attached("a layer that is gone", vm.remove_vpmem(&things.file).await)?;
    // Its place is free; and with its file closed on removal it is the same to the guest.
    let again = vm.add_vpmem(&things.file).await?;
    assert_eq!((again.slot(), again.guest_path().as_deref()), (Some(0), Some("/run/layers/p0")));
    let error = failure("otherwise", vm.add_closing_vpmem(&things.file).await)?;
    assert!(matches!(resource(&error), ResourceError::AttachedOtherwise { .. }), "{error:?}");
    again.release().await?;
    let closing = vm.add_closing_vpmem(&things.file).await?;
    let shared = vm.add_vpmem(&things.file).await?;
    assert_eq!((closing.slot(), shared.guest_path().as_deref()), (Some(0), Some("/run/layers/p0")));
    closing.release().await?;
    Ok(shared.release().await?)
}

pub(super) async fn directories_are_each_a_share_of_their_own(vm: &Subject) -> TestResult {
    let things = vm.things();
    let options = Plan9ShareOptions::new(&things.directory, "/mnt/share").read_only();
    let nameless = Plan9ShareOptions::new(&things.directory, "");
    let error = failure("no path in the guest", vm.add_plan9(&nameless).await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let error = failure("nothing to share", vm.share(&things.nowhere, "/mnt", true).await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let Some(one) = vm.if_it_can(Feature::Plan9Shares, vm.add_plan9(&options).await)? else {
        // Neither is what is shared by them.
        vm.if_it_can(Feature::Plan9Shares, vm.share(&things.file, "/mnt", true).await)?;
        return Ok(());
    };
    let two = vm.add_plan9(&Plan9ShareOptions::new(&things.directory, "/mnt/again").read_only()).await?;
    let file = vm.share(&things.file, "/mnt/file", true).await?;
    assert_eq!((one.guest_path(), file.guest_path()), ("/mnt/share", "/mnt/file"));
    vm.remove_plan9(&one).await?;
    not_attached("a second release", one.release().await)?;
    // The other is another.
    two.release().await?;
    not_attached("a second release", two.release().await)?;
    Ok(file.release().await?)
}

pub(super) async fn pipes_are_shared_and_counted(vm: &Subject) -> TestResult {
    let pipe = &vm.things().pipe;
    let Some(one) = vm.if_it_can(Feature::Pipes, vm.add_pipe(pipe).await)? else {
        return not_attached("a pipe that could not be had", vm.remove_pipe(pipe).await);
    };
    let two = vm.add_pipe(pipe).await?;
    one.release().await?;
    not_attached("a second release", one.release().await)?;
    vm.remove_pipe(pipe).await?;
    not_attached("what was removed by its path", two.release().await)?;
    not_attached("a pipe that is gone", vm.remove_pipe(pipe).await)
}

pub(super) async fn devices_are_shared_and_counted(vm: &Subject) -> TestResult {
    let [first, second] = &vm.things().devices;
    let Some(one) = vm.if_it_can(Feature::PciDevices, vm.assign_device(first).await)? else { return Ok(()) };
    // Spelt otherwise, it is the same.
    let two = vm.assign_device(&first.to_lowercase()).await?;
    assert_eq!(one.vmbus_guid(), two.vmbus_guid());
    assert!(one.vmbus_instance_id().contains(one.vmbus_guid()));
    let other = vm.assign_device(second).await?;
    assert_ne!(one.vmbus_guid(), other.vmbus_guid());
    for device in [one, two, other] {
        device.release().await?;
        not_attached("a second release", device.release().await)?;
    }
    Ok(())
}

pub(super) async fn networks_come_and_go(vm: &Subject) -> TestResult {
    // What was never there is gone.
    vm.remove_network_namespace(NAMESPACE).await?;
    let error = failure("no namespace", vm.add_endpoints(NAMESPACE, &[Endpoint::new(ENDPOINT, NAMESPACE)]).await)?;
    assert!(matches!(resource(&error), ResourceError::NamespaceNotFound), "{error:?}");
    let found = vm.if_it_can(Feature::NetworkAdapters, vm.find_endpoint(ENDPOINT).await)?;
    let added = vm.add_network_namespace(NAMESPACE).await;
    let Some(found) = found else {
        vm.if_it_can(Feature::NetworkAdapters, added)?;
        return Ok(());
    };
    added?;
    let endpoint = found.ok_or("the host has no endpoint")?;
    let error = failure("twice", vm.add_network_namespace(&NAMESPACE.to_uppercase()).await)?;
    assert!(matches!(resource(&error), ResourceError::NamespaceAlreadyAdded), "{error:?}");
    let error = failure("no id", vm.add_network_namespace("").await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    // An adapter that is there stays.
    vm.add_endpoints(NAMESPACE, &[endpoint.clone(), endpoint.clone()]).await?;
    vm.add_endpoints(NAMESPACE, std::slice::from_ref(&endpoint)).await?;
    vm.remove_endpoints(NAMESPACE, &[ENDPOINT, "a1b2c3d4-0000-4000-9000-0000000000e2"]).await?;
    vm.add_endpoints(NAMESPACE, &[endpoint]).await?;
    vm.remove_network_namespace(NAMESPACE).await?;
    let error = failure("gone", vm.remove_endpoints(NAMESPACE, &[ENDPOINT]).await)?;
    assert!(matches!(resource(&error), ResourceError::NamespaceNotFound), "{error:?}");
    Ok(())
}

pub(super) async fn combined_layers_are_each_their_own(vm: &Subject) -> TestResult {
    let Some(layer) = vm.if_it_can(Feature::Vpmem, vm.add_vpmem(&vm.things().file).await)? else { return Ok(()) };
    let layers = [layer.guest_path().ok_or("the layer has no path")?];
    let one = vm.combine_layers_lcow(&layers, "/run/scratch", "/run/rootfs").await?;
    let two = vm.combine_layers_lcow(&layers, "/run/else/scratch", "/run/else/rootfs").await?;
    assert_eq!((one.root(), two.root()), ("/run/rootfs", "/run/else/rootfs"));
    vm.remove_combined_layers("/run/rootfs").await?;
    not_attached("what was removed by its root", one.release().await)?;
    not_attached("layers that are gone", vm.remove_combined_layers("/run/rootfs").await)?;
    // The other is another; and what is gone can be had again.
    let again = vm.combine_layers_lcow(&layers, "", "/run/rootfs").await?;
    two.release().await?;
    not_attached("a second release", two.release().await)?;
    again.release().await?;
    Ok(layer.release().await?)
}

pub(super) async fn what_only_windows_guests_have_is_refused(vm: &Subject) -> TestResult {
    let shared: Result<_, UvmError> = vm.add_vsmb(&vm.things().directory, VsmbOptions::default()).await;
    let error = failure("VSMB", shared)?;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(matches!(resource(&error), ResourceError::NotForThisGuest { .. }) && cause(&error).is_none(), "{error:?}");
    not_attached("a share that could not be had", vm.remove_vsmb(&vm.things().directory, false).await)
}
