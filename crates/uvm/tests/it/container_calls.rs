//! What containers are made of, what is asked of them while they run, and new limits.

use uvm::wire::call::Done;
use uvm::wire::metrics::{Memory, MemoryUse, Metrics};
use uvm::wire::modify::{ContainerConstraints, Modification, ModifySettings, Resource};
use uvm::wire::properties::{
    GetProperties, GetPropertiesReply, LinuxProperties, ProcessDetails, PropertyQuery, PropertyType,
};
use uvm::wire::system::UpdateContainer;
use uvm::wire::{Call, Failure, Hresult, RawJson};
use uvm::{ContainerError, ContainerOptions, ContainerProcesses, ContainerStdio, ErrorKind, ProcessExit, TerminalSize};
use uvm_testkit::guest::Guest;

use crate::container::{SPEC, container_error, made, options, serve_create};
use crate::support::{GuestProcess, Played, TestResult, chain, code, silence};

#[tokio::test(start_paused = true)]
async fn a_container_is_made_where_its_options_say() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let options = options("c").with_bundle_path("/run/b").with_scratch_dir("/run/gcs/c/c/scratch/c");
    let (container, create) = tokio::join!(played.vm.create_container(&options), serve_create(&mut guest));
    let create = create?;
    let linux = create.config.to_linux()?;
    assert_eq!((linux.bundle_path, linux.scratch_path), ("/run/b", Some("/run/gcs/c/c/scratch/c")));
    assert_eq!(linux.specification.get(), SPEC);
    drop(container?);
    played.close().await
}

/// Agents of the original end, and the VM with them, where one of these is missing.
#[tokio::test(start_paused = true)]
async fn a_specification_that_would_end_the_agent_is_refused_before_it_is_asked() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    for (specification, what) in [
        (r#"{"root":{},"linux":{}}"#, "process"),
        (r#"{"process":{},"linux":{}}"#, "root"),
        (r#"{"process":{},"root":{}}"#, "linux"),
        (r#"{"process":{},"root":{},"linux":null}"#, "linux"),
        (r#"{"process":{},"root":"/","linux":{}}"#, "root"),
        (r#"{"process":[],"root":{},"linux":{}}"#, "process"),
    ] {
        let options = ContainerOptions::new("c", specification);
        let error = played.vm.create_container(&options).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = container_error(error);
        assert!(matches!(error, ContainerError::Incomplete { missing } if missing == what), "{error:?}");
    }
    silence(&mut guest).await?;
    drop(made(&played, &mut guest, "c").await?);
    played.close().await
}

/// What the guest is asked for, and answers.
async fn serve_properties(guest: &mut Guest, kind: PropertyType, properties: LinuxProperties) -> TestResult {
    let asked = guest.answer::<GetProperties>(GetPropertiesReply::Linux(Box::new(properties))).await?;
    assert_eq!(asked.request.base.container_id.as_str(), "c");
    let query = PropertyQuery { property_types: vec![kind] };
    assert_eq!(asked.request.call, GetProperties { query }.into());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn statistics_and_processes_are_those_that_the_guest_tells() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let usage = MemoryUse { limit: 96 << 20, usage: 4096, ..MemoryUse::default() };
    let memory = Memory { rss: 4096, usage: Some(usage), ..Memory::default() };
    let metrics = Metrics { memory: Some(memory), ..Metrics::default() };
    let properties = LinuxProperties { metrics: Some(Box::new(metrics.clone())), ..LinuxProperties::default() };
    let (told, served) =
        tokio::join!(container.statistics(), serve_properties(&mut guest, PropertyType::Statistics, properties));
    served?;
    assert_eq!(told?, Some(metrics));

    let process_list = [352, 477].map(|process_id| ProcessDetails { process_id }).into();
    let properties =
        LinuxProperties { process_list: Some(process_list), processes_omitted: 3, ..LinuxProperties::default() };
    let (told, served) =
        tokio::join!(container.processes(), serve_properties(&mut guest, PropertyType::ProcessList, properties));
    served?;
    assert_eq!(told?, ContainerProcesses { ids: vec![352, 477], omitted: 3 });
    drop(container);
    played.close().await
}

/// As guests tell of a container that has stopped.
#[tokio::test(start_paused = true)]
async fn what_the_guest_has_not_is_none() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    let nothing = LinuxProperties::default;
    let (told, served) =
        tokio::join!(container.statistics(), serve_properties(&mut guest, PropertyType::Statistics, nothing()));
    served?;
    assert_eq!(told?, None);
    let (told, served) =
        tokio::join!(container.processes(), serve_properties(&mut guest, PropertyType::ProcessList, nothing()));
    served?;
    assert_eq!(told?, ContainerProcesses::default());
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn properties_of_another_shape_fail_the_call() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    for document in ["[]", "7", r#"{"ProcessList":7}"#, r#"{"ProcessList":[{"ProcessId":-1}]}"#] {
        let reply = GetPropertiesReply::Document(RawJson::parse(document)?);
        let (told, asked) = tokio::join!(container.processes(), guest.answer::<GetProperties>(reply));
        asked?;
        let error = told.expect_err(document);
        assert_eq!(error.kind(), ErrorKind::Guest);
        assert!(matches!(container_error(error), ContainerError::Answer(_)), "{document}");
    }
    let no_properties = LinuxProperties::default();
    let (told, served) =
        tokio::join!(container.processes(), serve_properties(&mut guest, PropertyType::ProcessList, no_properties));
    served?;
    told?;
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn limits_are_changed_in_the_way_that_the_agent_knows() -> TestResult {
    let resources = r#"{"memory":{"limit":100663296}}"#;
    for is_old in [false, true] {
        let played = Played::create().await?;
        let mut reply = Guest::capabilities();
        reply.capabilities.guest_defined.update_container = is_old;
        let mut guest = played.start(reply).await?;
        let container = made(&played, &mut guest, "c").await?;
        let parsed = RawJson::parse(resources)?;
        let (done, asked) = if is_old {
            tokio::join!(container.update(resources), guest.answer::<UpdateContainer>(Done::default()))
        } else {
            tokio::join!(container.update(resources), guest.answer::<ModifySettings>(Done::default()))
        };
        done?;
        let asked = asked?.request;
        assert_eq!(asked.base.container_id.as_str(), "c");
        let expected: Call = if is_old {
            UpdateContainer { resources: Some(parsed) }.into()
        } else {
            let constraints = ContainerConstraints { windows: Some(RawJson::parse("{}")?), linux: Some(parsed) };
            let modification = Modification::update(Resource::ContainerConstraints(constraints));
            ModifySettings { modification }.into()
        };
        assert_eq!(asked.call, expected);
        drop(container);
        played.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn d67_limits_that_the_guest_cannot_change_are_an_error() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    for (failure, kind) in [
        (Failure::plain("invalid ResourceType 'ContainerConstraints'"), ErrorKind::Guest),
        (Failure::code(Hresult::NOT_IMPLEMENTED), ErrorKind::Unsupported),
        (Failure::code(Hresult::SYSTEM_NOT_FOUND), ErrorKind::NotFound),
        (Failure::code(Hresult::INVALID_STATE), ErrorKind::WrongState),
    ] {
        let (done, asked) = tokio::join!(container.update("{}"), guest.refuse::<ModifySettings>(failure.clone()));
        asked?;
        let error = done.expect_err("refused");
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(chain(&error).contains(&failure.message), "{}", chain(&error));
    }
    drop(container);
    played.close().await
}

#[tokio::test(start_paused = true)]
async fn limits_and_processes_that_are_no_objects_are_not_sent() -> TestResult {
    let (played, mut guest) = Played::boot().await?;
    let container = made(&played, &mut guest, "c").await?;
    for document in ["", "null", "[]", "{", "7"] {
        let error = container.update(document).await.expect_err(document);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(container_error(error), ContainerError::Document { what: "resources", .. }), "{document:?}");
        let error = container.exec(document, ContainerStdio::default()).await.expect_err(document);
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(matches!(container_error(error), ContainerError::Document { what: "process", .. }), "{document:?}");
    }
    silence(&mut guest).await?;
    drop(container);
    played.close().await
}

/// Also with agents of the original, which can do neither to processes outside containers.
#[tokio::test(start_paused = true)]
async fn a_process_of_a_container_has_a_terminal_and_gets_signals() -> TestResult {
    use uvm::wire::process::{ResizeConsole, SignalProcess};

    let (played, mut guest) = Played::boot_original().await?;
    let container = made(&played, &mut guest, "c").await?;
    let process = r#"{"args":["sh"],"cwd":"/","terminal":true}"#;
    let stdio = ContainerStdio { stdin: true, stdout: true, stderr: false };
    let (exec, served) = tokio::join!(container.exec(process, stdio), GuestProcess::begin(&mut guest, 101));
    let (exec, served) = (exec?, served?);
    assert!(served.streams[0].is_some() && served.streams[1].is_some() && served.streams[2].is_none());
    let size = TerminalSize { rows: 37, columns: 101 };
    let (resized, asked) = tokio::join!(exec.resize(size), guest.answer::<ResizeConsole>(Done::default()));
    resized?;
    let asked = asked?.request;
    assert_eq!(asked.base.container_id.as_str(), "c");
    assert_eq!(asked.call, ResizeConsole { process_id: 101, height: 37, width: 101 }.into());
    let no_terminal = Failure::plain("pid: 101, is not a tty and cannot be resized");
    let (resized, asked) = tokio::join!(exec.resize(size), guest.refuse::<ResizeConsole>(no_terminal));
    asked?;
    assert_eq!(resized.expect_err("refused").kind(), ErrorKind::Guest);
    let (sent, asked) = tokio::join!(exec.signal(15), guest.answer::<SignalProcess>(Done::default()));
    sent?;
    let asked = asked?.request;
    assert_eq!(asked.base.container_id.as_str(), "c");
    assert_eq!(asked.call, SignalProcess::linux(101, 15).into());
    served.exit(&mut guest, code(143)).await?;
    assert_eq!(exec.wait().await?, ProcessExit::Code(143));
    drop((exec, container));
    played.close().await
}
