//! How VMs come to be: in which order, in which CPU group, and what is left when they do not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, from_str, json};
use uvm_hcs::recording::{Fault, RecordingHcs};
use uvm_hcs::{HcsPlatform, WindowsBuild};
use uvm_platform::requests::{Change, CpuGroup, Setting};
use uvm_platform::{ExitStatus, Feature, Platform, PlatformError, PlatformVm, VmEvent};
use uvm_wire::Hresult;

use crate::platform::{create, platform, summaries};
use crate::specs::lcow;

const DENIED: Hresult = Hresult::from_bits(0x8007_0005);

#[tokio::test(start_paused = true)]
async fn d24_a_creation_that_fails_late_is_undone_whatever_the_reason() {
    for (fault, message) in [
        (Fault::on("hcs", "get_properties").code(DENIED), "cannot learn the runtime id of the compute system"),
        (
            Fault::on("hcs", "get_properties").hang(),
            "the compute service, to learn the runtime id of the compute system",
        ),
    ] {
        let host = RecordingHcs::new();
        let platform = platform(&host).await;
        host.plant(fault);
        let error = platform.create_lcow(&lcow()).await.err().expect("no runtime id");
        assert!(error.to_string().starts_with(message), "{error}");
        // Closing ends it.
        assert_eq!(summaries(&host)[3..], ["hcs close_system vm-under-test"]);
        assert_eq!(host.open_systems(), 0);
    }
    // Unless what was merged into its document says that it does not.
    let host = RecordingHcs::new();
    let mut spec = lcow();
    spec.additional_document = Some(r#"{"ShouldTerminateOnLastHandleClosed":false}"#.into());
    let platform_of_it = platform(&host).await;
    host.plant(Fault::on("hcs", "get_properties").code(DENIED));
    assert!(platform_of_it.create_lcow(&spec).await.is_err());
    assert_eq!(summaries(&host)[3..], ["hcs terminate_system vm-under-test", "hcs close_system vm-under-test"]);
    let host = RecordingHcs::new().with_answers(|call| (call.op == "get_properties").then(|| "{}".to_owned()));
    let error = platform(&host).await.create_lcow(&lcow()).await.err().expect("no runtime id");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(cause, "the compute service did not tell the runtime id");
}

#[tokio::test(start_paused = true)]
async fn a_creation_that_nobody_waits_for_is_undone() {
    for op in ["get_service_properties", "create_system", "get_properties"] {
        let host = RecordingHcs::new();
        let platform = platform(&host).await;
        host.plant(Fault::on("hcs", op).hang());
        let given_up = tokio::time::timeout(Duration::from_secs(1), platform.create_lcow(&lcow())).await;
        assert!(given_up.is_err(), "{op}");
        // The recording's clock goes on until the deadline of what hangs.
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(host.open_systems(), 0, "{op}");
        platform.create_lcow(&lcow()).await.expect("the id is free");
    }
}

#[tokio::test]
async fn a_taken_id_is_told_as_such() {
    let host = RecordingHcs::new();
    let platform = platform(&host).await;
    let _vm = platform.create_lcow(&lcow()).await.expect("created");
    let error = platform.create_lcow(&lcow()).await.err().expect("taken");
    assert!(matches!(error, PlatformError::AlreadyExists { .. }), "{error}");
}

#[tokio::test]
async fn d29_a_vm_is_created_in_its_cpu_group_or_joins_it_right_after_start() {
    let mut spec = lcow();
    spec.cpu_group = Some("g".into());
    let path = "VirtualMachine/ComputeTopology/Processor/CpuGroup";
    let none = "00000000-0000-0000-0000-000000000000";
    let changes = |host: &RecordingHcs| -> Vec<Value> {
        let calls = host.take_calls().into_iter().filter(|call| call.op == "modify_system");
        calls.map(|call| from_str(call.text()).expect("JSON")).collect()
    };
    let leave = json!({"ResourcePath": path, "Settings": {"Id": none}});

    let host = RecordingHcs::new().with_build(WindowsBuild(19043));
    let (vm, _events) = create(&host, &spec).await;
    let document: Value = from_str(host.calls()[1].text()).expect("JSON");
    assert_eq!(document["VirtualMachine"]["ComputeTopology"]["Processor"]["CpuGroup"], json!({"Id": "g"}));
    vm.start().await.expect("started");
    vm.close().await.expect("closed");
    assert_eq!(changes(&host), std::slice::from_ref(&leave));

    let host = RecordingHcs::new().with_build(WindowsBuild(19042));
    let (vm, _events) = create(&host, &spec).await;
    vm.start().await.expect("started");
    vm.close().await.expect("closed");
    assert_eq!(changes(&host), [json!({"ResourcePath": path, "Settings": {"Id": "g"}}), leave]);

    // It must not run outside of its group.
    let (vm, mut events) = create(&host, &spec).await;
    host.plant(Fault::on("hcs", "modify_system").containing("CpuGroup").code(DENIED));
    assert_eq!(vm.start().await.expect_err("denied").to_string(), "cannot change it");
    assert_eq!(events.next().await, Some(VmEvent::Exited(ExitStatus::Terminated)));
}

#[tokio::test]
async fn d27_only_a_vm_in_a_cpu_group_leaves_it() {
    let host = RecordingHcs::new();
    let mut spec = lcow();
    spec.cpu_group = Some("g".into());
    let (vm, _events) = create(&host, &spec).await;
    vm.close().await.expect("it never started");
    let (vm, _events) = create(&host, &spec).await;
    vm.start().await.expect("started");
    let group = |id: Option<&str>| Change::Update(Setting::CpuGroup(CpuGroup { id: id.map(str::to_owned) }));
    vm.change(group(None), None).await.expect("released");
    host.take_calls();
    vm.close().await.expect("closed");
    assert!(host.take_calls().iter().all(|call| call.op != "modify_system"));

    let (vm, _events) = create(&host, &lcow()).await;
    vm.start().await.expect("started");
    vm.change(group(Some("h")), None).await.expect("joined");
    host.take_calls();
    // What cannot be left is left by the end.
    host.plant(Fault::on("hcs", "modify_system").code(DENIED));
    vm.close().await.expect("closed");
    assert_eq!(host.take_calls().iter().filter(|call| call.op == "modify_system").count(), 1);
}

#[tokio::test]
async fn a_host_says_what_its_build_lacks() {
    let old = platform(&RecordingHcs::new().with_build(WindowsBuild(17763))).await;
    let error = old.capabilities().require(Feature::DirectKernelBoot).expect_err("too old").to_string();
    assert_eq!(error, "direct boot of a kernel: not supported on hcs: it needs build 18286, this is 17763");
    let created = old.create_lcow(&lcow()).await.err().expect("too old").to_string();
    assert_eq!(created, error);
    let new = platform(&RecordingHcs::new().with_build(WindowsBuild(20348)).with_logical_processors(3)).await;
    let missing: Vec<_> = new.capabilities().missing.keys().copied().collect();
    assert_eq!(missing, [Feature::DiskSettings, Feature::DiskResize, Feature::VirtioFsShares], "no build has them");
    assert_eq!(new.host_processors(), 3);
    let host = RecordingHcs::new();
    host.plant(Fault::on("hcs", "get_service_properties").code(DENIED));
    let error = HcsPlatform::connect(Arc::new(host)).await.err().expect("denied").to_string();
    assert_eq!(error, "cannot get host processor information");
}

#[tokio::test]
async fn d3_processors_are_those_the_host_has_when_the_vm_is_created() {
    let host = RecordingHcs::new().with_logical_processors(3);
    let mut spec = lcow();
    spec.processors.count = 64;
    let _vm = create(&host, &spec).await;
    let document: Value = from_str(host.calls()[1].text()).expect("JSON");
    assert_eq!(document["VirtualMachine"]["ComputeTopology"]["Processor"]["Count"], 3);
    let line = &document["VirtualMachine"]["Chipset"]["LinuxKernelDirect"]["KernelCmdLine"];
    assert!(line.as_str().expect("text").contains(" nr_cpus=3 "), "{line}");
}
