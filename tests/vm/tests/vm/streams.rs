//! Standard streams under load: nothing is lost, nothing stalls.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::{ProcessSpec, UtilityVm};
use uvm_testkit::{TestResult, TestVm};

use crate::campaign;
use crate::process::text;

/// Bytes that differ wherever a piece could be lost, doubled or swapped.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[tokio::test]
async fn a_quarter_gigabyte_goes_through_cat_and_back() -> TestResult {
    const BYTES: usize = 256 << 20;
    let vm = TestVm::builder("cat").boot().await?;
    let mut process = vm.create_process(&ProcessSpec::new(["cat"]).with_stdin()).await?;
    let (mut stdin, mut stdout) = (process.stdin.take().expect("asked for"), process.stdout.take().expect("asked for"));
    let sent = pattern(1 << 20);
    let expected = sent.clone();
    let write = async {
        for _ in 0..BYTES / sent.len() {
            stdin.write_all(&sent).await?;
        }
        stdin.finish().await
    };
    let read = async {
        let mut piece = vec![0; expected.len()];
        for index in 0..BYTES / expected.len() {
            stdout.read_exact(&mut piece).await?;
            assert!(piece == expected, "MiB {index} differs");
        }
        stdout.read(&mut piece).await
    };
    let (written, end) = tokio::join!(write, read);
    written?;
    assert_eq!(end?, 0, "more came than was sent");
    assert!(process.wait().await?.is_success());
    drop(process);
    vm.close().await
}

/// A process that writes 8 MiB and exits at once: all of it arrives.
async fn burst(vm: &UtilityVm) -> TestResult {
    let spec = ProcessSpec::new(["sh", "-c", "head -c 8388608 /dev/zero; exit 5"]);
    let output = vm.create_process(&spec).await?.output().await?;
    assert_eq!((output.stdout.len(), output.exit), (8 << 20, uvm::ProcessExit::Code(5)));
    Ok(())
}

#[tokio::test]
async fn output_of_a_process_that_exits_at_once_is_never_cut() -> TestResult {
    let vm = TestVm::builder("burst").boot().await?;
    for _ in 0..campaign::rounds(20, 200) {
        burst(&vm).await?;
    }
    vm.close().await
}

#[tokio::test]
async fn two_hundred_processes_at_once() -> TestResult {
    let vm = TestVm::builder("many").boot().await?;
    let mut running = tokio::task::JoinSet::new();
    for index in 0..200_u32 {
        let vm = (*vm).clone();
        running.spawn(async move {
            let spec = ProcessSpec::new(["sh", "-c", &format!("read line; echo {index} $line; exit {}", index % 100)]);
            let mut process = vm.create_process(&spec.with_stdin()).await?;
            process.stdin.take().expect("asked for").write_all(b"word\n").await?;
            let output = process.output().await?;
            assert_eq!(text(&output.stdout), format!("{index} word\n"));
            assert_eq!(output.exit, uvm::ProcessExit::Code(index % 100));
            TestResult::Ok(())
        });
    }
    while let Some(result) = running.join_next().await {
        result??;
    }
    vm.close().await
}

#[tokio::test]
async fn each_direction_half_closes_by_itself() -> TestResult {
    let vm = TestVm::builder("halves").boot().await?;
    // Its output ends first; its input is still read.
    let spec = ProcessSpec::new(["sh", "-c", "echo bye; exec >&-; wc -c >&2"]).with_stdin();
    let mut process = vm.create_process(&spec).await?;
    let mut out = String::new();
    process.stdout.take().expect("asked for").read_to_string(&mut out).await?;
    assert_eq!(out, "bye\n");
    let mut stdin = process.stdin.take().expect("asked for");
    stdin.write_all(&vec![b'x'; 100_000]).await?;
    stdin.finish().await?;
    let output = process.output().await?;
    assert_eq!(text(&output.stderr).trim(), "100000");

    // Its input ends first; its output goes on.
    let spec = ProcessSpec::new(["sh", "-c", "wc -c; sleep 0.3; echo late"]).with_stdin();
    let mut process = vm.create_process(&spec).await?;
    let mut stdin = process.stdin.take().expect("asked for");
    stdin.write_all(b"12345").await?;
    drop(stdin);
    let output = process.output().await?;
    assert_eq!(text(&output.stdout), "5\nlate\n");
    vm.close().await
}

#[tokio::test]
async fn a_stream_nobody_reads_holds_up_nobody_else() -> TestResult {
    let vm = TestVm::builder("stalled").boot().await?;
    let stalled = vm.create_process(&ProcessSpec::new(["cat", "/dev/zero"])).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..5 {
        let output = vm.create_process(&ProcessSpec::new(["echo", "through"])).await?.output().await?;
        assert_eq!(text(&output.stdout), "through\n");
    }
    stalled.kill().await?;
    assert_eq!(stalled.wait().await?, uvm::ProcessExit::Signal(Some(9)));
    drop(stalled);
    vm.close().await
}

#[tokio::test]
async fn a_reader_that_goes_away_is_a_broken_pipe() -> TestResult {
    let vm = TestVm::builder("epipe").boot().await?;
    let mut process = vm.create_process(&ProcessSpec::new(["yes"])).await?;
    let mut stdout = process.stdout.take().expect("asked for");
    let mut some = [0; 1000];
    stdout.read_exact(&mut some).await?;
    drop(stdout);
    assert_eq!(process.wait().await?, uvm::ProcessExit::Signal(Some(13)));
    drop(process);
    vm.close().await
}
