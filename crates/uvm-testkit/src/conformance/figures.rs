//! What the host and the guest tell of a VM, and what of it can be changed.

use uvm::{CpuLimits, ErrorKind, ProcessExit};
use uvm_platform::Feature;

use super::Subject;
use super::subject::failure;
use crate::TestResult;

pub(super) async fn the_host_tells_figures(vm: &Subject) -> TestResult {
    assert_eq!(vm.properties().await?.state, "running");
    assert!(vm.stats().await?.processor_runtime_ns.is_some());
    // It may be nothing yet.
    vm.assigned_memory_bytes().await?;
    assert!(vm.last_words().phase.is_some());
    Ok(())
}

pub(super) async fn the_guest_tells_its_stacks(vm: &Subject) -> TestResult {
    assert!(!vm.dump_stacks().await?.is_empty());
    Ok(())
}

pub(super) async fn a_vm_is_paused_and_goes_on(vm: &Subject) -> TestResult {
    if vm.if_it_can(Feature::PauseResume, vm.pause().await)?.is_none() {
        return Ok(());
    }
    vm.pause().await?;
    assert_eq!(vm.properties().await?.state, "paused");
    vm.resume().await?;
    vm.resume().await?;
    assert_eq!(vm.properties().await?.state, "running");
    assert_eq!(vm.output(&["true"]).await?.exit, ProcessExit::Code(0));
    Ok(())
}

pub(super) async fn memory_and_processors_can_be_changed(vm: &Subject) -> TestResult {
    let error = failure("no memory", vm.update_memory(0).await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    vm.if_it_can(Feature::MemoryResize, vm.update_memory(512 << 20).await)?;
    let limits = CpuLimits { limit: 50_000, ..CpuLimits::default() };
    vm.if_it_can(Feature::ProcessorLimitChange, vm.update_cpu_limits(limits).await)?;
    Ok(())
}

pub(super) async fn a_cpu_group_is_joined_and_left(vm: &Subject) -> TestResult {
    let error = failure("no group", vm.set_cpu_group("").await)?;
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
    // It is in none.
    vm.release_cpu_group().await?;
    let joined = vm.set_cpu_group("c0000000-0000-4000-8000-000000000001").await;
    if vm.if_it_can(Feature::CpuGroups, joined)?.is_some() {
        vm.release_cpu_group().await?;
    }
    Ok(())
}
