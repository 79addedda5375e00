//! The compute core library's use, against a stand-in for it that keeps books.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, from_str};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_hcs::host::{AccessGrants, ComputeSystems, FileKind, Guids, HostFiles, NotificationKind, ServiceProperties};
use uvm_hcs::{ComputeCore, HcsPlatform, HcsVm, WinPath, WindowsBuild};
use uvm_platform::{
    ContainerCommand, ContainerExit, ExitStatus, GuestFault, HostedGuest, NewContainer, Platform, PlatformError,
    PlatformVm, VmEvent, VmEvents,
};
use uvm_wire::{Hresult, RawJson};

use crate::specs::lcow;

/// One test: the books are those of the whole process.
#[tokio::test]
async fn the_library_is_used_as_it_bears_and_everything_is_given_back() {
    let core = Arc::new(stand_in());
    a_vm_lives(&core).await;
    failures_say_why(&core).await;
    the_service_is_lost(&core).await;
    a_process_runs(&core).await;
    the_guest_is_reached_by_the_service(&core).await;
    what_nobody_waits_for_is_closed(&core).await;
    // The last operations are closed by threads that nobody waits for.
    let books = eventually_empty(&core).await;
    assert_eq!(books["Violations"], Value::Array(Vec::new()));
    assert_eq!((&books["Systems"], &books["Processes"]), (&0.into(), &0.into()));
    // The text with these books themselves.
    assert_eq!(books["Unfreed"], 0);
}

/// Beside the test's program, where cargo puts it.
fn stand_in() -> ComputeCore {
    let program = std::env::current_exe().expect("a program");
    let core = ComputeCore::from_directory(program.parent().expect("a directory")).expect("the stand-in");
    // This Windows may be of any build, also one that the program is not for.
    core.with_build(WindowsBuild(19041))
}

async fn books(core: &ComputeCore) -> Value {
    let report = core.service_properties(r#"{"PropertyTypes":["StandIn"]}"#).await.expect("a report");
    from_str(&report).expect("JSON")
}

async fn eventually_empty(core: &ComputeCore) -> Value {
    for _ in 0..3000 {
        let books = books(core).await;
        if ["Operations", "Systems", "Processes"].iter().all(|open| books[*open] == 0) {
            return books;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("something stays open: {}", books(core).await);
}

async fn create(core: &Arc<ComputeCore>) -> (Arc<HcsVm>, VmEvents) {
    let platform = HcsPlatform::connect(Arc::clone(core) as Arc<_>).await.expect("it answers");
    assert_eq!(platform.host_processors(), 5);
    platform.create_lcow(&lcow()).await.expect("created")
}

fn json(text: &str) -> RawJson {
    RawJson::parse(text).expect("JSON")
}

async fn a_vm_lives(core: &Arc<ComputeCore>) {
    let (vm, mut events) = create(core).await;
    assert_eq!(vm.runtime_id().to_string(), "8d3a2c51-7f60-4b1e-9c42-5e8f00000002");
    vm.start().await.expect("started");
    vm.pause().await.expect("paused");
    vm.resume().await.expect("resumed");
    assert_eq!(vm.properties().await.expect("an answer").state, "running");
    vm.close().await.expect("closed");
    assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Terminated)));
    assert_ne!(core.new_guid().expect("a GUID"), core.new_guid().expect("another"));

    let (vm, mut events) = create(core).await;
    vm.start().await.expect("started");
    vm.guest_request(json(r#"{"Exit":true}"#)).await.expect("taken");
    let unexpected = "it exited unexpectedly (0xc0370106)".to_owned();
    assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Abnormal(unexpected))));
    vm.close().await.expect("closed");
}

async fn failures_say_why(core: &Arc<ComputeCore>) {
    let (vm, _events) = create(core).await;
    let error = vm.guest_request(json(r#"{"Fail":true}"#)).await.expect_err("planted");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(cause, "cannot change compute system vm-under-test: 0x80070057; planted");
    drop(vm);
    eventually_empty(core).await;
    let refused = core.create_system("refused", r#"{"Refuse":true}"#).await.err().expect("refused");
    assert_eq!(refused.to_string(), "cannot create compute system refused: 0x80070057; the document was refused");
    // By then it has let go of its id.
    assert_eq!(books(core).await["Systems"], 0);
    // What is refused at once is no operation.
    let refused = core.create_system("no-json", "{").await.err().expect("refused");
    assert_eq!(refused.code, Hresult::from_bits(0x8007_0057));
    let open = core.create_system("twice", "{}").await.expect("created");
    open.system.start().await.expect("started");
    let error = open.system.start().await.expect_err("it runs").to_string();
    assert_eq!(
        error,
        "cannot start compute system twice: 0xc0370105 (its state does not allow it); the system is Running"
    );
    open.system.close().await.expect("closed");
    let error = open.system.start().await.expect_err("closed").to_string();
    assert_eq!(error, "cannot start compute system twice: 0x80070006; it was closed");
    core.modify_service("{}").await.expect_err("refused");
    core.grant_vm("vm", &WinPath::new(r"C:\allowed")).await.expect("granted");
    let denied = core.grant_vm("vm", &WinPath::new(r"C:\denied")).await.expect_err("denied").to_string();
    assert_eq!(denied, r"cannot let a VM open C:\denied: 0x80070005");
    let nothing = core.stat(&WinPath::new(r"C:\no such\file")).await;
    assert!(matches!(nothing, Ok(None)), "{nothing:?}");
    let windows = core.stat(&WinPath::new(r"C:\windows")).await.expect("looked").expect("it is there");
    assert_eq!(windows.kind, FileKind::Directory);
}

async fn the_service_is_lost(core: &Arc<ComputeCore>) {
    let (vm, mut events) = create(core).await;
    vm.guest_request(json(r#"{"Disconnect":true}"#)).await.expect("taken");
    assert!(matches!(events.next().await, Some(VmEvent::Broken { .. })));
    assert!(matches!(events.next().await, Some(VmEvent::Exited(ExitStatus::Abnormal(_)))));
    vm.close().await.expect("closed");
}

async fn a_process_runs(core: &Arc<ComputeCore>) {
    let open = core.create_system("with-process", "{}").await.expect("created");
    let process = open.system.create_process(r#"{"CommandLine":"x","CreateStdOutPipe":true}"#).await.expect("started");
    assert_eq!(process.id(), 77);
    let stdio = process.take_stdio();
    assert!(stdio.stdin.is_none() && stdio.stderr.is_none());
    let mut output = [0; 5];
    stdio.stdout.expect("asked for").read_exact(&mut output).await.expect("written");
    assert_eq!(&output, b"hello");
    process.signal("{}").await.expect("signalled");
    process.modify("{}").await.expect_err("there is no such change");
    let status = from_str::<Value>(&process.properties().await.expect("an answer")).expect("JSON");
    assert_eq!((&status["ProcessId"], &status["Exited"]), (&77.into(), &false.into()));
    process.terminate().await.expect("terminated");
    let exit = process.wait().await.expect("it ended");
    assert_eq!(exit.kind, NotificationKind::ProcessExited);
    assert_eq!(process.wait().await.expect("it is known"), exit);
    process.close().await.expect("closed");
    process.signal("{}").await.expect_err("closed");
}

async fn the_guest_is_reached_by_the_service(core: &Arc<ComputeCore>) {
    let (vm, _events) = create(core).await;
    let c1 = NewContainer { id: "c1", settings: "{}", start: true };
    let error = vm.create_container(c1).await.err().expect("its VM does not run");
    assert!(matches!(error, PlatformError::InGuest { fault: GuestFault::Other, .. }), "{error:?}");
    vm.start().await.expect("started");
    let container = vm.create_container(c1).await.expect("created");
    let error = vm.create_container(c1).await.err().expect("the id is taken");
    assert!(matches!(error, PlatformError::InGuest { fault: GuestFault::AlreadyExists, .. }), "{error:?}");
    let parameters = r#"{"CreateStdInPipe":true,"CreateStdOutPipe":true}"#;
    let process = container.create_process(parameters).await.expect("started");
    let mut streams = process.take_stdio();
    assert!(streams.stderr.is_none());
    let mut output = [0; 5];
    let mut reading = streams.stdout.take().expect("asked for");
    reading.read_exact(&mut output).await.expect("written");
    assert_eq!(&output, b"hello");
    let mut writing = streams.stdin.take().expect("asked for");
    // More than the pipe holds: its end does not overtake it, which the stand-in would write down.
    writing.write_all(&vec![0; 1_000_000]).await.expect("written");
    writing.shutdown().await.expect("ended");
    process.resize(40, 120).await.expect("resized");
    assert!(process.signal("{}").await.expect("signalled"));
    assert!(process.kill().await.expect("killed"));
    assert_eq!(process.wait().await.expect("it ended"), 137);
    assert_eq!(reading.read(&mut output).await.expect("its end"), 0);
    assert!(!process.kill().await.expect("it has ended"));
    process.resize(40, 120).await.expect("it has ended");
    let of_vm = vm.create_process("{}").await.expect("started");
    container.command(ContainerCommand::Terminate).await.expect("told");
    assert_eq!(container.ended().await, ContainerExit::Exited(ExitStatus::Terminated));
    container.command(ContainerCommand::Terminate).await.expect("it has ended");
    for _ in 0..20 {
        // At most a moment: it is given up before or after its end.
        let moment = Duration::from_micros(1);
        let given_up = NewContainer { id: "given-up", ..c1 };
        let _ = tokio::time::timeout(moment, vm.create_container(given_up)).await;
        let _ = tokio::time::timeout(moment, vm.create_process(parameters)).await;
    }
    vm.close().await.expect("closed");
    assert!(of_vm.wait().await.is_err(), "it went with its VM");
}

async fn what_nobody_waits_for_is_closed(core: &Arc<ComputeCore>) {
    for _ in 0..20 {
        let creating = core.create_system("given-up", "{}");
        // At most a moment: it is given up before or after its end.
        let _ = tokio::time::timeout(Duration::from_micros(1), creating).await;
    }
}
