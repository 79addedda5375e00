//! VMs of the platform over a recording host: what it is told, in which order, and what is left.

use std::sync::Arc;
use std::time::Duration;

use uvm_hcs::host::{Notification, NotificationKind};
use uvm_hcs::recording::{Fault, RecordedCall, RecordingHcs};
use uvm_hcs::{HcsPlatform, HcsVm, WinPath, WindowsBuild};
use uvm_platform::requests::{Change, CpuGroup, Device, MappedPipe, Setting};
use uvm_platform::spec::VmSpec;
use uvm_platform::{Accelerator, ExitStatus, Platform, PlatformError, PlatformVm, Port, VmEvent, VmEvents};
use uvm_wire::ports::{BRIDGE_PORT, ENTROPY_PORT, LOG_PORT, vsock_service};
use uvm_wire::{Hresult, RawJson};

use crate::specs::{lcow, wcow};

const VM: uvm_wire::Guid = RecordingHcs::RUNTIME_ID;
const DENIED: Hresult = Hresult::from_bits(0x8007_0005);

pub(crate) async fn platform(host: &RecordingHcs) -> HcsPlatform {
    let platform = HcsPlatform::connect(Arc::new(host.clone())).await.expect("it answers").on_current_runtime();
    host.take_calls();
    platform
}

pub(crate) async fn create(host: &RecordingHcs, spec: &VmSpec) -> (Arc<HcsVm>, VmEvents) {
    platform(host).await.create_lcow(spec).await.expect("created")
}

pub(crate) fn summaries(host: &RecordingHcs) -> Vec<String> {
    host.take_calls().iter().map(RecordedCall::summary).collect()
}

fn exited(status: Hresult) -> Notification {
    Notification::new(NotificationKind::SystemExited, status)
}

#[tokio::test]
async fn a_vm_lives_and_leaves_nothing() {
    let host = RecordingHcs::new();
    let (vm, mut events) = create(&host, &lcow()).await;
    assert_eq!((vm.accelerator(), vm.runtime_id()), (Accelerator::HyperV, VM));
    vm.start().await.expect("started");
    vm.pause().await.expect("paused");
    vm.pause().await.expect("it stands");
    vm.resume().await.expect("resumed");
    vm.resume().await.expect("it runs");
    vm.close().await.expect("closed");
    vm.close().await.expect("closed already");
    assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Terminated)));
    assert_eq!(events.next().await, None);
    drop(vm);
    assert_eq!(
        summaries(&host),
        [
            "hcs get_service_properties",
            "hcs create_system vm-under-test",
            "hcs get_properties vm-under-test",
            "hcs start_system vm-under-test",
            "hcs pause_system vm-under-test",
            "hcs resume_system vm-under-test",
            "hcs terminate_system vm-under-test",
            "hcs close_system vm-under-test",
        ]
    );
    assert_eq!(host.open_systems(), 0);
}

#[tokio::test]
async fn a_vm_that_has_ended_is_still_told_to_until_it_is_closed() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    vm.start().await.expect("started");
    vm.terminate().await.expect("terminated");
    host.take_calls();
    vm.terminate().await.expect("it has ended");
    // Whatever the service says now.
    host.plant(Fault::on("hcs", "terminate_system").code(DENIED));
    vm.close().await.expect("closed");
    vm.terminate().await.expect("it is closed");
    assert_eq!(
        summaries(&host),
        ["hcs terminate_system vm-under-test", "hcs terminate_system vm-under-test", "hcs close_system vm-under-test",]
    );
}

#[test]
fn a_vm_has_a_thread_of_its_own_unless_told_otherwise() {
    let host = RecordingHcs::new();
    let bare = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    // Neither runtime has a timer, and the first ends before the VM does. Only the question for processors needs one.
    let timed = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let platform = timed.block_on(HcsPlatform::connect(Arc::new(host.clone()))).expect("it answers");
    let (vm, _events) = bare().block_on(platform.create_lcow(&lcow())).expect("created");
    bare().block_on(async {
        vm.start().await.expect("started");
        vm.close().await.expect("closed");
    });
    assert_eq!(host.open_systems(), 0);
}

#[tokio::test]
async fn d75_a_second_start_is_refused() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    assert!(matches!(vm.pause().await, Err(PlatformError::WrongState { state: "not started", .. })));
    let (first, second) = tokio::join!(vm.start(), vm.start());
    first.expect("started");
    assert!(matches!(second, Err(PlatformError::WrongState { intent: "start it", state: "running" })));
    assert_eq!(host.calls().iter().filter(|call| call.op == "start_system").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_wait_has_a_deadline_that_names_what_was_waited_for() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    let plant = |op: &str| host.plant(Fault::on("hcs", op).hang());
    let waited = |result: Result<(), PlatformError>| match result {
        Err(PlatformError::Timeout { what, waited, .. }) => (what, waited.as_secs()),
        other => panic!("{other:?}"),
    };
    let service = |intent: &str| format!("the compute service, to {intent}");
    plant("start_system");
    assert_eq!(waited(vm.start().await), (service("start it"), 120));
    vm.start().await.expect("it may be tried again");
    plant("pause_system");
    assert_eq!(waited(vm.pause().await), (service("pause it"), 10));
    plant("modify_system");
    let pipe = Change::Add(Device::Pipe(MappedPipe { path: r"\\.\pipe\p".into(), port: None }));
    assert_eq!(waited(vm.change(pipe, None).await), (service("add a device to it"), 10));
    plant("get_properties");
    assert_eq!(waited(vm.properties().await.map(drop)), (service("read its properties"), 10));
    plant("terminate_system");
    assert_eq!(waited(vm.terminate().await), (service("terminate it"), 5));
    plant("close_system");
    assert_eq!(waited(vm.close().await), (service("close it"), 10));
    vm.close().await.expect("closed");

    host.plant(Fault::on("hcs", "create_system").hang());
    let created = platform(&host).await.create_lcow(&lcow()).await;
    assert_eq!(waited(created.map(drop)), (service("create the compute system"), 120));
    assert_eq!(host.open_systems(), 0);
}

#[tokio::test(start_paused = true)]
async fn d76_a_terminate_that_fails_is_reported_and_bounded() {
    let host = RecordingHcs::new().with_stubborn_systems();
    let (vm, _events) = create(&host, &lcow()).await;
    vm.start().await.expect("started");
    host.plant(Fault::on("hcs", "terminate_system").code(DENIED));
    let error = vm.close().await.expect_err("it cannot be terminated");
    assert_eq!(error.to_string(), "cannot terminate it");
    // It was closed all the same, which ends it.
    assert_eq!(host.open_systems(), 0);

    let (vm, _events) = create(&host, &lcow()).await;
    let error = vm.terminate().await.expect_err("it does not end");
    assert!(error.to_string().starts_with("the end of the VM after it was terminated: no answer within 5s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_has_stopped_already_counts_as_terminated() {
    for code in [0xc037_0110, 0xc037_010e] {
        let host = RecordingHcs::new().with_stubborn_systems();
        let (vm, mut events) = create(&host, &lcow()).await;
        host.plant(Fault::on("hcs", "terminate_system").code(Hresult::from_bits(code)));
        vm.close().await.expect("it is gone");
        assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Terminated)));
    }
    // Under way: its end is still to come.
    let host = RecordingHcs::new().with_stubborn_systems();
    let (vm, _events) = create(&host, &lcow()).await;
    host.plant(Fault::on("hcs", "terminate_system").code(Hresult::from_bits(0xc037_0103)));
    let end = async {
        tokio::task::yield_now().await;
        host.notify("vm-under-test", exited(Hresult::OK));
    };
    let (terminated, ()) = tokio::join!(vm.terminate(), end);
    terminated.expect("it ended");
}

#[tokio::test]
async fn d77_a_closed_vm_says_so_without_asking_the_service() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    vm.close().await.expect("closed");
    host.take_calls();
    let refused =
        |result: Result<(), PlatformError>| matches!(result, Err(PlatformError::WrongState { state: "closed", .. }));
    assert!(refused(vm.start().await) && refused(vm.pause().await) && refused(vm.resume().await));
    assert!(refused(vm.listen(Port(1)).map(drop)) && refused(vm.dial(Port(1)).await.map(drop)));
    assert!(refused(vm.change(Change::Update(Setting::CpuGroup(CpuGroup { id: None })), None).await));
    assert!(refused(vm.system_properties(Vec::new()).await.map(drop)));
    assert!(refused(vm.memory_process_working_set().await.map(drop)));
    vm.terminate().await.expect("it is gone");
    assert_eq!(vm.properties().await.expect("no question").state, "gone");
    assert_eq!(summaries(&host), Vec::<String>::new());
}

#[tokio::test]
async fn d7_d21_a_vm_that_was_never_started_closes_with_its_listeners() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    let mut listeners: Vec<_> =
        [ENTROPY_PORT, LOG_PORT, BRIDGE_PORT].map(|port| vm.listen(Port(port)).expect("free")).into();
    assert_eq!(host.listened_services(VM), [vsock_service(1), vsock_service(109), vsock_service(BRIDGE_PORT)]);
    vm.close().await.expect("closed");
    for listener in &mut listeners {
        let error = listener.accept().await.expect_err("the VM has ended");
        assert!(matches!(error, PlatformError::Ended { status: ExitStatus::Terminated, .. }), "{error}");
    }
    drop(listeners);
    assert!(host.listened_services(VM).is_empty());
}

#[tokio::test]
async fn d21_a_listener_that_cannot_be_opened_leaves_no_port_taken() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    host.plant(Fault::on("hvsock", "listen").containing("0000006d-facb").code(DENIED));
    assert_eq!(vm.listen(Port(109)).expect_err("denied").to_string(), "cannot listen on port 109");
    let listener = vm.listen(Port(109)).expect("free");
    assert!(vm.listen(Port(109)).is_err(), "taken");
    drop(listener);
    vm.listen(Port(109)).expect("free again");
}

#[tokio::test]
async fn d22_d23_d31_a_vm_that_dies_cancels_who_waits_for_its_guest() {
    let host = RecordingHcs::new();
    let (vm, mut events) = create(&host, &lcow()).await;
    // From the creation on, not only once it was started.
    let mut listener = vm.listen(Port(ENTROPY_PORT)).expect("free");
    let waiting = tokio::spawn(async move { (listener.accept().await.map(drop), listener) });
    tokio::task::yield_now().await;
    assert!(host.notify("vm-under-test", exited(Hresult::from_bits(0xc037_0106))));
    let (accepted, mut listener) = waiting.await.expect("joined");
    let error = accepted.expect_err("the VM has ended");
    let PlatformError::Ended { status, .. } = &error else { panic!("{error}") };
    assert!(!status.is_clean(), "{status}");
    // A guest that dialled at the last moment is not taken for a live one.
    let stream = host.dial(VM, vsock_service(ENTROPY_PORT)).expect("the listener is open");
    assert!(listener.accept().await.is_err());
    drop(stream);
    assert!(matches!(events.next().await, Some(VmEvent::Exited(ExitStatus::Abnormal(_)))));
    assert!(matches!(vm.start().await, Err(PlatformError::Ended { .. })));
    assert_eq!(vm.last_words().phase.as_deref(), Some("it exited unexpectedly (0xc0370106)"));
}

#[tokio::test]
async fn what_the_service_tells_becomes_events() {
    let host = RecordingHcs::new();
    let (vm, mut events) = create(&host, &lcow()).await;
    for kind in [
        NotificationKind::GuestConnectionClosed,
        NotificationKind::CrashInitiated,
        NotificationKind::CrashReport,
        NotificationKind::SystemExited,
    ] {
        host.notify("vm-under-test", Notification::new(kind, Hresult::OK));
    }
    assert_eq!(events.next().await, Some(VmEvent::GuestPanicked));
    assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Panicked)));

    drop(vm);
    let (vm, mut events) = create(&host, &lcow()).await;
    host.notify("vm-under-test", Notification::new(NotificationKind::ServiceDisconnect, Hresult::OK));
    let why = "lost communication with the compute service";
    assert_eq!(events.next().await, Some(VmEvent::Broken { why: why.into() }));
    assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Abnormal(why.into()))));
    vm.close().await.expect("there is nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn the_guest_is_dialled_until_it_answers_or_is_gone() {
    let host = RecordingHcs::new();
    let mut spec = lcow();
    spec.virtual_sockets = true;
    let (vm, _events) = create(&host, &spec).await;
    let mut guest = host.listen_in_guest(VM, vsock_service(7));
    vm.dial(Port(7)).await.expect("it listens");
    vm.dial_socket(Port(7)).await.expect("it listens");
    assert!(guest.recv().await.is_some() && guest.recv().await.is_some());
    assert_eq!(vm.dial(Port(8)).await.expect_err("nobody listens").to_string(), "cannot dial port 8");
    host.plant(Fault::on("hvsock", "connect").hang().times(2));
    let error = vm.dial(Port(7)).await.expect_err("no answer").to_string();
    assert!(error.starts_with("the guest to answer on port 7: no answer within 10s"), "{error}");
    // Whoever dials a program waits as long as the VM lives.
    let end = async {
        tokio::time::sleep(Duration::from_secs(100_000)).await;
        host.notify("vm-under-test", exited(Hresult::OK));
    };
    let (dialled, ()) = tokio::join!(vm.dial_socket(Port(7)), end);
    assert!(matches!(dialled, Err(PlatformError::Ended { status: ExitStatus::PoweredOff, .. })));
}

#[tokio::test]
async fn virtual_sockets_have_to_be_asked_for() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    assert!(matches!(vm.listen_socket(Port(5000)), Err(PlatformError::Unsupported { .. })));
    assert!(matches!(vm.dial_socket(Port(5000)).await, Err(PlatformError::Unsupported { .. })));
}

#[tokio::test]
async fn files_can_be_mapped_where_the_file_system_has_ids_for_them_or_the_build_does_not_care() {
    for (build, asks) in [(18361, false), (18362, true), (19042, true), (19043, false)] {
        let host = RecordingHcs::new().with_build(WindowsBuild(build));
        let (vm, _events) = create(&host, &lcow()).await;
        host.add_directory(&WinPath::new(r"C:\shared"));
        let can_map = async |path: &str| vm.can_map_files_of(path.as_ref()).await;
        assert!(can_map(r"C:\shared").await.expect("it is there"), "{build}");
        assert_eq!(can_map(r"C:\absent").await.is_err(), asks, "{build}");
        host.take_file_ids_away();
        assert_eq!(can_map(r"C:\shared").await.expect("it is there"), !asks, "{build}");
    }
}

#[tokio::test]
async fn properties_are_what_the_service_knows() {
    let host = RecordingHcs::new().with_answers(|call| {
        call.text().contains("Statistics").then(|| {
            r#"{"Statistics":{"Processor":{"TotalRuntime100ns":50}},
                "Memory":{"VirtualMachineMemory":{"AssignedMemory":2}}}"#
                .to_owned()
        })
    });
    let (vm, _events) = create(&host, &lcow()).await;
    assert_eq!(vm.properties().await.expect("no question").state, "not started");
    vm.start().await.expect("started");
    let properties = vm.properties().await.expect("an answer");
    assert_eq!((properties.state.as_str(), properties.working_set_bytes), ("running", Some(8192)));
    assert_eq!(properties.processor_time, Some(Duration::from_micros(5)));
    assert!(properties.uptime.is_some());
}

#[tokio::test]
async fn d64_the_process_that_holds_the_memory_is_looked_for_until_it_is_found() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    vm.start().await.expect("started");
    assert!(vm.memory_process_working_set().await.is_err());
    host.set_working_set(VM, 4096);
    assert_eq!(vm.memory_process_working_set().await.expect("it is there by now"), 4096);
}

#[tokio::test]
async fn the_service_does_what_it_holds_the_guest_connection_for() {
    let host = RecordingHcs::new();
    let (vm, _events) = create(&host, &lcow()).await;
    host.take_calls();
    let json = |text: &str| RawJson::parse(text).expect("JSON");
    let pipe = Change::Add(Device::Pipe(MappedPipe { path: r"\\.\pipe\p".into(), port: None }));
    vm.change(pipe, Some(json(r#"{"a":1}"#))).await.expect("changed");
    vm.guest_request(json(r#"{"b":2}"#)).await.expect("sent");
    let calls = host.take_calls();
    let path = r"VirtualMachine/Devices/MappedPipes/\\\\.\\pipe\\p";
    let expected = format!(r#"{{"ResourcePath":"{path}","RequestType":"Add","GuestRequest":{{"a":1}}}}"#);
    assert_eq!(calls[0].text(), expected);
    assert_eq!(calls[1].text(), r#"{"GuestRequest":{"b":2}}"#);
}

#[tokio::test]
async fn a_host_is_picked_at_run_time() {
    let host = RecordingHcs::new();
    let platform: Box<dyn Platform> = Box::new(platform(&host).await);
    let (vm, _events) = platform.create(&lcow()).await.expect("created");
    vm.start().await.expect("started");
    let (sender, receiver) = tokio::sync::oneshot::channel();
    vm.spawn(Box::pin(async move {
        let _ = sender.send(1);
    }));
    assert_eq!(receiver.await, Ok(1));
    drop(vm);
    tokio::task::yield_now().await;
    assert_eq!(host.open_systems(), 0);
}

#[tokio::test]
async fn a_windows_guest_finds_the_bridge_under_an_id_of_its_own() {
    let host = RecordingHcs::new();
    crate::specs::add_layers(&host);
    let (vm, _events) = platform(&host).await.create_wcow(&wcow()).await.expect("created");
    let _listener = vm.listen(Port(BRIDGE_PORT)).expect("free");
    let last = host.calls().pop().expect("a call");
    let id = "8d3a2c51-7f60-4b1e-9c42-5e8f00000001:acef5661-84a1-4e44-856b-6245e69f4620";
    assert_eq!(last.summary(), format!("hvsock listen {id}"));
}
