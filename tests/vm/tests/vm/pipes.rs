//! Unix sockets of the host, offered in running guests.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use uvm::{ErrorKind, ProcessSpec, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::cli::Run;
use crate::disks::sh;
use crate::faults::chain;
use crate::process::text;
use crate::sockets::{GUEST, install, output_of, program, run};

/// A VM with the guest's program in it.
async fn vm(name: &str) -> TestResult<TestVm> {
    let vm = TestVm::builder(name).boot().await?;
    install(&vm).await?;
    Ok(vm)
}

/// Sends back what comes, when its end has come; for as long as connections come.
async fn echo(listener: UnixListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await?;
            stream.write_all(&bytes).await
        });
    }
}

/// The guest's program, asked to send something to a socket that it does not reach: what it says of its end.
async fn unreached(vm: &UtilityVm, path: &str) -> TestResult<String> {
    let output = output_of(vm, &[GUEST, "ask", path, "question"]).await?;
    assert!(!output.exit.is_success(), "{}", text(&output.stdout));
    Ok(text(&output.stderr).to_owned())
}

/// The same, where it is cut: by a reset of what it has sent, or, if that was sooner, of what it is about to send.
async fn is_cut(vm: &UtilityVm, path: &str) -> TestResult {
    let said = unreached(vm, path).await?;
    assert!(said.contains("ConnectionReset") || said.contains("BrokenPipe"), "{said}");
    Ok(())
}

#[tokio::test]
async fn many_connections_end_each_direction_by_itself() -> TestResult {
    const BYTES: usize = 300_000;
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("socket");
    let echo = tokio::spawn(echo(UnixListener::bind(&socket)?));
    let vm = vm("pipes").await?;
    let pipe = vm.add_pipe_at(&socket, "/run/made/socket").await?;
    assert_eq!(pipe.guest_path(), Some("/run/made/socket"));
    // More than are carried at a time.
    let came = run(&vm, &["unix", "/run/made/socket", "200", &BYTES.to_string()]).await?;
    assert_eq!(came.trim(), (200 * BYTES).to_string());
    assert_eq!(sh(&vm, "stat -c %a /run/made/socket").await?, "666\n", "any user may connect");
    pipe.release().await?;
    assert_eq!(sh(&vm, "ls /run/made").await?, "");
    echo.abort();
    vm.close().await
}

#[tokio::test]
async fn a_pipe_that_is_removed_is_gone_and_its_connections_with_it() -> TestResult {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket)?;
    let vm = vm("pipe-removed").await?;
    // At the same path as on the host; two have it.
    let (one, two) = (vm.add_pipe(&socket).await?, vm.add_pipe(&socket).await?);
    let path = socket.to_str().ok_or("no text")?;
    assert_eq!(one.guest_path(), Some(path));
    let waiting = vm.create_process(&ProcessSpec::new([GUEST, "ask", path, "question"])).await?;
    let (mut host, _) = listener.accept().await?;
    let mut question = [0; 8];
    host.read_exact(&mut question).await?;
    assert_eq!(&question, b"question");
    one.release().await?;
    host.write_all(b"still there").await?;
    two.release().await?;
    assert_eq!(host.read(&mut question).await?, 0, "the connection was cut");
    let output = tokio::time::timeout(Duration::from_secs(60), waiting.output()).await??;
    assert!(text(&output.stdout).len() <= "still there".len());
    assert!(unreached(&vm, path).await?.contains("NotFound"));
    let error = vm.remove_pipe(&socket).await.expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // Again, and not elsewhere while it is there.
    let pipe = vm.add_pipe(&socket).await?;
    let error = chain(&vm.add_pipe_at(&socket, "/elsewhere").await.expect_err("it is there"));
    assert!(error.contains(path) && error.contains("/elsewhere"), "{error}");
    pipe.release().await?;
    vm.close().await
}

#[tokio::test]
async fn a_socket_that_cannot_be_reached_is_a_reset_for_the_guest_alone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("socket");
    let vm = vm("pipe-reset").await?;
    for (path, why) in [("missing", "No such file"), (".", "no Unix socket")] {
        let path = dir.path().join(path);
        let error = chain(&vm.add_pipe_at(&path, "/run/socket").await.expect_err("no socket"));
        assert!(error.contains(&path.display().to_string()) && error.contains(why), "{error}");
    }
    assert_eq!(sh(&vm, "ls -d /run/socket 2>/dev/null || echo none").await?, "none\n");
    let listener = UnixListener::bind(&socket)?;
    let error = chain(&vm.add_pipe_at(&socket, "/proc").await.expect_err("something is there"));
    assert!(error.contains("/proc cannot be a socket: something is there"), "{error}");
    let pipe = vm.add_pipe_at(&socket, "/run/socket").await?;
    // Nobody listens, and then the socket is gone.
    drop(listener);
    is_cut(&vm, "/run/socket").await?;
    std::fs::remove_file(&socket)?;
    is_cut(&vm, "/run/socket").await?;
    // It is there again.
    let listener = UnixListener::bind(&socket)?;
    let answers = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.read_exact(&mut [0; 8]).await?;
        stream.write_all(b"answer").await
    });
    // The guest keeps its direction open: the end is the host's.
    assert_eq!(run(&vm, &["ask", "/run/socket", "question"]).await?, "answer");
    answers.await??;
    pipe.release().await?;
    vm.close().await
}

/// A stalled connection holds up no other, nor the guest's processes.
#[tokio::test]
async fn a_host_that_does_not_read_holds_up_its_own_connection_alone() -> TestResult {
    let dir = tempfile::tempdir()?;
    let (stalled, lively) = (dir.path().join("stalled"), dir.path().join("lively"));
    let nobody_reads = UnixListener::bind(&stalled)?;
    let echo = tokio::spawn(echo(UnixListener::bind(&lively)?));
    let vm = vm("pipe-stalled").await?;
    let one = vm.add_pipe_at(&stalled, "/run/stalled").await?;
    let two = vm.add_pipe_at(&lively, "/run/lively").await?;
    let stuck = vm.create_process(&ProcessSpec::new([GUEST, "unix", "/run/stalled", "3", "50000000"])).await?;
    let mut held: Vec<UnixStream> = Vec::new();
    for _ in 0..3 {
        held.push(nobody_reads.accept().await?.0);
    }
    assert_eq!(run(&vm, &["unix", "/run/lively", "8", "1000000"]).await?.trim(), "8000000");
    stuck.kill().await?;
    stuck.wait().await?;
    // What it had sent is read, and then its end.
    for mut stream in held {
        let mut nobody = tokio::io::sink();
        let read = tokio::time::timeout(Duration::from_secs(60), tokio::io::copy(&mut stream, &mut nobody)).await?;
        assert!(read? < 50_000_000);
    }
    drop(stuck);
    one.release().await?;
    two.release().await?;
    echo.abort();
    vm.close().await
}

#[tokio::test]
async fn the_command_offers_a_socket() -> TestResult {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("agent.sock");
    let echo = tokio::spawn(echo(UnixListener::bind(&socket)?));
    let share = program()?;
    let share = format!("{}:/bin-of-test:ro", share.parent().unwrap_or(Path::new("/")).display());
    let flag = format!("{}:/run/agent.sock", socket.display());
    let program = "/bin-of-test/uvm-test-guest";
    let run = Run::new(&["--share", &share, "--socket", &flag], &[program, "unix", "/run/agent.sock", "2", "7"])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    assert_eq!(text(&output.stdout).trim(), "14", "{}", text(&output.stderr));
    let missing = dir.path().join("missing");
    let run = Run::new(&["--socket", &missing.display().to_string()], &["true"])?;
    let output = tokio::task::spawn_blocking(move || run.output(b"")).await??;
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(125) && said.contains("missing") && said.contains("No such file"), "{said}");
    echo.abort();
    Ok(())
}
