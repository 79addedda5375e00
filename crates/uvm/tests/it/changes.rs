//! What is changed of a running VM, and what is told of it: CPU group, processor time, memory, figures.

use uvm::platform::fake::Fault;
use uvm::platform::requests::{Change, CpuGroup, MemorySize, Setting};
use uvm::{CpuLimits, ErrorKind, OptionsError, Refusal, UvmError};

use crate::support::{Played, TestResult, chain};

fn group(id: Option<&str>) -> Change {
    Change::Update(Setting::CpuGroup(CpuGroup { id: id.map(str::to_owned) }))
}

fn changes(played: &Played) -> Vec<Change> {
    played.host.changes().into_iter().map(|(change, _)| change).collect()
}

#[tokio::test(start_paused = true)]
async fn d27_d28_a_cpu_group_is_left_only_by_a_vm_that_is_in_one() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let vm = &played.vm;
    vm.release_cpu_group().await?;
    assert!(changes(&played).is_empty(), "it is in none");
    let error = vm.set_cpu_group("").await.expect_err("no id");
    assert!(matches!(error, UvmError::Options(OptionsError::NoCpuGroup)), "{error}");
    vm.set_cpu_group("g").await?;
    // The cause of a failure is there, and it is still in the group.
    played.host.plant("update cpu group", 0, Fault::Fail);
    let error = vm.release_cpu_group().await.expect_err("planted");
    assert!(chain(&error).ends_with("a planted fault"), "{}", chain(&error));
    vm.release_cpu_group().await?;
    vm.release_cpu_group().await?;
    assert_eq!(changes(&played), [group(Some("g")), group(None)]);
    // One that the options name counts from the start.
    let (played, _guest) = Played::boot_with(|o| o.cpu_group = Some("h".into())).await?;
    played.vm.release_cpu_group().await?;
    assert_eq!(changes(&played), [group(None)]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d80_a_cpu_group_is_called_as_its_owner_calls_it_everywhere() -> TestResult {
    let id = "8D3A2C51-7f60-4B1E-9C42-5E8F00000001";
    let (played, _guest) = Played::boot_with(|o| o.cpu_group = Some(id.into())).await?;
    assert_eq!(played.host.specs()[0].cpu_group.as_deref(), Some(id));
    played.vm.set_cpu_group(id).await?;
    assert_eq!(changes(&played), [group(Some(id))]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d66_memory_is_rounded_up_and_never_none() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    for bytes in [1, 2 << 20, (2 << 20) + 1, 512 << 20] {
        played.vm.update_memory(bytes).await?;
    }
    let sizes: Vec<Change> =
        [2, 2, 4, 512].map(|mib| Change::Update(Setting::Memory(MemorySize { mib }))).into_iter().collect();
    assert_eq!(changes(&played), sizes);
    let error = played.vm.update_memory(0).await.expect_err("none at all");
    assert!(matches!(error, UvmError::Options(OptionsError::BadMemory { mib: 0 })), "{error}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn limits_are_passed_on_and_refused_by_a_vm_that_is_over() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let limits = CpuLimits { limit: 50_000, weight: 200, reservation: 0, maximum_frequency_mhz: 0 };
    played.vm.update_cpu_limits(limits).await?;
    assert_eq!(changes(&played), [Change::Update(Setting::CpuLimits(limits))]);
    played.vm.terminate().await?;
    let error = played.vm.update_cpu_limits(limits).await.expect_err("it has ended");
    assert_eq!(error.kind(), ErrorKind::Exited);
    assert_eq!(changes(&played).len(), 1);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d65_d77_figures_may_be_zero_and_end_with_the_vm() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    assert_eq!(played.vm.assigned_memory_bytes().await?, 0);
    let figures = played.vm.stats().await?;
    // d63: what the host does not tell is absent.
    assert_eq!((figures.processor_runtime_ns, figures.memory), (Some(1), None));
    played.vm.close().await?;
    let calls = played.host.calls().len();
    for error in
        [played.vm.stats().await.expect_err("closed"), played.vm.assigned_memory_bytes().await.expect_err("closed")]
    {
        assert!(matches!(error, UvmError::Refused { why: Refusal::Closed, .. }), "{error}");
    }
    assert_eq!(played.host.calls().len(), calls, "the host is not asked");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn numbers_for_containers_and_mounts_are_given_once() -> TestResult {
    let played = Played::create().await?;
    assert_eq!([played.vm.container_counter(), played.vm.container_counter()], [1, 2]);
    assert_eq!([played.vm.mount_counter(), played.vm.mount_counter()], [1, 2]);
    assert!(!played.vm.is_oci());
    Ok(())
}
