//! Windows guests: what only they have.

use uvm::wire::negotiate::GuestOs;
use uvm::{ErrorKind, Plan9ShareOptions, ResourceError, VsmbOptions};
use uvm_platform::{Feature, PlatformError};

use super::subject::{cause, failure, not_attached, resource};
use super::{Host, Subject, Wanted};
use crate::TestResult;

pub(super) async fn a_windows_guest_has_shares_counted_by_what_is_shared(host: &dyn Host) -> TestResult<usize> {
    let wanted = Wanted { name: "windows", os: GuestOs::Windows, virtual_sockets: false };
    if !host.capabilities().await?.has(Feature::WindowsGuests) {
        let created = Subject::create(host, wanted).await;
        let error = created.err().ok_or("a Windows guest, which the host says it cannot have")?;
        let error = error.downcast_ref::<uvm::UvmError>().ok_or("no error of the library")?;
        assert!(
            matches!(cause(error), Some(PlatformError::Unsupported { feature: Feature::WindowsGuests, .. })),
            "{error:?}"
        );
        return Ok(1);
    }
    let vm = Subject::boot(host, wanted).await?;
    assert_eq!(vm.os(), GuestOs::Windows);
    directories_and_files(&vm).await?;
    what_only_linux_guests_have(&vm).await?;
    layers(&vm).await?;
    vm.close().await
}

async fn directories_and_files(vm: &Subject) -> TestResult {
    let things = vm.things();
    let options = vm.default_vsmb_options(true);
    let add = || vm.add_vsmb(&things.directory, options);
    let (one, two) = (add().await?, add().await?);
    assert_eq!(one.guest_path(), two.guest_path(), "it is the same");
    assert_eq!(vm.vsmb_guest_path(&things.directory, true).await?, one.guest_path());
    let error =
        failure("other options", vm.add_vsmb(&things.directory, VsmbOptions { no_locks: true, ..options }).await)?;
    assert!(matches!(resource(&error), ResourceError::AttachedOtherwise { .. }), "{error:?}");
    not_attached("one that can be written", vm.remove_vsmb(&things.directory, false).await)?;
    let restricted = VsmbOptions { restrict_file_access: true, ..options };
    let error = failure("a restricted directory", vm.add_vsmb(&things.directory, restricted).await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    let error = failure("nothing there", vm.add_vsmb(&things.nowhere, options).await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    // A file is another share.
    let file = vm.add_vsmb(&things.file, options).await?;
    assert_ne!(file.guest_path(), one.guest_path());
    one.release().await?;
    not_attached("a second release", one.release().await)?;
    vm.remove_vsmb(&things.directory, true).await?;
    not_attached("what was removed by its path", two.release().await)?;
    file.release().await?;
    // A mapped one stands on a share, which goes with it.
    let share = vm.share(&things.directory, r"C:\mapped", true).await?;
    assert_eq!(share.guest_path(), r"C:\mapped");
    share.release().await?;
    not_attached("the share under it", vm.vsmb_guest_path(&things.directory, true).await)
}

async fn what_only_linux_guests_have(vm: &Subject) -> TestResult {
    let things = vm.things();
    let share = Plan9ShareOptions::new(&things.directory, "/mnt");
    for error in
        [failure("a layer", vm.add_vpmem(&things.file).await)?, failure("a 9P share", vm.add_plan9(&share).await)?]
    {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(matches!(resource(&error), ResourceError::NotForThisGuest { .. }), "{error:?}");
    }
    Ok(())
}

async fn layers(vm: &Subject) -> TestResult {
    let layer = ("c1c2c3c4-0000-4000-9000-000000000001".to_owned(), r"C:\layers\1".to_owned());
    let combined = vm.combine_layers_wcow(&[layer], r"C:\root").await?;
    assert_eq!(combined.root(), r"C:\root");
    vm.remove_combined_layers(r"C:\root").await?;
    not_attached("what was removed by its root", combined.release().await)
}
