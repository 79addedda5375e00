//! Containers: the same meaning as over the bridge.

use serde_json::{Value, from_str, json};
use uvm::wire::RawJson;
use uvm::wire::create::ContainerConfig;
use uvm::wire::execute::ProcessParameters;
use uvm::wire::modify::Modification;
use uvm::wire::notification::ExitType;
use uvm::wire::process::WindowsSignal;
use uvm::wire::properties::{PropertyQuery, PropertyType};
use uvm::{ContainerEnd, ContainerStdio, ErrorKind, ProcessExit, UvmError};
use uvm_hcs::host::{Notification, NotificationKind};
use uvm_hcs::recording::RecordedCall;

use super::{INCAPABLE, boot, boot_windows, host, plain_host, summaries};
use crate::support::{Played, TestResult, chain, container, create_container, settle};

const STDOUT: ContainerStdio = ContainerStdio { stdin: false, stdout: true, stderr: false };

/// What the service tells of a container's processes.
fn process_list(asked: &RecordedCall) -> Option<String> {
    let answer = r#"{"Id":"web","ProcessList":[{"ProcessId":201},{"ProcessId":202,"ImageName":"sh"}]}"#;
    asked.text().contains("ProcessList").then(|| answer.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_from_its_creation_to_its_end_by_the_hosts_service() -> TestResult {
    let host = host(super::CAPABLE, process_list);
    let vm = boot(&host).await?;
    let web = create_container(&vm, container("web")).await?;
    assert_eq!(web.id(), "web");
    let init = web.start(STDOUT).await?;
    let shell = web.exec(r#"{"args":["sh"],"terminal":true}"#, STDOUT).await?;
    assert_eq!((init.id(), shell.id()), (201, 202));
    assert_eq!(web.processes().await?.ids, [201, 202]);
    assert_eq!(web.statistics().await?, None);
    let query = PropertyQuery { property_types: vec![PropertyType::ProcessList] };
    assert_eq!(from_str::<Value>(web.property_document(query).await?.get())?["ProcessList"][1]["ImageName"], "sh");
    assert!(shell.signal(15).await?);
    web.pause().await?;
    web.resume().await?;
    web.modify(Modification::raw(RawJson::parse(r#"{"ResourceType":"Oracle"}"#)?)).await?;
    assert!(host.exit_process(201, 3));
    let output = init.output().await?;
    assert_eq!((output.exit, output.stdout.as_slice()), (ProcessExit::Code(3), &b"hello"[..]));
    web.shutdown().await?;
    assert_eq!(web.wait().await, ContainerEnd::Notified(ExitType::GracefulExit));
    let sent: Vec<Value> = host.calls().iter().map(|call| from_str(call.text()).unwrap_or_default()).collect();
    assert_eq!(sent[0]["HostingSystemId"], "vm");
    let settings = json!({
        "SchemaVersion": {"Major": 2, "Minor": 1},
        "OciBundlePath": "/run/gcs/c/web",
        "OciSpecification": {"process": {}, "root": {}, "linux": {}},
    });
    assert_eq!(sent[0]["HostedSystem"], settings);
    assert_eq!(sent[3], json!({"CreateStdOutPipe": true}));
    assert_eq!(sent[4], json!({"CreateStdOutPipe": true, "OciProcess": {"args": ["sh"], "terminal": true}}));
    drop(shell);
    settle().await;
    drop(web);
    settle().await;
    vm.close().await?;
    assert_eq!(
        summaries(&host),
        [
            "hcs create_system web",
            "hcs get_properties web",
            "hcs start_system web",
            "hcs create_process web",
            "hcs create_process web",
            "hcs get_properties web",
            "hcs get_properties web",
            "hcs get_properties web",
            "hcs signal_process 202",
            "hcs pause_system web",
            "hcs resume_system web",
            "hcs modify_system web",
            "hcs get_process_properties 201",
            "hcs close_process 201",
            "hcs shutdown_system web",
            "hcs close_process 202",
            "hcs close_system web",
            "hcs terminate_system vm",
            "hcs close_system vm",
        ]
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_container_of_a_windows_guest_is_made_by_its_document_and_started_apart() -> TestResult {
    let host = plain_host();
    let vm = boot_windows(&host).await?;
    let document = RawJson::parse(r#"{"Storage":{"Path":"C:\\c\\1"}}"#)?;
    let web = vm.create_container_from("web", ContainerConfig::windows(document)).await?;
    assert_eq!(summaries(&host), ["hcs create_system web", "hcs get_properties web"]);
    web.start_created().await?;
    let parameters = ProcessParameters { command_line: "cmd".into(), ..ProcessParameters::default() };
    let process = web.create_process_from(parameters).await?;
    assert!(process.signal_windows(WindowsSignal::CtrlShutdown).await?);
    web.terminate().await?;
    assert_eq!(web.wait().await, ContainerEnd::Notified(ExitType::ForcedExit));
    let calls = host.take_calls();
    assert_eq!(calls[1].text(), r#"{"CommandLine":"cmd"}"#);
    assert_eq!(calls[2].text(), r#"{"Signal":"CtrlShutdown"}"#);
    Ok(vm.close().await?)
}

#[tokio::test(start_paused = true)]
async fn a_container_goes_on_without_its_handle_and_another_hears_of_its_end() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    drop(create_container(&vm, container("web")).await?);
    settle().await;
    let taken = create_container(&vm, container("web")).await.expect_err("it is there");
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
    let again = vm.open_container("web")?;
    assert!(host.notify("web", Notification::new(NotificationKind::SystemExited, uvm::wire::Hresult::FAIL)));
    assert_eq!(again.wait().await, ContainerEnd::Notified(ExitType::UnexpectedExit));
    drop(again);
    settle().await;
    // Nobody has a handle of what has ended, so its id is free.
    let next = create_container(&vm, container("web")).await?;
    vm.close().await?;
    assert_eq!(next.wait().await, ContainerEnd::BridgeClosed);
    assert_eq!((host.open_systems(), host.open_processes()), (0, 0));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d69_closing_a_handle_wakes_whoever_waits_by_the_hosts_service() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let web = create_container(&vm, container("web")).await?;
    let (end, ()) = tokio::join!(web.wait(), async { web.close() });
    assert_eq!(end, ContainerEnd::Closed);
    assert_eq!(host.open_systems(), 2);
    web.terminate().await?;
    Ok(vm.close().await?)
}

#[tokio::test(start_paused = true)]
async fn what_the_hosts_service_does_not_pass_on_is_told() -> TestResult {
    let host = plain_host();
    let vm = boot(&host).await?;
    let web = create_container(&vm, container("web")).await?;
    host.take_calls();
    let errors = [
        web.delete_state().await.expect_err("it has no such call"),
        web.update("{}").await.expect_err("it has no such call"),
        vm.delete_container_state("web").await.expect_err("it has no such call"),
    ];
    for error in errors {
        assert!(matches!(error, UvmError::GuestUnsupported { .. }), "{error}");
    }
    for bad in ["c/1", "", ".."] {
        assert_eq!(create_container(&vm, container(bad)).await.expect_err("no id").kind(), ErrorKind::InvalidInput);
        assert_eq!(vm.open_container(bad).expect_err("no id").kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(host.take_calls(), []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_container_that_was_never_made_is_not_found() -> TestResult {
    let vm = boot(&plain_host()).await?;
    let nothing = vm.open_container("nothing")?;
    nothing.terminate().await?;
    let error = nothing.processes().await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(chain(&error).ends_with(r#"it has no container "nothing""#), "{}", chain(&error));
    let error = nothing.start(STDOUT).await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn processes_of_containers_are_signalled_only_by_agents_that_can() -> TestResult {
    let host = host(INCAPABLE, |_| None);
    let vm = boot(&host).await?;
    let web = create_container(&vm, container("web")).await?;
    let init = web.start(STDOUT).await?;
    host.take_calls();
    let error = init.kill().await.expect_err("the agent cannot");
    assert!(matches!(error, UvmError::GuestUnsupported { .. }), "{error}");
    assert_eq!(host.take_calls(), []);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn over_the_bridge_a_container_is_not_paused() -> TestResult {
    let (played, _guest) = Played::boot().await?;
    let web = played.vm.open_container("web")?;
    for error in [web.pause().await, web.resume().await] {
        assert!(matches!(error, Err(UvmError::GuestUnsupported { .. })), "{error:?}");
    }
    Ok(())
}
