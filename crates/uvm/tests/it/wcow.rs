//! Windows guests, and guests whose connection the host's service holds.

use std::sync::Arc;
use std::time::Duration;

use uvm::platform::fake::{FakeGuestEnd, FakePlatform, Fault};
use uvm::platform::spec::{GuestConnection as Held, MemoryBacking as Backing};
use uvm::platform::{Capabilities, Feature, HostGuestConnection};
use uvm::wire::call::Done;
use uvm::wire::create::{Create, CreateReply};
use uvm::wire::modify::{ModifySettings, RequestType};
use uvm::wire::negotiate::{self, GuestDefinedCapabilities, GuestOs, NegotiateProtocolReply};
use uvm::wire::system::Start;
use uvm::wire::{Call, Failure};
use uvm::{
    ErrorKind, GuestConnection, MemoryBacking, OptionsError, ScsiDisk, StartPhase, UtilityVm, UvmError, WcowOptions,
};
use uvm_testkit::guest::Guest;

use crate::support::{ORIGINAL, Played, TestResult, boot_files, nothing_left, settle, within_a_day};

fn windows(change: impl FnOnce(&mut WcowOptions)) -> WcowOptions {
    let mut options = WcowOptions::new([r"C:\top", r"C:\base", r"C:\scratch"]);
    change(&mut options);
    options
}

async fn create(host: &FakePlatform, options: &WcowOptions) -> Result<UtilityVm, UvmError> {
    UtilityVm::create_wcow_on(Arc::new(host.clone()), options).await
}

/// What a Windows guest says of itself.
fn capabilities(change: impl FnOnce(&mut negotiate::Capabilities)) -> NegotiateProtocolReply {
    let guest_defined = GuestDefinedCapabilities { dump_stacks: true, ..GuestDefinedCapabilities::default() };
    let mut capabilities = negotiate::Capabilities { guest_defined, ..negotiate::Capabilities::default() };
    change(&mut capabilities);
    NegotiateProtocolReply { version: 4, capabilities }
}

fn end_of(host: &FakePlatform) -> TestResult<FakeGuestEnd> {
    Ok(host.guest().ok_or("there is no guest")?)
}

#[tokio::test(start_paused = true)]
async fn a_windows_guest_is_told_its_addresses_once_it_has_answered() -> TestResult {
    let host = FakePlatform::new();
    let vm = create(&host, &windows(|o| o.backing = MemoryBacking::FullyPhysical)).await?;
    assert_eq!((vm.os(), vm.physically_backed(), vm.devices_physically_backed()), (GuestOs::Windows, true, true));
    // Its agent logs nowhere and needs no entropy.
    assert_eq!(host.calls(), ["create", "listen 0x40000000"]);
    let spec = host.wcow_specs().pop().ok_or("nothing was asked for")?;
    assert_eq!((spec.guest_connection, spec.memory.backing), (Held::Owner, Backing::Physical));
    let end = end_of(&host)?;
    let boot = async {
        let mut guest = Guest::boot(&end).await?;
        guest.negotiate_as(capabilities(|_| ())).await?;
        let told = guest.answer::<ModifySettings>(Done {}).await?;
        TestResult::Ok((guest, told))
    };
    let (started, booted) = within_a_day(async { tokio::join!(vm.start(), boot) }).await?;
    let (guest, told) = booted?;
    started?;
    assert!(guest.entropy.is_empty() && guest.log.is_none());
    let Call::ModifySettings(told) = told.request.call else { panic!("{told:?}") };
    assert_eq!(told.modification.request_type, RequestType::Update);
    let json = serde_json::to_value(&*told)?;
    let addresses = serde_json::json!({
        "LocalAddress": FakePlatform::RUNTIME_ID, "ParentAddress": "894cc2d6-9d79-424f-93fe-42969ae6d8d1"
    });
    assert_eq!((&json["Request"]["ResourceType"], &json["Request"]["Settings"]), (&"HvSocket".into(), &addresses));
    assert_eq!((vm.protocol_version(), vm.signal_process_supported()), (Some(4), false));
    vm.close().await?;
    // Without output there is nothing to wait for.
    vm.wait().await?;
    drop((vm, guest, end));
    nothing_left(&host).await
}

#[tokio::test(start_paused = true)]
async fn a_windows_guest_that_refuses_its_addresses_does_not_start() -> TestResult {
    let host = FakePlatform::new();
    let vm = create(&host, &windows(|_| ())).await?;
    let end = end_of(&host)?;
    let boot = async {
        let mut guest = Guest::boot(&end).await?;
        guest.negotiate_as(capabilities(|_| ())).await?;
        guest.refuse::<ModifySettings>(Failure::plain("no such thing")).await?;
        TestResult::Ok(guest)
    };
    let (started, guest) = within_a_day(async { tokio::join!(vm.start(), boot) }).await?;
    let _guest = guest?;
    let error = started.expect_err("refused");
    assert!(matches!(error, UvmError::Start { phase: StartPhase::Negotiation, .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Guest);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_asks_for_it_is_told_of_the_vm_itself() -> TestResult {
    for wants_start in [false, true] {
        let played = Played::create_with(|o| o.boot_files = Some(boot_files(ORIGINAL))).await?;
        let reply = capabilities(|c| {
            c.send_host_create_message = true;
            c.send_host_start_message = wants_start;
        });
        let boot = async {
            let mut guest = Guest::boot(&played.end).await?;
            guest.negotiate_as(reply).await?;
            let created = guest.answer::<Create>(CreateReply::default()).await?;
            assert!(created.request.base.container_id.is_uvm());
            if wants_start {
                guest.answer::<Start>(Done {}).await?;
            }
            TestResult::Ok(guest)
        };
        let (started, guest) = within_a_day(async { tokio::join!(played.vm.start(), boot) }).await?;
        let _guest = guest?;
        started?;
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_the_hosts_service_knows_of_the_guest_is_learnt_from_it() -> TestResult {
    let host = FakePlatform::new();
    let capabilities = r#"{"DumpStacksSupported":true,"SignalProcessSupported":true}"#.to_owned();
    host.set_guest_connection(HostGuestConnection { protocol_version: 4, capabilities });
    let vm = create(&host, &windows(|o| o.guest_connection = GuestConnection::HostService)).await?;
    assert_eq!((vm.capabilities(), vm.protocol_version()), (None, None));
    vm.start().await?;
    assert_eq!(host.calls(), ["create", "start", "guest connection"]);
    assert_eq!(host.wcow_specs()[0].guest_connection, Held::HostService);
    assert_eq!((vm.protocol_version(), vm.signal_process_supported()), (Some(4), true));
    // What takes a bridge of ours says so, and a request of any kind goes by the service.
    assert!(!vm.delete_container_state_supported());
    assert_eq!(vm.dump_stacks().await?, "");
    let error = vm.update_container("c", "{}").await.expect_err("d67: nobody is asked");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    vm.guest_request_raw(r#"{"a":1}"#).await?;
    assert_eq!(host.calls().last().map(String::as_str), Some(r#"pass on {"a":1}"#));
    assert_eq!(vm.guest_request_raw("{").await.expect_err("no JSON").kind(), ErrorKind::InvalidInput);
    vm.close().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_is_plugged_in_before_the_start_can_go_at_any_time() -> TestResult {
    let host = FakePlatform::new();
    let vm = create(&host, &windows(|o| o.guest_connection = GuestConnection::HostService)).await?;
    let error = vm.add_pipe("early").await.expect_err("no service that takes it");
    assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    host.set_guest_connection(HostGuestConnection { protocol_version: 4, capabilities: "{}".into() });
    let (dropped, released) = (vm.add_pipe("dropped").await?, vm.add_pipe("released").await?);
    let kept = vm.add_scsi(&ScsiDisk::new("/a").with_guest_path(r"C:\a")).await?;
    host.plant("start", 0, Fault::Slow(Duration::from_secs(2)));
    let during = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let error = vm.add_pipe("late").await.expect_err("it is starting");
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
        drop(dropped);
        released.release().await
    };
    let (started, during) = tokio::join!(vm.start(), during);
    started?;
    during?;
    settle().await;
    let plugged = ["create", "add pipe", "add pipe", "add scsi", "start", "guest connection"];
    assert_eq!(host.calls(), [&plugged[..], &["remove pipe", "remove pipe"]].concat());
    kept.release().await?;
    vm.close().await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_service_that_knows_no_guest_fails_the_start() -> TestResult {
    let host = FakePlatform::new();
    let vm = create(&host, &windows(|o| o.guest_connection = GuestConnection::HostService)).await?;
    let error = vm.start().await.expect_err("it knows nothing");
    assert!(matches!(error, UvmError::Start { phase: StartPhase::Negotiation, .. }), "{error}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_host_lacks_or_options_get_wrong_is_told_before_anything_is_made() -> TestResult {
    let lacking = Capabilities::all("fake").without(Feature::WindowsGuests, "this is a test");
    let host = FakePlatform::new().with_capabilities(lacking);
    let error = create(&host, &windows(|_| ())).await.expect_err("none here");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = create(&host, &windows(|o| o.layer_folders.truncate(1))).await.expect_err("one folder");
    assert!(matches!(error, UvmError::Options(OptionsError::TooFewLayerFolders { count: 1 })), "{error}");
    assert!(host.calls().is_empty());
    Ok(())
}
