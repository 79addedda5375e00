//! Boot files that say they hold the original's agent: its kernel line, and everything by virtual sockets. The agent in them
//! is this project's, which knows that part, too.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::{
    GuestConnection, GuestLogParser, HvSocketServiceConfig, HvSocketServiceId, OutputHandler, ProcessExit, ProcessSpec,
    UvmError,
};
use uvm_testkit::vm::boot_files;
use uvm_testkit::{TestResult, TestVm};

use crate::cli::{Run, text as said};
use crate::process::text;
use crate::sockets::{install, output_of, run};

/// A directory with the tests' kernel and initramfs, and such a manifest.
pub(crate) fn original_boot_files() -> TestResult<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    for file in ["vmlinux", "kernel", "initrd.img"] {
        let path = boot_files()?.join(file);
        if path.exists() {
            std::os::unix::fs::symlink(path, dir.path().join(file))?;
        }
    }
    std::fs::write(dir.path().join("manifest.json"), r#"{"format": 1, "agent": {"kind": "original"}}"#)?;
    Ok(dir)
}

async fn boot(name: &str, dir: &Path) -> TestResult<TestVm> {
    let dir = dir.to_owned();
    TestVm::builder(name).with(move |options| options.boot_files = Some(dir)).boot().await
}

#[tokio::test]
async fn processes_run_over_virtual_sockets_and_the_device_stays() -> TestResult {
    let dir = original_boot_files()?;
    let vm = boot("original", dir.path()).await?;
    let output = output_of(&vm, &["cat", "/proc/cmdline"]).await?;
    let line = text(&output.stdout).to_owned();
    assert!(line.contains(" nr_cpus=1 ") && line.contains(" -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4 "), "{line}");
    // Both directions, more than any window, each with an end of its own.
    let mut process = vm.create_process(&ProcessSpec::new(["cat"]).with_stdin()).await?;
    let (mut stdin, mut stdout) = (process.stdin.take().ok_or("no stdin")?, process.stdout.take().ok_or("no stdout")?);
    let sent: Vec<u8> = (0..3_000_000u32).map(|at| (at % 253) as u8).collect();
    let mut echoed = Vec::new();
    let write = async {
        stdin.write_all(&sent).await?;
        stdin.finish().await?;
        TestResult::Ok(())
    };
    let (written, read) = tokio::join!(write, stdout.read_to_end(&mut echoed));
    written?;
    read?;
    assert!(echoed == sent, "{} of {} bytes", echoed.len(), sent.len());
    drop(stdout);
    assert_eq!(process.wait().await?, ProcessExit::Code(0));

    let error = vm.remove_virtual_sockets().await.expect_err("the agent needs it");
    assert!(format!("{error:?}").contains("agent itself uses them"), "{error:?}");
    // Programs of the guest use the same device.
    install(&vm).await?;
    vm.update_hvsocket_service(&HvSocketServiceId::of_port(5000), &HvSocketServiceConfig::guest_dials()).await?;
    let mut listener = vm.listen(5000)?;
    let arguments = ["dial", "5000", "1", "65536"];
    let serve = async {
        let mut stream = listener.accept().await?;
        stream.read_to_end(&mut Vec::new()).await?;
        stream.write_all(&[1; 7]).await?;
        stream.shutdown().await?;
        TestResult::Ok(())
    };
    let (served, printed) = tokio::join!(serve, run(&vm, &arguments));
    served?;
    assert_eq!(printed?.trim(), "7");
    drop((process, listener));
    vm.shutdown().await?;
    vm.close().await
}

#[tokio::test]
async fn output_and_errors_of_the_agent_come_by_the_log_port() -> TestResult {
    let dir = original_boot_files()?;
    let (path, messages) = (dir.path().to_owned(), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&messages);
    let handler = OutputHandler::new(move |_, mut stream| {
        let heard = Arc::clone(&heard);
        async move {
            let mut parser = GuestLogParser::default();
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                for entry in parser.push(&bytes[..count]).0 {
                    heard.lock().expect("no panic").push(entry.message);
                }
            }
        }
    });
    let vm = TestVm::builder("original-log")
        .with(move |options| {
            options.boot_files = Some(path);
            (options.forward_stdout, options.forward_stderr) = (true, true);
            options.exec_command_line = Some("/bin/gcs -v4 -log-format json -loglevel debug -disable-time-sync".into());
            options.output_handler = Some(handler);
        })
        .boot()
        .await?;
    let line = text(&output_of(&vm, &["cat", "/proc/cmdline"]).await?.stdout).to_owned();
    assert!(line.contains("/bin/vsockexec -o 109 -e 109 /bin/gcs") && line.contains("-disable-time-sync"), "{line}");
    vm.shutdown().await?;
    vm.wait().await?;
    assert!(!messages.lock().expect("no panic").is_empty(), "nothing was logged");
    vm.close().await
}

#[tokio::test]
async fn without_a_guest_connection_only_the_output_is_read() -> TestResult {
    let dir = original_boot_files()?;
    let path = dir.path().to_owned();
    let vm = TestVm::builder("original-alone")
        .with(move |options| {
            options.boot_files = Some(path);
            options.guest_connection = GuestConnection::None;
        })
        .boot()
        .await?;
    assert!(vm.capabilities().is_none());
    let error = vm.create_process(&ProcessSpec::new(["true"])).await.expect_err("nobody to ask");
    assert!(matches!(error, UvmError::GuestUnsupported { .. }), "{error}");
    // Programs of the guest are dialled without it.
    vm.update_hvsocket_service(&HvSocketServiceId::of_port(6000), &HvSocketServiceConfig::host_dials()).await?;
    let error = vm.dial(6000).await.err().ok_or("nobody listens")?;
    assert!(format!("{error:?}").contains("Refused"), "{error:?}");
    vm.close().await
}

#[test]
fn the_command_takes_such_boot_files_and_a_line_for_the_agent() -> TestResult {
    let dir = original_boot_files()?;
    let path = dir.path().to_str().ok_or("not text")?;
    let agent = "/bin/gcs -v4 -log-format json -loglevel info -disable-time-sync";
    let flags = ["--boot-files", path, "--agent-cmdline", agent];
    let output = Run::with_boot_files(&flags, &["sh", "-c", "cat; exit 7"])?.output(b"through\n")?;
    assert_eq!(
        (output.status.code(), said(&output.stdout).as_str()),
        (Some(7), "through\n"),
        "{}",
        said(&output.stderr)
    );
    let flags = ["--boot-files", path, "--agent-cmdline", "/bin/gcs -no-such-flag"];
    let output = Run::with_boot_files(&flags, &["true"])?.output(b"")?;
    let error = said(&output.stderr);
    assert!(output.status.code() == Some(125) && error.contains("no-such-flag"), "{error}");
    Ok(())
}
