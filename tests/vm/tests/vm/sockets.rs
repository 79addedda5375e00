//! Virtual sockets of programs in a real guest.

use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use uvm::{GuestStream, HvSocketServiceConfig, HvSocketServiceId, Output, ProcessExit, ProcessSpec, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::cli::built;
use crate::process::text;

/// Bytes of a block as the guest's program sends them.
fn block() -> Vec<u8> {
    (0..64 * 1024u32).map(|at| (at % 251) as u8).collect()
}

/// A VM with virtual sockets, and the guest's program in it, which may use its ports.
pub(crate) async fn vm(name: &str) -> TestResult<TestVm> {
    let vm = TestVm::builder(name).with(|options| options.virtual_sockets = true).boot().await?;
    install(&vm).await?;
    for port in [5000, 5001, 6000, 6001] {
        vm.update_hvsocket_service(&HvSocketServiceId::of_port(port), &HvSocketServiceConfig::both_dial()).await?;
    }
    Ok(vm)
}

/// Puts the guest's program into the guest.
pub(crate) async fn install(vm: &UtilityVm) -> TestResult {
    let install = ["sh", "-c", &format!("cat > {GUEST} && chmod +x {GUEST}")];
    let mut process = vm.create_process(&ProcessSpec::new(install).with_stdin()).await?;
    let mut stdin = process.stdin.take().expect("asked for");
    stdin.write_all(&std::fs::read(program()?)?).await?;
    stdin.finish().await?;
    assert_eq!(process.wait().await?, ProcessExit::Code(0));
    Ok(())
}

/// Runs a command in the guest to its end.
pub(crate) async fn output_of(vm: &UtilityVm, command: &[&str]) -> TestResult<Output> {
    Ok(vm.create_process(&ProcessSpec::new(command.iter().copied())).await?.output().await?)
}

/// Where the guest's program is in the guest.
pub(crate) const GUEST: &str = "/tmp/guest";

/// Where it is on the host.
pub(crate) fn program() -> TestResult<PathBuf> {
    built("../x86_64-unknown-linux-musl/agent/uvm-test-guest", "cargo xtask ci")
}

/// Runs the program in the guest; gives what it printed.
pub(crate) async fn run(vm: &UtilityVm, arguments: &[&str]) -> TestResult<String> {
    let command: Vec<_> = [GUEST].iter().chain(arguments).copied().collect();
    let output = output_of(vm, &command).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.exit, ProcessExit::Code(0), "{said}");
    Ok(text(&output.stdout).to_owned())
}

/// Reads what a program sent, in the order it did, to the end.
async fn count(stream: &mut GuestStream) -> TestResult<usize> {
    let (block, mut bytes, mut total) = (block(), vec![0; 64 * 1024], 0);
    loop {
        let n = stream.read(&mut bytes).await?;
        if n == 0 {
            return Ok(total);
        }
        for (at, byte) in bytes[..n].iter().enumerate() {
            assert_eq!(*byte, block[(total + at) % block.len()], "byte {}", total + at);
        }
        total += n;
    }
}

#[tokio::test]
async fn programs_dial_the_host_with_half_closes_and_large_writes() -> TestResult {
    const STREAMS: usize = 64;
    const BYTES: usize = 1 << 20;
    let vm = vm("sockets-up").await?;
    let mut listener = vm.listen(5000)?;
    let serve = async {
        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            streams.push(listener.accept().await?);
        }
        let mut answers = tokio::task::JoinSet::new();
        for mut stream in streams {
            answers.spawn(async move {
                let total = count(&mut stream).await.map_err(|e| e.to_string())?;
                // The guest's half is closed; ours is not.
                stream.write_all(&vec![7; total / 64]).await.map_err(|e| e.to_string())?;
                stream.shutdown().await.map_err(|e| e.to_string())?;
                Ok::<_, String>(total)
            });
        }
        let mut total = 0;
        while let Some(answer) = answers.join_next().await {
            total += answer??;
        }
        TestResult::Ok(total)
    };
    let arguments = ["dial", "5000", "64", "1048576"];
    let (total, printed) = tokio::join!(serve, run(&vm, &arguments));
    assert_eq!(total?, STREAMS * BYTES);
    assert_eq!(printed?.trim(), (STREAMS * BYTES / 64).to_string());
    drop(listener);
    vm.close().await
}

#[tokio::test]
async fn the_host_dials_programs_and_is_refused_where_nobody_listens() -> TestResult {
    let vm = vm("sockets-down").await?;
    let refused = vm.dial(6001).await.err().ok_or("nobody listens")?;
    let mut causes = std::iter::successors(Some(&refused as &dyn std::error::Error), |error| error.source());
    let last = causes.by_ref().last().map(ToString::to_string);
    assert_eq!(last.as_deref(), Some("refused by the guest"));
    let mut process = vm.create_process(&ProcessSpec::new([GUEST, "echo", "6000"])).await?;
    let mut stdout = BufReader::new(process.stdout.take().expect("asked for"));
    let mut ready = String::new();
    stdout.read_line(&mut ready).await?;
    assert_eq!(ready, "ready\n");
    let mut stream = vm.dial(6000).await?;
    let sent = block().repeat(16);
    let (mut read, mut write) = tokio::io::split(&mut stream);
    write.write_all(&sent).await?;
    write.shutdown().await?;
    let mut echoed = Vec::new();
    read.read_to_end(&mut echoed).await?;
    assert!(echoed == sent, "{} of {} bytes", echoed.len(), sent.len());
    assert_eq!(process.wait().await?, ProcessExit::Code(0));
    drop((stream, process));
    vm.close().await
}

#[tokio::test]
async fn of_a_socket_closed_long_ago_every_byte_is_read() -> TestResult {
    let vm = vm("sockets-late").await?;
    let mut listener = vm.listen(5001)?;
    let closed = run(&vm, &["close", "5001", "60000"]);
    let (stream, printed) = tokio::join!(listener.accept(), closed);
    let (mut stream, _) = (stream?, printed?);
    // Linux resets a closing socket after 8 s.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(count(&mut stream).await?, 60_000);
    drop((stream, listener));
    vm.close().await
}

#[tokio::test]
async fn ports_nobody_listens_on_are_refused_those_of_the_agent_among_them() -> TestResult {
    let vm = vm("sockets-closed").await?;
    for port in ["1", "109", "1073741824", "5000"] {
        let spec = ProcessSpec::new([GUEST, "close", port, "1"]);
        let output = vm.create_process(&spec).await?.output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.exit == ProcessExit::Code(1) && said.contains("reset"), "port {port}: {said}");
    }
    vm.close().await
}

#[tokio::test]
async fn the_end_of_the_vm_ends_streams_in_reset() -> TestResult {
    let vm = vm("sockets-end").await?;
    let mut listener = vm.listen(5000)?;
    let mut process = vm.create_process(&ProcessSpec::new([GUEST, "echo", "6000"])).await?;
    let mut stdout = BufReader::new(process.stdout.take().expect("asked for"));
    stdout.read_line(&mut String::new()).await?;
    let mut stream = vm.dial(6000).await?;
    vm.terminate().await?;
    let error = stream.read_u8().await.expect_err("cut");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    assert!(listener.accept().await.is_err());
    drop((stream, listener, process, stdout));
    vm.close().await
}
