//! Requests to the guest about the VM's own resources: as they were given, or not at all.

use uvm::wire::call::Done;
use uvm::wire::modify::{
    CombinedLayers, ContainerConstraints, Layer, Modification, ModifySettings, RequestType, Resource, VpmemDevice,
};
use uvm::wire::{Failure, Hresult, RawJson};
use uvm::{BridgeError, ErrorKind, Refusal, UvmError};

use crate::support::{Played, TestResult, bridge_error, chain, silence};

fn layers() -> Resource {
    Resource::CombinedLayers(CombinedLayers {
        container_root_path: "/run/gcs/c/c/rootfs".into(),
        layers: vec![Layer { path: "/run/layers/p1".into(), ..Layer::default() }],
        scratch_path: "/run/gcs/c/c/scratch".into(),
        ..CombinedLayers::default()
    })
}

fn other(resource_type: &str, settings: Option<&str>) -> TestResult<Resource> {
    let settings = settings.map(RawJson::parse).transpose()?;
    Ok(Resource::Other { resource_type: resource_type.into(), settings })
}

#[tokio::test(start_paused = true)]
async fn a_request_reaches_the_guest_as_it_was_given() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let requests = [
        Modification::add(layers()),
        Modification::remove(layers()),
        Modification::add(Resource::VpmemDevice(VpmemDevice { device_number: 3, ..VpmemDevice::default() })),
        Modification::update(Resource::PodCgroupMemoryLimit),
        // What this library does not know, an agent may.
        Modification { request_type: RequestType::Other("Weigh".into()), resource: other("Elephant", Some("[1]"))? },
        Modification::add(other("Elephant", None)?),
    ];
    for request in requests {
        let (done, asked) =
            tokio::join!(played.vm.guest_request(request.clone()), guest.answer::<ModifySettings>(Done::default()));
        done?;
        let asked = asked?.request;
        assert!(asked.base.container_id.is_uvm());
        assert_eq!(asked.call, ModifySettings { modification: request }.into());
    }
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_refuses_says_why_and_goes_on() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let refusals = [
        (Failure::plain("failed to mount overlayfs at /x: no such file or directory"), ErrorKind::Guest),
        (Failure { errno: Some(2), ..Failure::plain("no layer") }, ErrorKind::NotFound),
        (Failure::wrapping(Hresult::NOT_IMPLEMENTED, "no layers here"), ErrorKind::Unsupported),
    ];
    for (failure, kind) in refusals {
        let (done, asked) = tokio::join!(
            played.vm.guest_request(Modification::add(layers())),
            guest.refuse::<ModifySettings>(failure.clone())
        );
        asked?;
        let error = done.expect_err("refused");
        assert_eq!(error.kind(), kind);
        let told = bridge_error(&error).and_then(BridgeError::failure).ok_or("no failure of the guest")?;
        assert_eq!((told.result, &told.message), (failure.result, &failure.message));
        assert!(chain(&error).contains(&failure.message), "{}", chain(&error));
    }
    let (done, asked) = tokio::join!(
        played.vm.guest_request(Modification::add(layers())),
        guest.answer::<ModifySettings>(Done::default())
    );
    asked?;
    done?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn d79_a_request_for_nothing_is_not_sent() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let senseless = [
        (other("", None)?, "no name"),
        (other("", Some("{}"))?, "no name"),
        (other("CombinedLayers", Some("null"))?, "null"),
        (other("CombinedLayers", Some(" null "))?, "null"),
        (Resource::ContainerConstraints(ContainerConstraints::default()), "of a container"),
    ];
    for (resource, why) in senseless {
        let name = resource.name().to_owned();
        let error = played.vm.guest_request(Modification::add(resource)).await.expect_err(why);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(&error, UvmError::GuestRequest { resource, .. } if *resource == name), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
    silence(&mut guest).await?;
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn only_a_running_guest_is_asked() -> TestResult {
    let played = Played::create().await?;
    let error = played.vm.guest_request(Modification::add(layers())).await.expect_err("it was not started");
    assert!(matches!(error, UvmError::Refused { why: Refusal::NotStarted, .. }), "{error:?}");
    played.close().await
}
