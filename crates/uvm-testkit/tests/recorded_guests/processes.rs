//! The host's part in the conversations about processes of the VM, and about the VM as a whole.

use uvm::{ProcessExit, ProcessSpec, TerminalSize, UtilityVm, UvmError};
use uvm_testkit::TestResult;

use crate::{PATH, chain, ended, run, shell, type_in};

pub(crate) async fn run_true(vm: UtilityVm) -> TestResult {
    let spec = ProcessSpec::new(["/bin/true"]).with_env("PATH", PATH);
    assert_eq!(run(&vm, &spec).await?, ended(0, "", ""));
    Ok(())
}

pub(crate) async fn exit42(vm: UtilityVm) -> TestResult {
    assert_eq!(run(&vm, &shell("exit 42")).await?, ended(42, "", ""));
    Ok(())
}

pub(crate) async fn output(vm: UtilityVm) -> TestResult {
    assert_eq!(run(&vm, &shell("echo out; echo err >&2; exit 3")).await?, ended(3, "out\n", "err\n"));
    let mut spec = ProcessSpec::new(["/bin/sh", "-c", "exit 5"]);
    (spec.stdout, spec.stderr) = (false, false);
    assert_eq!(run(&vm, &spec).await?, ended(5, "", ""));
    let mut spec = ProcessSpec::new(["/bin/echo", "a b", "c d", "e f"]);
    spec.stderr = false;
    assert_eq!(run(&vm, &spec).await?, ended(0, "a b c d e f\n", ""));
    let mut spec = ProcessSpec::new(["/bin/pwd"]).with_cwd("/proc/sys");
    spec.stderr = false;
    assert_eq!(run(&vm, &spec).await?, ended(0, "/proc/sys\n", ""));
    Ok(())
}

pub(crate) async fn cat_stdin(vm: UtilityVm) -> TestResult {
    let spec = ProcessSpec::new(["/bin/cat"]).with_env("PATH", PATH).with_stdin();
    let mut process = vm.create_process(&spec).await?;
    type_in(&mut process, "hello\nbridge\n").await?;
    assert_eq!(crate::output(process).await?, ended(0, "hello\nbridge\n", ""));
    Ok(())
}

pub(crate) async fn killed(vm: UtilityVm) -> TestResult {
    assert_eq!(run(&vm, &shell("kill -9 $$")).await?.0, ProcessExit::Signal(None));
    let mut spec = ProcessSpec::new(["/bin/cat"]).with_stdin();
    spec.stderr = false;
    let mut process = vm.create_process(&spec).await?;
    assert!(matches!(process.signal(15).await, Err(UvmError::GuestUnsupported { .. })));
    type_in(&mut process, "still here").await?;
    assert_eq!(crate::output(process).await?, ended(0, "still here", ""));
    Ok(())
}

pub(crate) async fn missing(vm: UtilityVm) -> TestResult {
    let spec = ProcessSpec::new(["/no/such/program"]).with_env("PATH", PATH);
    let error = vm.create_process(&spec).await.expect_err("there is no such program");
    assert!(chain(&error).contains("/no/such/program: no such file or directory"), "{}", chain(&error));
    Ok(())
}

pub(crate) async fn tty(vm: UtilityVm) -> TestResult {
    let size = TerminalSize { rows: 30, columns: 90 };
    let spec = shell("test -t 0 && test -t 1 && echo tty").with_env("TERM", "xterm").with_stdin();
    let process = vm.create_process(&spec.with_terminal(size)).await?;
    let resized = process.resize(TerminalSize { rows: 40, columns: 100 }).await;
    assert!(matches!(resized, Err(UvmError::GuestUnsupported { .. })));
    assert_eq!(crate::output(process).await?, ended(0, "tty\r\n", ""));
    Ok(())
}

pub(crate) async fn dump_stacks(vm: UtilityVm) -> TestResult {
    assert!(vm.dump_stacks().await?.starts_with("goroutine "));
    Ok(())
}

pub(crate) async fn shutdown(vm: UtilityVm) -> TestResult {
    vm.shutdown().await?;
    vm.wait().await?;
    Ok(())
}
