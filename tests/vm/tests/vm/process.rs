//! Processes in the VM.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm::{ErrorKind, ProcessExit, ProcessSpec, TerminalSize};
use uvm_testkit::{TestResult, TestVm};

/// Output as text.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec::new(["sh", "-c", script])
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() -> TestResult {
    let vm = TestVm::builder("exits").boot().await?;
    for code in [0, 1, 42, 255] {
        let exit = vm.create_process(&sh(&format!("exit {code}"))).await?.wait().await?;
        assert_eq!(exit, ProcessExit::Code(code));
    }
    for signal in [1, 9, 15] {
        let exit = vm.create_process(&sh(&format!("kill -{signal} $$"))).await?.wait().await?;
        assert_eq!(exit, ProcessExit::Signal(Some(signal)));
    }
    vm.close().await
}

#[tokio::test]
async fn what_cannot_be_run_says_why() -> TestResult {
    let vm = TestVm::builder("norun").boot().await?;
    let error = |spec: ProcessSpec| {
        let vm = &vm;
        async move {
            let error = vm.create_process(&spec).await.expect_err("it cannot be run");
            let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
            let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            (error.kind(), text)
        }
    };
    let (kind, cause) = error(ProcessSpec::new(["no-such-program"])).await;
    assert_eq!(kind, ErrorKind::NotFound, "{cause}");
    assert!(cause.contains("no-such-program"), "{cause}");
    let (kind, cause) = error(ProcessSpec::new(["/etc/passwd"])).await;
    assert_eq!(kind, ErrorKind::PermissionDenied, "{cause}");
    let (kind, cause) = error(ProcessSpec::new(["true"]).with_cwd("/no/such/directory")).await;
    assert_eq!(kind, ErrorKind::InvalidInput, "{cause}");
    assert!(cause.contains("/no/such/directory"), "{cause}");
    let (kind, cause) = error(ProcessSpec::new(Vec::<String>::new())).await;
    assert_eq!(kind, ErrorKind::Guest, "{cause}");
    // None of it has harmed the agent.
    assert!(vm.create_process(&ProcessSpec::new(["true"])).await?.wait().await?.is_success());
    vm.close().await
}

#[tokio::test]
async fn environment_and_directory_are_as_given() -> TestResult {
    let vm = TestVm::builder("env").boot().await?;
    let spec = sh("pwd; env | sort").with_env("PATH", "/bin").with_env("WORD", "two words").with_cwd("/tmp");
    let output = vm.create_process(&spec).await?.output().await?;
    let lines: Vec<&str> = text(&output.stdout).lines().filter(|line| !line.starts_with(['_', 'S', 'O'])).collect();
    assert_eq!(lines, ["/tmp", "PATH=/bin", "PWD=/tmp", "WORD=two words"]);
    vm.close().await
}

#[tokio::test]
async fn outputs_are_kept_apart_and_unwanted_ones_are_closed() -> TestResult {
    let vm = TestVm::builder("outputs").boot().await?;
    let output = vm.create_process(&sh("echo out; echo err >&2")).await?.output().await?;
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n", "err\n"));
    let mut spec = sh("ls /proc/self/fd | head -3 | tr '\\n' ' '");
    spec.stderr = false;
    let output = vm.create_process(&spec).await?.output().await?;
    assert!(!text(&output.stdout).contains('2'), "{:?}", text(&output.stdout));
    vm.close().await
}

#[tokio::test]
async fn signals_reach_a_process_outside_containers() -> TestResult {
    let vm = TestVm::builder("signals").boot().await?;
    let spec = sh("trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.05; done");
    let mut process = vm.create_process(&spec).await?;
    let mut stdout = process.stdout.take().expect("asked for");
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).await?;
    process.signal(10).await?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await?;
    assert_eq!((rest.as_str(), process.wait().await?), ("got it\n", ProcessExit::Code(7)));
    // It has ended: nothing to signal, and no error.
    process.signal(9).await?;
    drop(process);
    vm.close().await
}

#[tokio::test]
async fn a_terminal_echoes_resizes_and_hangs_up() -> TestResult {
    let vm = TestVm::builder("tty").boot().await?;
    let size = TerminalSize { rows: 30, columns: 90 };
    let spec = sh("tty; stty size; read line; stty size; echo got $line; exit 3").with_stdin().with_terminal(size);
    let mut process = vm.create_process(&spec).await?;
    let mut stdout = process.stdout.take().expect("asked for");
    let mut seen = String::new();
    // The whole line: what is typed before its end would come in the middle of it.
    while !seen.contains("30 90\r\n") {
        let mut buffer = [0; 256];
        let count = stdout.read(&mut buffer).await?;
        assert!(count > 0, "{seen}");
        seen += text(&buffer[..count]);
    }
    assert!(seen.starts_with("/dev/pts/"), "{seen}");
    process.resize(TerminalSize { rows: 40, columns: 100 }).await?;
    process.stdin.as_mut().expect("asked for").write_all(b"word\n").await?;
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await?;
    assert!(rest.contains("word\r\n40 100\r\ngot word"), "{rest:?}");
    assert_eq!(process.wait().await?, ProcessExit::Code(3));
    drop(process);
    vm.close().await
}

#[tokio::test]
async fn orphans_are_reaped() -> TestResult {
    let vm = TestVm::builder("orphans").boot().await?;
    // Fifty orphans that end after their parent has.
    let script = "for i in $(seq 50); do (sleep 0.2 &) ; done";
    assert!(vm.create_process(&sh(script)).await?.wait().await?.is_success());
    let zombies = "for i in $(seq 100); do \
                   n=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ' Z '); s=$(pidof sleep | wc -w); \
                   [ $n = 0 ] && [ $s = 0 ] && exit 0; sleep 0.2; done; echo $n zombies, $s sleepers; exit 1";
    let output = vm.create_process(&sh(zombies)).await?.output().await?;
    assert!(output.exit.is_success(), "{}", text(&output.stdout));
    vm.close().await
}

#[tokio::test]
async fn the_guest_has_entropy_clock_loopback_and_the_usual_places() -> TestResult {
    let vm = TestVm::builder("world").boot().await?;
    let script = "set -e; ping -c1 -W5 127.0.0.1 >/dev/null; test -c /dev/null; echo x >/dev/shm/x; echo x >/tmp/x; \
                  echo x >/run/x; test -d /proc/1; test -d /sys/class; hostname; cat /dev/stdin </dev/null; \
                  head -c 16 /dev/random | wc -c; date +%s";
    let output = vm.create_process(&sh(script)).await?.output().await?;
    assert!(output.exit.is_success(), "{}", text(&output.stderr));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines[..2], ["uvm", "16"]);
    let guest: u64 = lines[2].parse()?;
    let host = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    assert!(host.abs_diff(guest) < 60, "the guest's clock is off: {guest}, here {host}");
    vm.close().await
}
