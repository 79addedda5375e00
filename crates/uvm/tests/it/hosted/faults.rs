//! What fails, is given up, or ends with its VM.

use std::time::Duration;

use uvm::wire::Hresult;
use uvm::{ContainerStdio, ErrorKind, ProcessSpec, ProgramError, UtilityVm, UvmError};
use uvm_hcs::recording::{Fault, RecordingHcs};

use super::{boot, plain_host};
use crate::support::{TestResult, chain, container, create_container};

/// Longer than whatever is undone takes.
const LONG: Duration = Duration::from_secs(300);

/// Only the VM is left.
async fn nothing_is_left(host: &RecordingHcs, of: &str) {
    tokio::time::sleep(LONG).await;
    assert_eq!((host.open_systems(), host.open_processes()), (1, 0), "{of}");
}

async fn run(vm: &UtilityVm) -> Result<uvm::Process, UvmError> {
    vm.create_process(&ProcessSpec::new(["sh"]).with_stdin()).await
}

#[tokio::test(start_paused = true)]
async fn failures_of_the_hosts_service_have_the_kinds_of_the_guests() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    for (bits, kind) in [
        (0x8007_0002, ErrorKind::NotFound),
        (0x8007_0005, ErrorKind::PermissionDenied),
        (0x8037_0105, ErrorKind::WrongState),
        (0x8000_4001, ErrorKind::Unsupported),
        (0x8000_4005, ErrorKind::Guest),
    ] {
        host.plant(Fault::on("hcs", "create_process").code(Hresult::from_bits(bits)));
        let error = run(&vm).await.expect_err("planted");
        assert_eq!(error.kind(), kind, "{}", chain(&error));
        assert!(matches!(&error, UvmError::Program { source, .. } if matches!(**source, ProgramError::Host(_))));
        host.plant(Fault::on("hcs", "create_system").code(Hresult::from_bits(bits)));
        let error = create_container(&vm, container("web")).await.expect_err("planted");
        assert_eq!(error.kind(), kind, "{}", chain(&error));
    }
    host.plant(Fault::on("hcs", "create_process").hang());
    let error = run(&vm).await.expect_err("planted");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(chain(&error).contains("no answer within 30s; compute system vm is running"), "{}", chain(&error));
    nothing_is_left(&host, "what failed").await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_container_that_fails_at_any_call_leaves_nothing() -> TestResult {
    for op in ["create_system", "get_properties", "start_system"] {
        for hangs in [false, true] {
            let host = plain_host();
            let vm = boot(&host).await?;
            let fault = Fault::on("hcs", op).containing("web");
            host.plant(if hangs { fault.hang() } else { fault });
            let error = create_container(&vm, container("web")).await.expect_err("planted");
            assert_eq!(error.kind(), if hangs { ErrorKind::Timeout } else { ErrorKind::Guest }, "{op}");
            nothing_is_left(&host, op).await;
            create_container(&vm, container("web")).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_gives_up_is_undone_at_whatever_moment() -> TestResult {
    let (mut made, mut given_up) = (0, 0);
    for moment in 0..10 {
        let host = plain_host().with_calls_that_take(Duration::from_millis(2));
        let vm = boot(&host).await?;
        let moment = Duration::from_millis(moment);
        match tokio::time::timeout(moment, create_container(&vm, container("web"))).await {
            Ok(web) => {
                made += 1;
                web?.terminate().await?;
            }
            Err(_) => given_up += 1,
        }
        match tokio::time::timeout(moment, run(&vm)).await {
            Ok(process) => drop(process?),
            Err(_) => given_up += 1,
        }
        nothing_is_left(&host, &format!("what was given up after {moment:?}")).await;
    }
    assert!(made > 0 && given_up > 5, "{made}, {given_up}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn nothing_begins_before_somebody_waits_and_a_task_of_its_own_can() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    drop((Box::pin(create_container(&vm, container("web"))), Box::pin(run(&vm))));
    tokio::time::sleep(LONG).await;
    assert_eq!(host.take_calls(), []);
    let task = tokio::spawn(async move {
        let web = create_container(&vm, container("web")).await?;
        let process = web.exec("{}", ContainerStdio::default()).await?;
        process.kill().await?;
        process.wait().await?;
        web.processes().await?;
        web.terminate().await?;
        web.wait().await;
        vm.close().await
    });
    task.await??;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_vm_is_the_error_of_whatever_it_cuts_off() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let web = create_container(&vm, container("web")).await?;
    let process = run(&vm).await?;
    for op in ["create_process", "signal_process", "pause_system"] {
        host.plant(Fault::on("hcs", op).hang());
    }
    let (waited, started, signalled, paused, terminated) =
        tokio::join!(process.wait(), run(&vm), process.signal(15), web.pause(), vm.terminate());
    terminated?;
    let errors = [
        waited.map(drop).expect_err("it has ended"),
        started.map(drop).expect_err("it has ended"),
        signalled.map(drop).expect_err("it has ended"),
        paused.expect_err("it has ended"),
        web.start(ContainerStdio::default()).await.map(drop).expect_err("it has ended"),
        create_container(&vm, container("other")).await.map(drop).expect_err("it has ended"),
    ];
    for error in errors {
        assert!(matches!(error, UvmError::Exited { .. }), "{}", chain(&error));
    }
    vm.close().await?;
    assert_eq!((host.open_systems(), host.open_processes()), (0, 0));
    for error in [process.kill().await.map(drop), web.terminate().await, process.wait().await.map(drop)] {
        assert!(matches!(error, Err(UvmError::Exited { .. })), "{error:?}");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_vm_whose_handles_are_dropped_lets_go_of_everything() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let (web, process) = (create_container(&vm, container("web")).await?, run(&vm).await?);
    drop(vm);
    tokio::time::sleep(LONG).await;
    assert_eq!((host.open_systems(), host.open_processes()), (2, 1), "these are handles of the VM, too");
    drop((web, process));
    tokio::time::sleep(LONG).await;
    assert_eq!((host.open_systems(), host.open_processes()), (0, 0));
    Ok(())
}
