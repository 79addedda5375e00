use uvm_wire::ports::vsock_service;
use uvm_wire::{Guid, Hresult};

use super::*;
use crate::host::{
    AccessGrants, ComputeSystems, Guids, HostFiles, HostNetwork, HostProcesses, HvSockets, NotificationKind,
    ServiceProperties,
};

const VM: Guid = RecordingHcs::RUNTIME_ID;

fn summaries(host: &RecordingHcs) -> Vec<String> {
    host.take_calls().iter().map(RecordedCall::summary).collect()
}

#[tokio::test]
async fn calls_are_kept_in_the_shape_of_the_recordings() {
    let host = RecordingHcs::new().with_logical_processors(4);
    let topology = host.service_properties(r#"{"PropertyTypes":["ProcessorTopology"]}"#).await.expect("an answer");
    assert_eq!(topology, r#"{"Properties":[{"LogicalProcessorCount":4}]}"#);
    host.grant_vm("vm", &WinPath::new(r"C:\d")).await.expect("granted");
    let calls = serde_json::to_string(&host.take_calls()).expect("JSON");
    assert_eq!(
        calls,
        r#"[{"to":"hcs","op":"get_service_properties","json":{"PropertyTypes":["ProcessorTopology"]},"answer":{"Properties":[{"LogicalProcessorCount":4}]}},{"to":"grant","op":"vm","id":"vm","json":"C:\\d"}]"#
    );
}

#[tokio::test]
async fn a_fault_fails_just_the_calls_it_fits() {
    let host = RecordingHcs::new();
    let denied = Hresult::from_bits(0x8007_0005);
    host.plant(Fault::on("hcs", "modify_system").containing("Scsi").after(1).times(2).code(denied).detail("no"));
    let system = host.create_system("vm", "{}").await.expect("no fault").system;
    let mut results = Vec::new();
    for path in ["Scsi", "Plan9", "Scsi", "Scsi", "Scsi"] {
        results.push(system.modify(&format!(r#"{{"ResourcePath":"{path}"}}"#)).await.is_ok());
    }
    assert_eq!(results, [true, true, false, false, true]);
    assert_eq!(host.calls()[3].failure.as_deref(), Some("0x80070005 no"));
    host.plant(Fault::on("hcs", "start_system").hang());
    let waits = tokio::time::timeout(Duration::from_millis(1), system.start()).await;
    assert!(waits.is_err());
}

#[tokio::test]
async fn systems_tell_their_end_and_are_closed_once() {
    let host = RecordingHcs::new();
    let mut open = host.create_system("vm", "{}").await.expect("created");
    let again = host.create_system("vm", "{}").await.err().expect("the id is taken");
    assert_eq!(again.code, HcsError::ALREADY_EXISTS);
    open.system.terminate().await.expect("terminated");
    let told = open.notifications.recv().await.expect("told");
    assert_eq!(told, Notification::new(NotificationKind::SystemExited, Hresult::OK));
    open.system.close().await.expect("closed");
    open.system.close().await.expect("closed already");
    drop(open);
    assert!(!host.notify("vm", told));
    let calls = summaries(&host);
    assert_eq!(
        calls,
        ["hcs create_system vm", "hcs create_system vm", "hcs terminate_system vm", "hcs close_system vm"]
    );
    drop(host.create_system("vm", "{}").await.expect("the id is free"));
    assert_eq!(summaries(&host), ["hcs create_system vm", "hcs close_system vm"]);
    host.plant(Fault::on("hcs", "create_system").later());
    assert!(host.create_system("vm", "{}").await.is_err());
    assert_eq!(summaries(&host), ["hcs create_system vm", "hcs close_system vm"]);
    assert_eq!(host.open_systems(), 0);
}

#[tokio::test]
async fn processes_have_the_streams_that_were_asked_for() {
    let host = RecordingHcs::new();
    let system = host.create_system("vm", "{}").await.expect("created").system;
    let process = system.create_process(r#"{"CommandLine":"x","CreateStdOutPipe":true}"#).await.expect("started");
    let stdio = process.take_stdio();
    assert_eq!((stdio.stdin.is_some(), stdio.stdout.is_some(), stdio.stderr.is_some()), (false, true, false));
    assert!(process.take_stdio().stdout.is_none());
    process.terminate().await.expect("terminated");
    assert_eq!(process.wait().await.expect("it ended").kind, NotificationKind::ProcessExited);
    let properties = process.properties().await.expect("an answer");
    assert_eq!(properties, r#"{"ProcessId":201,"Exited":true,"ExitCode":137,"LastWaitResult":0}"#);
    process.close().await.expect("closed");
    process.close().await.expect("closed already");
    assert_eq!(
        summaries(&host)[1..],
        [
            "hcs create_process vm",
            "hcs terminate_process 201",
            "hcs get_process_properties 201",
            "hcs close_process 201",
        ]
    );
}

#[tokio::test]
async fn sockets_meet_in_both_directions() {
    let host = RecordingHcs::new();
    let service = vsock_service(109);
    assert!(host.dial(VM, service).is_err());
    let listener = host.listen(VM, service).expect("free");
    assert_eq!(host.listen(VM, service).err().expect("taken").code.bits(), 0x8007_2740);
    let mut listener = uvm_platform::GuestListener::new(uvm_platform::Port(109), BoxedListener(listener));
    host.dial(VM, service).expect("listened on");
    listener.accept().await.expect("dialled");
    assert_eq!(host.listened_services(VM), [service]);
    drop(listener);
    assert!(host.dial(VM, service).is_err() && host.listened_services(VM).is_empty());
    host.listen(VM, service).expect("free again");
    assert!(host.connect(VM, service).await.is_err());
    let mut guest = host.listen_in_guest(VM, service);
    host.connect(VM, service).await.expect("listened on");
    assert!(guest.recv().await.is_some());
}

struct BoxedListener(Box<dyn uvm_platform::stream::PollAccept>);

impl uvm_platform::stream::PollAccept for BoxedListener {
    fn poll_accept(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<uvm_platform::GuestStream, uvm_platform::PlatformError>> {
        self.0.poll_accept(cx)
    }
}

#[tokio::test]
async fn files_follow_the_ways_of_windows() {
    let host = RecordingHcs::new();
    let path = WinPath::new;
    host.add_file(&path(r"C:\Base\System.vhdx"), 7);
    assert_eq!(host.stat(&path(r"c:\base\SYSTEM.vhdx")).await.expect("looked").expect("there").size, 7);
    assert_eq!(host.stat(&path(r"C:\none")).await.expect("looked"), None);
    assert!(host.create_directory(&path(r"C:\a\b")).await.is_err());
    host.create_directory(&path(r"C:\a")).await.expect("its parent is there");
    host.copy_new(&path(r"C:\base\system.vhdx"), &path(r"C:\a\new.vhdx")).await.expect("copied");
    assert!(host.copy_new(&path(r"C:\base\system.vhdx"), &path(r"C:\A\NEW.vhdx")).await.is_err());
    assert!(host.remove_directory(&path(r"C:\a")).await.is_err());
    host.remove_file(&path(r"C:\a\new.vhdx")).await.expect("removed");
    host.remove_directory(&path(r"C:\a")).await.expect("empty");
    assert!(host.has_file_ids(&path(r"C:\base")).await.expect("there"));
    host.take_file_ids_away();
    assert!(!host.has_file_ids(&path(r"C:\base")).await.expect("there"));
    assert!(host.has_file_ids(&path(r"C:\a")).await.is_err());
}

#[tokio::test]
async fn a_script_answers_first() {
    let host =
        RecordingHcs::new().with_answers(|call| (call.op == "enumerate_namespaces").then(|| r#"["a"]"#.to_owned()));
    assert_eq!(host.namespaces("{}").await.expect("an answer"), ["a"]);
    assert_eq!(host.namespace(Guid::ZERO, "{}").await.expect("its own answer"), "{}");
    host.request("DELETE", "/namespaces/a", "").await.expect("done");
    assert_eq!(
        summaries(&host),
        [
            "hcn enumerate_namespaces",
            "hcn open_namespace 00000000-0000-0000-0000-000000000000",
            "hcn query_namespace 00000000-0000-0000-0000-000000000000",
            "hns DELETE /namespaces/a",
        ]
    );
    assert_eq!(host.new_guid().expect("a GUID").to_string(), "00000000-0000-4000-8000-000000000001");
    assert!(host.memory_process(VM).await.err().expect("none").is_not_found());
    host.set_working_set(VM, 4096);
    let process = host.memory_process(VM).await.expect("one");
    assert_eq!(process.working_set().await.expect("it is there"), 4096);
}
