//! Boot, look, end.

use std::time::Duration;

use uvm::platform::Accelerator;
use uvm::{ExitStatus, ProcessExit, ProcessSpec, Refusal, UvmError};
use uvm_testkit::{TestResult, TestVm};

use crate::process::text;

#[tokio::test]
async fn a_vm_boots_runs_a_command_and_leaves_nothing() -> TestResult {
    let vm = TestVm::builder("hello").boot().await?;
    let output = vm.create_process(&ProcessSpec::new(["uname", "-s"])).await?.output().await?;
    assert_eq!((text(&output.stdout), output.exit.is_success()), ("Linux\n", true));
    assert_eq!(vm.exit_status(), None);
    vm.close().await
}

#[tokio::test]
async fn when_start_returns_all_processors_are_online() -> TestResult {
    let vm = TestVm::builder("cpus").with(|options| *options = options.clone().with_processors(2)).boot().await?;
    let output = vm.create_process(&ProcessSpec::new(["nproc"])).await?.output().await?;
    assert_eq!(text(&output.stdout).trim(), vm.processor_count().to_string());
    vm.close().await
}

#[tokio::test]
async fn shutdown_is_told_as_a_power_off() -> TestResult {
    let vm = TestVm::builder("shutdown").boot().await?;
    let sleeper = vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?;
    let (down, ended, exit) = tokio::join!(vm.shutdown(), vm.wait(), sleeper.wait());
    down?;
    assert_eq!(ended?, ExitStatus::PoweredOff);
    assert_eq!(exit?, ProcessExit::Signal(Some(15)), "it was asked to end, and that was told before the end");
    vm.exit_error()?;
    drop(sleeper);
    vm.close().await
}

#[tokio::test]
async fn a_paused_vm_does_nothing_until_it_is_resumed() -> TestResult {
    let vm = TestVm::builder("pause").boot().await?;
    vm.pause().await?;
    vm.pause().await?;
    assert_eq!(vm.properties().await?.state, "paused");
    let process = tokio::spawn({
        let vm = (*vm).clone();
        async move { vm.create_process(&ProcessSpec::new(["true"])).await?.wait().await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!process.is_finished(), "it ran while the VM was paused");
    vm.resume().await?;
    assert!(process.await??.is_success());
    vm.close().await
}

#[tokio::test]
async fn properties_come_from_the_host_alone() -> TestResult {
    let vm = TestVm::builder("properties").boot().await?;
    let properties = vm.properties().await?;
    assert_eq!(properties.state, "running");
    assert!(properties.host_pid.is_some() && properties.uptime.is_some_and(|up| up > Duration::ZERO));
    assert!(properties.working_set_bytes.is_some_and(|bytes| bytes > 10 << 20), "{properties:?}");
    assert!(matches!(vm.accelerator(), Accelerator::Tcg | Accelerator::Kvm));
    vm.close().await
}

#[tokio::test]
async fn stacks_name_every_process() -> TestResult {
    let vm = TestVm::builder("stacks").boot().await?;
    let sleeper = vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?;
    let stacks = vm.dump_stacks().await?;
    assert!(stacks.contains("agent thread 1 ") && stacks.contains("sleep 1000"), "{stacks}");
    sleeper.kill().await?;
    drop(sleeper);
    vm.close().await
}

#[tokio::test]
async fn what_does_not_fit_the_state_is_refused() -> TestResult {
    let vm = TestVm::builder("states").create().await?;
    let spec = ProcessSpec::new(["true"]);
    let refused = |result: Result<_, UvmError>| match result.err() {
        Some(UvmError::Refused { why, .. }) => Some(why),
        _ => None,
    };
    assert_eq!(refused(vm.create_process(&spec).await.map(drop)), Some(Refusal::NotStarted));
    assert_eq!(refused(vm.pause().await), Some(Refusal::NotStarted));
    vm.start().await?;
    assert_eq!(refused(vm.start().await), Some(Refusal::AlreadyStarted));
    vm.terminate().await?;
    vm.terminate().await?;
    assert_eq!(vm.wait().await?, ExitStatus::Terminated);
    assert!(matches!(vm.create_process(&spec).await, Err(UvmError::Exited { .. })));
    (*vm).close().await?;
    (*vm).close().await?;
    assert_eq!(refused(vm.create_process(&spec).await.map(drop)), Some(Refusal::Closed));
    assert_eq!(refused(vm.properties().await.map(drop)), Some(Refusal::Closed));
    vm.ended()
}

#[tokio::test]
async fn d7_a_vm_that_was_never_started_closes_at_once() -> TestResult {
    let vm = TestVm::builder("unstarted").create().await?;
    vm.close().await
}

#[tokio::test]
async fn two_vms_of_one_id_are_refused_by_name() -> TestResult {
    let vm = TestVm::builder("twice").create().await?;
    let (id, root) = (vm.id().clone(), vm.state_root().to_owned());
    let mut host = uvm::qemu::QemuOptions::default();
    host.state_root = Some(root);
    let host = std::sync::Arc::new(uvm::qemu::QemuHost::new(&host)?);
    let options = uvm::LcowOptions::default().with_id(id.clone()).with_boot_files(uvm_testkit::vm::boot_files()?);
    let error = uvm::UtilityVm::create_lcow_on(host, &options).await.expect_err("the id is taken");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains(id.as_str()) && cause.contains(&std::process::id().to_string()), "{cause}");
    assert_eq!(error.kind(), uvm::ErrorKind::AlreadyExists);
    vm.close().await
}

/// The runtime that created a VM does not matter to it.
#[test]
fn a_vm_outlives_the_runtime_that_created_it() -> TestResult {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let vm = runtime()?.block_on(TestVm::builder("runtime").boot())?;
    // As long as idle threads of a runtime's pool live, and more.
    std::thread::sleep(Duration::from_secs(30));
    runtime()?.block_on(async {
        let output = vm.create_process(&ProcessSpec::new(["echo", "alive"])).await?.output().await?;
        assert_eq!(text(&output.stdout), "alive\n");
        vm.close().await
    })
}
