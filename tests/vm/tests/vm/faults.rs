//! What goes wrong is told by name, in time, and leaves nothing.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use uvm::{ErrorKind, ExitStatus, LcowOptions, MemoryMib, ProcessSpec, UvmError};
use uvm_testkit::{TestResult, TestVm};

use crate::qemu;

/// The error with all of its causes, as one text.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The error of a VM that cannot be had.
async fn refused(change: impl FnOnce(&mut LcowOptions) + Send + 'static) -> String {
    let Err(error) = TestVm::builder("refused").with(change).boot().await else { panic!("it booted") };
    chain(&*error)
}

#[tokio::test]
async fn bad_boot_files_are_named() -> TestResult {
    let dir = tempfile::tempdir()?;
    let garbage = dir.path().join("garbage");
    std::fs::write(&garbage, vec![b'x'; 1 << 20])?;
    let path = garbage.clone();
    let error = refused(move |options| options.kernel_file = Some(path)).await;
    assert!(error.contains(&garbage.display().to_string()) && error.contains("neither"), "{error}");
    let missing = dir.path().join("missing");
    let path = missing.clone();
    let error = refused(move |options| options.kernel_file = Some(path)).await;
    assert!(error.contains(&missing.display().to_string()) && error.contains("No such file"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_kernel_without_an_entry_for_this_machine_quotes_qemu() -> TestResult {
    let dir = tempfile::tempdir()?;
    // An ELF file of the right kind with nothing in it.
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(18, 0);
    elf.extend([62, 0]);
    elf.resize(4096, 0);
    let path = dir.path().join("vmlinux");
    std::fs::write(&path, elf)?;
    let error = refused(move |options| options.kernel_file = Some(path)).await;
    let said = error.split_once("its host process said:").ok_or_else(|| format!("QEMU is not quoted: {error}"))?.1;
    assert!(said.contains("Error while loading elf kernel"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_bad_initramfs_quotes_the_kernels_last_words() -> TestResult {
    let dir = tempfile::tempdir()?;
    let garbage = dir.path().join("initrd.img");
    std::fs::write(&garbage, vec![b'x'; 1 << 20])?;
    let error = refused(move |options| options.root_fs_file = Some(garbage)).await;
    assert!(error.contains("Kernel panic") && error.contains("did not start"), "{error}");
    Ok(())
}

#[tokio::test]
async fn too_little_memory_is_told_with_both_numbers() -> TestResult {
    let memory = MemoryMib::new(16)?;
    let error = refused(move |options| options.memory = memory).await;
    assert!(error.contains("\"16 MiB\"") && error.contains("at least"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_unwritable_state_directory_and_a_missing_qemu_are_named() -> TestResult {
    let error =
        TestVm::builder("state").with_both(|_, host| host.state_root = Some("/proc/1/uvm".into())).create().await;
    let error = chain(&*error.err().expect("nothing can be made there"));
    assert!(error.contains("state directory") && error.contains("/proc/1/uvm"), "{error}");
    let error = TestVm::builder("noqemu").with_both(|_, host| host.program = Some("/no/qemu".into())).create().await;
    let error = chain(&*error.err().expect("no such program"));
    assert!(error.contains("QEMU program") && error.contains("/no/qemu"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_program_that_is_no_qemu_is_quoted() -> TestResult {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("qemu");
    std::fs::write(&program, "#!/bin/sh\necho I am no emulator >&2\nexit 3\n")?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let error = TestVm::builder("fake").with_both(move |_, host| host.program = Some(program)).create().await;
    let error = chain(&*error.err().expect("it is no QEMU"));
    assert!(error.contains("I am no emulator") && error.contains("code 3"), "{error}");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_never_comes_is_a_start_that_timed_out() -> TestResult {
    let change = |options: &mut LcowOptions| {
        // Nothing runs the agent.
        options.exec_command_line = Some("/bin/sleep 1000".into());
        options.deadlines.start = Duration::from_secs(15);
    };
    let vm = TestVm::builder("noagent").with(change).create().await?;
    let error = vm.start().await.expect_err("no agent comes");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = chain(&error);
    assert!(text.contains("did not connect") && text.contains("15s") && text.contains("QEMU (pid"), "{text}");
    assert_eq!(vm.wait().await?, ExitStatus::Terminated);
    vm.close().await
}

/// Stops QEMU, and lets it go on when dropped, so that a failed test leaves nothing stopped.
pub(crate) struct Stopped(rustix::process::Pid);

impl Stopped {
    pub(crate) fn new(pid: u32) -> TestResult<Self> {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may be gone.
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

#[tokio::test]
async fn a_stopped_qemu_fails_start_in_time_and_by_name() -> TestResult {
    let change = |options: &mut LcowOptions| {
        options.deadlines.start = Duration::from_secs(3);
        options.deadlines.host_call = Duration::from_secs(2);
    };
    let vm = TestVm::builder("stopstart").with(change).create().await?;
    let pid = qemu::pid(&vm).await?;
    let stopped = Stopped::new(pid)?;
    let began = Instant::now();
    let error = vm.start().await.expect_err("it is stopped");
    let text = chain(&error);
    assert!(text.contains("it is stopped") && text.contains("did not power it on"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    drop(stopped);
    vm.close().await
}

#[tokio::test]
async fn a_stopped_qemu_fails_a_process_in_time_and_by_name() -> TestResult {
    let change = |options: &mut LcowOptions| options.deadlines.rpc = Duration::from_millis(500);
    let vm = TestVm::builder("stopexec").with(change).boot().await?;
    let pid = qemu::pid(&vm).await?;
    let stopped = Stopped::new(pid)?;
    let error = vm.create_process(&ProcessSpec::new(["true"])).await.expect_err("it is stopped");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = chain(&error);
    assert!(text.contains("true") && text.contains("ExecuteProcess"), "{text}");
    assert!(text.contains(&format!("QEMU (pid {pid}) does not run: it is stopped")), "{text}");
    drop(stopped);
    vm.close().await
}

#[tokio::test]
async fn a_qemu_that_is_stopped_in_mid_boot_fails_start_in_time_and_by_name() -> TestResult {
    let change = |options: &mut LcowOptions| {
        options.deadlines.start = Duration::from_secs(20);
        options.deadlines.host_call = Duration::from_secs(2);
    };
    let vm = TestVm::builder("stopboot").with(change).create().await?;
    let pid = qemu::pid(&vm).await?;
    let began = Instant::now();
    let stop = async {
        // Powered on, and its kernel prints.
        while vm.last_words().console.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Stopped::new(pid)
    };
    let (started, stopped) = tokio::join!(vm.start(), stop);
    let stopped = stopped?;
    let error = started.expect_err("it is stopped");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = chain(&error);
    assert!(text.contains(&format!("QEMU (pid {pid}) does not run: it is stopped")), "{text}");
    assert!(!text.contains("did not power it on") && text.contains("its console ends with"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    drop(stopped);
    vm.close().await
}

#[tokio::test]
async fn a_stopped_qemu_is_closed_all_the_same() -> TestResult {
    let vm = TestVm::builder("stopclose").boot().await?;
    let pid = qemu::pid(&vm).await?;
    let _stopped = Stopped::new(pid)?;
    vm.close().await
}

#[tokio::test]
async fn a_killed_qemu_ends_everything_with_its_cause() -> TestResult {
    let vm = TestVm::builder("killed").boot().await?;
    let pid = qemu::pid(&vm).await?;
    let sleeper = vm.create_process(&ProcessSpec::new(["sleep", "1000"])).await?;
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let error = sleeper.wait().await.expect_err("the VM is gone");
    assert!(matches!(error, UvmError::Exited { .. }), "{error}");
    assert!(error.to_string().contains("killed by signal 9"), "{error}");
    assert_eq!(vm.wait().await?, ExitStatus::HostProcessKilled(9));
    vm.exit_error().expect_err("it did not end as wished");
    drop(sleeper);
    vm.close().await
}

#[tokio::test]
async fn a_panicking_guest_is_told_as_that() -> TestResult {
    let vm = TestVm::builder("panic").boot().await?;
    let spec = ProcessSpec::new(["sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"]);
    // It may be gone before it answers.
    let _ = vm.create_process(&spec).await;
    let status = vm.wait().await?;
    assert!(matches!(status, ExitStatus::Panicked | ExitStatus::Reset), "{status}");
    // What it is doing would be told by other words, too: the kernel's own must be there.
    let console = vm.last_words().console.join("\n");
    assert!(console.contains("Kernel panic - not syncing: sysrq triggered crash"), "{console:?}");
    vm.close().await
}
