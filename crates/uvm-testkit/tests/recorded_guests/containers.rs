//! The host's part in the conversations about containers.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::wire::modify::CombinedLayers;
use uvm::wire::notification::ExitType;
use uvm::{Container, ContainerEnd, ContainerOptions, ContainerStdio, ErrorKind, ProcessExit, TerminalSize, UtilityVm};
use uvm_testkit::TestResult;

use crate::recording::Recording;
use crate::resources::{add, layers, remove};
use crate::{PATH, chain, ended, output, shell, type_in};

/// Makes the layer that all containers have.
const BASE: &str = "test -d /run/wt/base || { mkdir -p /run/wt/base/bin /run/wt/base/proc /run/wt/base/dev \
    /run/wt/base/sys /run/wt/base/etc /run/wt/base/tmp /run/wt/base/root && \
    cp /bin/busybox /run/wt/base/bin/busybox && \
    for i in sh cat echo sleep true stty env ps kill head id hostname ls test pwd; do \
    ln -s busybox /run/wt/base/bin/$i; done; }";

const OUTPUT: ContainerStdio = ContainerStdio { stdin: false, stdout: true, stderr: false };
const OUTPUTS: ContainerStdio = ContainerStdio { stderr: true, ..OUTPUT };
const ALL: ContainerStdio = ContainerStdio { stdin: true, ..OUTPUTS };
const TERMINAL: ContainerStdio = ContainerStdio { stdin: true, ..OUTPUT };

/// A container that was made, and its root file system.
struct Furnished<'a> {
    vm: &'a UtilityVm,
    container: Container,
    root: CombinedLayers,
}

impl<'a> Furnished<'a> {
    async fn new(vm: &'a UtilityVm, recording: &Recording) -> TestResult<Self> {
        let (id, specification) = recording.first_container()?;
        assert_eq!(crate::run(vm, &shell(BASE)).await?, ended(0, "", ""));
        let directory = format!("/run/gcs/c/{id}");
        assert_eq!(crate::run(vm, &shell(&format!("mkdir -p {directory}/scratch"))).await?, ended(0, "", ""));
        let mut root = layers(&format!("{directory}/rootfs"), &["/run/wt/base"], &format!("{directory}/scratch"));
        if recording.is_newer() {
            root.container_id.clone_from(&id);
        }
        add(vm, root.clone()).await?;
        let container = vm.create_container(&ContainerOptions::new(id, specification)).await?;
        Ok(Self { vm, container, root })
    }

    async fn remove_root(&self) -> TestResult {
        let Self { vm, root, .. } = self;
        remove(
            vm,
            CombinedLayers { container_id: root.container_id.clone(), ..layers(&root.container_root_path, &[], "") },
        )
        .await
    }
}

/// An OCI process, with what all of them have here.
fn process(args: &[&str], terminal: bool) -> String {
    let env = [format!("PATH={PATH}"), "WHERE=container".to_owned()];
    json!({"args": args, "cwd": "/", "env": env, "terminal": terminal, "user": {"uid": 0, "gid": 0}}).to_string()
}

/// The only thing that agents of January 2021 fail at here: they have deleted it themselves at times.
async fn cannot_be_deleted(container: &Container) {
    let error = container.delete_state().await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Guest);
    assert!(chain(&error).contains("container does not exist"), "{}", chain(&error));
}

pub(crate) async fn run(vm: UtilityVm, recording: &Recording) -> TestResult {
    let furnished = Furnished::new(&vm, recording).await?;
    let container = &furnished.container;
    let mut init = container.start(ALL).await?;
    type_in(&mut init, "through stdin\n").await?;
    assert_eq!(output(init).await?, ended(7, "container\nthrough stdin\n", "err\n"));
    assert_eq!(container.wait().await, ContainerEnd::Notified(ExitType::UnexpectedExit));
    // Each year's host has its own order.
    if recording.is_newer() {
        furnished.remove_root().await?;
    }
    container.delete_state().await?;
    if !recording.is_newer() {
        furnished.remove_root().await?;
    }
    Ok(())
}

pub(crate) async fn terminate(vm: UtilityVm, recording: &Recording) -> TestResult {
    let furnished = Furnished::new(&vm, recording).await?;
    let container = &furnished.container;
    let mut init = container.start(TERMINAL).await?;
    init.resize(TerminalSize { rows: 24, columns: 80 }).await?;
    let mut up = [0; 4];
    init.stdout.as_mut().ok_or("asked for")?.read_exact(&mut up).await?;
    assert_eq!(&up, b"up\r\n");
    container.terminate().await?;
    assert_eq!(init.wait().await?, ProcessExit::Code(137));
    // What a guest says of the reason is not to be relied on.
    let exit = if recording.is_newer() { ExitType::UnexpectedExit } else { ExitType::ForcedExit };
    assert_eq!(container.wait().await, ContainerEnd::Notified(exit));
    assert_eq!(output(init).await?, ended(137, "", ""));
    if recording.is_newer() {
        furnished.remove_root().await?;
        container.delete_state().await?;
    } else {
        cannot_be_deleted(container).await;
        furnished.remove_root().await?;
    }
    Ok(())
}

pub(crate) async fn life(vm: UtilityVm, recording: &Recording) -> TestResult {
    let furnished = Furnished::new(&vm, recording).await?;
    let container = &furnished.container;
    let init = container.start(OUTPUTS).await?;
    let (id, specification) = recording.first_container()?;
    let again = vm.create_container(&ContainerOptions::new(id, specification)).await.expect_err("it is there");
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    processes(container).await?;
    terminals(container).await?;
    limits(container, init.id()).await?;

    container.shutdown().await?;
    let stderr = if recording.is_newer() { "" } else { "Terminated\n" };
    assert_eq!(output(init).await?, ended(3, "up\ngot term\n", stderr));
    assert_eq!(container.wait().await, ContainerEnd::Notified(ExitType::GracefulExit));
    let error = container.exec(&process(&["/bin/true"], false), OUTPUTS).await.expect_err("it has stopped");
    assert!(chain(&error).contains("cannot exec in a stopped container"), "{}", chain(&error));
    if recording.is_newer() {
        furnished.remove_root().await?;
        container.delete_state().await?;
        assert_eq!(container.delete_state().await.expect_err("it is gone").kind(), ErrorKind::NotFound);
    } else {
        cannot_be_deleted(container).await;
        furnished.remove_root().await?;
        cannot_be_deleted(container).await;
    }
    Ok(())
}

/// They write, read, are not there, and end by signals.
async fn processes(container: &Container) -> TestResult {
    let script = "echo $WHERE; echo e >&2; exit 12";
    let echo = container.exec(&process(&["/bin/sh", "-c", script], false), OUTPUTS).await?;
    assert_eq!(output(echo).await?, ended(12, "container\n", "e\n"));
    let mut cat = container.exec(&process(&["/bin/cat"], false), ALL).await?;
    type_in(&mut cat, "abc").await?;
    assert_eq!(output(cat).await?, ended(0, "abc", ""));
    let error = container.exec(&process(&["/no/such"], false), OUTPUTS).await.expect_err("there is none");
    assert!(chain(&error).contains("stat /no/such: no such file or directory"), "{}", chain(&error));
    let sleep = process(&["/bin/sleep", "100"], false);
    let asked = container.exec(&sleep, OUTPUTS).await?;
    asked.signal(15).await?;
    assert_eq!(asked.wait().await?, ProcessExit::Code(143));
    // A signal to what has ended is no failure.
    asked.signal(15).await?;
    let killed = container.exec(&sleep, OUTPUTS).await?;
    killed.kill().await?;
    assert_eq!(output(killed).await?, ended(137, "", ""));
    Ok(())
}

async fn terminals(container: &Container) -> TestResult {
    let script = "read x; stty size; test -t 1 && echo tty";
    let mut sized = container.exec(&process(&["/bin/sh", "-c", script], true), TERMINAL).await?;
    sized.resize(TerminalSize { rows: 37, columns: 101 }).await?;
    sized.stdin.as_mut().ok_or("asked for")?.write_all(b"go\n").await?;
    assert_eq!(output(sized).await?, ended(0, "go\r\n37 101\r\ntty\r\n", ""));
    let cat = container.exec(&process(&["/bin/cat"], false), ALL).await?;
    let error = cat.resize(TerminalSize { rows: 10, columns: 10 }).await.expect_err("it has no terminal");
    assert!(chain(&error).contains("is not a tty and cannot be resized"), "{}", chain(&error));
    assert_eq!(output(cat).await?, ended(0, "", ""));
    Ok(())
}

async fn limits(container: &Container, init: u32) -> TestResult {
    let ids = container.processes().await?.ids;
    assert!(ids.len() == 2 && ids[0] == init, "{ids:?}");
    let new_limit = 96 << 20;
    assert_ne!(memory_limit(container).await?, new_limit);
    container.update(r#"{"memory":{"limit":100663296}}"#).await?;
    assert_eq!(memory_limit(container).await?, new_limit);
    Ok(())
}

async fn memory_limit(container: &Container) -> TestResult<u64> {
    let statistics = container.statistics().await?.ok_or("the guest has statistics")?;
    Ok(statistics.memory.and_then(|memory| memory.usage).ok_or("and of memory")?.limit)
}

pub(crate) async fn unknown(vm: UtilityVm) -> TestResult {
    let container = vm.open_container("no-such-container")?;
    let errors = [
        container.processes().await.map(drop).expect_err("nobody knows it"),
        container.delete_state().await.expect_err("nobody knows it"),
        container.start(OUTPUT).await.map(drop).expect_err("nobody knows it"),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(chain(&error).contains("HRESULT: 0xc037010e"), "{}", chain(&error));
    }
    container.shutdown().await?;
    Ok(())
}
