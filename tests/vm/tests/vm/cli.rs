//! The command `uvm`, as a user has it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::termios::{LocalModes, Winsize};
use uvm_testkit::TestResult;
use uvm_testkit::leak::LeakCheck;
use uvm_testkit::slot::Slot;
use uvm_testkit::vm::{boot_files, unique};

/// A program that cargo builds into the same directory as this one, by `command`.
pub(crate) fn built(name: &str, command: &str) -> TestResult<PathBuf> {
    let tests = std::env::current_exe()?;
    let target = tests.parent().and_then(|deps| deps.parent()).ok_or("no target directory")?;
    let program = target.join(name);
    if program.is_file() { Ok(program) } else { Err(format!("{} is missing: {command}", program.display()).into()) }
}

fn program() -> TestResult<PathBuf> {
    built("uvm", "cargo build -p uvm-cli")
}

/// A run of `uvm run` with a state directory of its own.
pub(crate) struct Run {
    command: Command,
    leaks: LeakCheck,
    id: String,
    _state: tempfile::TempDir,
    _slot: Slot,
}

impl Run {
    pub(crate) fn new(flags: &[&str], guest_command: &[&str]) -> TestResult<Self> {
        let files = boot_files()?;
        let files = ["--boot-files", files.to_str().ok_or("boot files with a name that is no text")?];
        Self::with_boot_files(&[&files, flags].concat(), guest_command)
    }

    /// The flags say what to boot.
    pub(crate) fn with_boot_files(flags: &[&str], guest_command: &[&str]) -> TestResult<Self> {
        let slot = Slot::take(1)?;
        let state = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
        let id = unique("cli")?;
        let leaks = LeakCheck::begin(id.as_str(), state.path());
        let mut command = Command::new(program()?);
        command.args(["run", "--memory", "512", "--cpus", "1", "--name", id.as_str()]);
        command.args(flags).arg("--").args(guest_command);
        command.env("UVM_STATE_DIR", state.path()).stdin(Stdio::null());
        Ok(Self { command, leaks, id: id.to_string(), _state: state, _slot: slot })
    }

    pub(crate) fn output(mut self, input: &[u8]) -> TestResult<Output> {
        let mut child = self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().ok_or("no input")?.write_all(input)?;
        let output = child.wait_with_output()?;
        self.leaks.pass()?;
        Ok(output)
    }

    fn spawn(mut self) -> TestResult<(Child, Self)> {
        Ok((self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?, self))
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn streams_and_exit_code_are_the_callers() -> TestResult {
    let script = "cat; echo err >&2; exit 42";
    let output = Run::new(&[], &["sh", "-c", script])?.output(b"in and out\n")?;
    assert_eq!(output.status.code(), Some(42), "{}", text(&output.stderr));
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), ("in and out\n", "err\n"));
    Ok(())
}

#[test]
fn vms_of_one_name_in_two_state_directories_leave_each_other_alone() -> TestResult {
    let mut first = Run::new(&[], &["sh", "-c", "echo up; cat"])?;
    let mut child = first.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    assert_eq!(line, "up\n");
    let elsewhere = tempfile::Builder::new().prefix("uvm-test-").tempdir()?;
    let mut second = Command::new(program()?);
    second.args(["run", "--memory", "512", "--cpus", "1", "--name", &first.id, "--boot-files"]).arg(boot_files()?);
    let output = second.args(["echo", "here, too"]).env("UVM_STATE_DIR", elsewhere.path()).output()?;
    assert_eq!(text(&output.stdout), "here, too\n", "{}", text(&output.stderr));
    child.stdin.take().ok_or("no input")?.write_all(b"still here\n")?;
    said.read_to_string(&mut line)?;
    assert_eq!(line, "up\nstill here\n");
    assert!(child.wait()?.success());
    first.leaks.pass()?;
    Ok(())
}

#[test]
fn failures_have_the_codes_of_container_tools() -> TestResult {
    let code = |command: &[&str]| -> TestResult<_> {
        let output = Run::new(&[], command)?.output(b"")?;
        Ok((output.status.code(), text(&output.stderr)))
    };
    let (status, said) = code(&["no-such-program"])?;
    assert_eq!(status, Some(127), "{said}");
    assert!(said.contains("no-such-program"), "{said}");
    assert_eq!(code(&["/etc/passwd"])?.0, Some(126));
    assert_eq!(code(&["sh", "-c", "kill -9 $$"])?.0, Some(137));
    // The option is wrong: the command is there.
    let output = Run::new(&["-w", "/none"], &["sh"])?.output(b"")?;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("working directory \"/none\": No such file"), "{said}");
    let output = Run::new(&["--kernel-arg", "a\nb"], &["true"])?.output(b"")?;
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("kernel boot options"), "{}", text(&output.stderr));
    Ok(())
}

#[test]
fn environment_directory_and_closed_input() -> TestResult {
    let flags = ["--env", "WORD=two words", "-w", "/tmp", "--no-stdin"];
    let output =
        Run::new(&flags, &["sh", "-c", "pwd; echo $WORD; test -e /proc/$$/fd/0 || echo closed"])?.output(b"ignored")?;
    assert_eq!(text(&output.stdout), "/tmp\ntwo words\nclosed\n", "{}", text(&output.stderr));
    Ok(())
}

#[test]
fn output_of_what_outlives_the_command_ends_with_the_vm() -> TestResult {
    let script = "(sleep 1; echo late; sleep 1000) & echo early";
    let output = Run::new(&[], &["sh", "-c", script])?.output(b"")?;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("early\n"), "{}", text(&output.stdout));
    Ok(())
}

#[test]
fn a_slow_reader_gets_all_output() -> TestResult {
    const BYTES: usize = 1_500_000;
    let (mut child, run) = Run::new(&[], &["head", "-c", &BYTES.to_string(), "/dev/zero"])?.spawn()?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    let (mut got, mut pauses) = (0, 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stdout.read(&mut buffer)? {
            0 => break,
            count => got += count,
        }
        if got / (BYTES / 4) > pauses {
            pauses += 1;
            // Longer than output takes to settle and an agent to give up.
            std::thread::sleep(Duration::from_secs(4));
        }
    }
    assert_eq!((got, child.wait()?.code()), (BYTES, Some(0)));
    Ok(run.leaks.pass()?)
}

#[test]
fn one_signal_ends_a_run_whose_command_has_ended() -> TestResult {
    // Nobody reads what it wrote.
    let (mut child, run) = Run::new(&[], &["sh", "-c", "echo ready >&2; head -c 150000 /dev/zero"])?.spawn()?;
    wait_for(child.stderr.as_mut().ok_or("no error output")?, "ready")?;
    std::thread::sleep(Duration::from_secs(4));
    assert!(child.try_wait()?.is_none(), "it waits for its reader");
    signal(&child, Signal::TERM)?;
    let told = Instant::now();
    assert_eq!(child.wait()?.code(), Some(143));
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
    Ok(run.leaks.pass()?)
}

#[test]
fn insisting_ends_a_run_whose_guest_does_not_answer() -> TestResult {
    let (mut child, run) = Run::new(&[], &["sh", "-c", "echo ready; sleep 1000"])?.spawn()?;
    wait_for(child.stdout.as_mut().ok_or("no output")?, "ready")?;
    let qemu = uvm_testkit::leak::processes(&run.id);
    let pid = qemu.iter().find_map(|process| process.split_once(':')).map(|(pid, _)| pid).ok_or("no QEMU")?;
    let qemu = Pid::from_raw(pid.parse()?).ok_or("no QEMU")?;
    rustix::process::kill_process(qemu, Signal::STOP)?;
    for _ in 0..3 {
        signal(&child, Signal::INT)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    let told = Instant::now();
    assert_eq!(child.wait()?.code(), Some(130));
    assert!(told.elapsed() < Duration::from_secs(30), "{:?}", told.elapsed());
    Ok(run.leaks.pass()?)
}

#[test]
fn the_time_limit_ends_the_vm() -> TestResult {
    let output = Run::new(&["--timeout", "20"], &["sleep", "1000"])?.output(b"")?;
    assert_eq!(output.status.code(), Some(124), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("the time is up"));
    Ok(())
}

/// Reads until `word` has come.
fn wait_for(stream: &mut impl Read, word: &str) -> TestResult<String> {
    let mut seen = String::new();
    let mut buffer = [0; 256];
    while !seen.contains(word) {
        match stream.read(&mut buffer)? {
            0 => return Err(format!("it ended with {seen:?}").into()),
            count => seen += &text(&buffer[..count]),
        }
    }
    Ok(seen)
}

fn signal(child: &Child, signal: Signal) -> TestResult {
    Ok(rustix::process::kill_process(Pid::from_child(child), signal)?)
}

#[test]
fn signals_are_passed_on_and_insisting_ends_the_vm() -> TestResult {
    let script = "trap 'echo term; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let (mut child, run) = Run::new(&[], &["sh", "-c", script])?.spawn()?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    wait_for(&mut stdout, "ready")?;
    signal(&child, Signal::TERM)?;
    wait_for(&mut stdout, "term")?;
    assert_eq!(child.wait()?.code(), Some(9));
    run.leaks.pass()?;

    let script = "trap '' INT; echo ready; while :; do sleep 0.05; done";
    let (mut child, run) = Run::new(&[], &["sh", "-c", script])?.spawn()?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    wait_for(&mut stdout, "ready")?;
    let began = Instant::now();
    while child.try_wait()?.is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "it cannot be ended");
        signal(&child, Signal::INT)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(child.wait()?.code(), Some(130));
    Ok(run.leaks.pass()?)
}

#[test]
fn a_signal_while_it_boots_ends_it() -> TestResult {
    let (mut child, run) = Run::new(&[], &["true"])?.spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    signal(&child, Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(143));
    Ok(run.leaks.pass()?)
}

#[test]
fn closing_its_output_is_a_broken_pipe_in_the_guest() -> TestResult {
    let (mut child, run) = Run::new(&[], &["yes"])?.spawn()?;
    let mut stdout = child.stdout.take().ok_or("no output")?;
    wait_for(&mut stdout, "y\ny\n")?;
    drop(stdout);
    assert_eq!(child.wait()?.code(), Some(128 + 13));
    Ok(run.leaks.pass()?)
}

/// Both ends of a terminal of 40 by 120.
fn terminal() -> TestResult<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::termios::tcsetwinsize(&slave, Winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 })?;
    Ok((master, slave))
}

#[test]
fn on_a_terminal_the_guest_has_one_and_the_callers_is_set_back() -> TestResult {
    let (master, slave) = terminal()?;
    let is_raw = |slave: &OwnedFd| -> TestResult<bool> {
        Ok(!rustix::termios::tcgetattr(slave)?.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO))
    };
    for ending in ["exit 3", "kill -9 $$"] {
        let script = format!("stty size; echo ready; read word; echo got $word; {ending}");
        let mut run = Run::new(&[], &["sh", "-c", &script])?;
        run.command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(Stdio::piped());
        let mut child = run.command.spawn()?;
        let mut screen = std::fs::File::from(master.try_clone()?);
        let seen = wait_for(&mut screen, "ready")?;
        assert!(seen.contains("40 120"), "{seen:?}");
        assert!(is_raw(&slave)?, "keys must go to the guest as they are");
        screen.write_all(b"word\r")?;
        wait_for(&mut screen, "got word")?;
        let status = child.wait()?;
        assert_eq!(status.code(), Some(if ending == "exit 3" { 3 } else { 137 }));
        assert!(!is_raw(&slave)?, "after {ending:?}");
        run.leaks.pass()?;
    }
    Ok(())
}

#[test]
fn a_terminal_is_set_back_when_the_program_is_told_to_end() -> TestResult {
    let (master, slave) = terminal()?;
    let mut run = Run::new(&[], &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])?;
    run.command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(Stdio::null());
    let mut child = run.command.spawn()?;
    wait_for(&mut std::fs::File::from(master.try_clone()?), "ready")?;
    while child.try_wait()?.is_none() {
        signal(&child, Signal::TERM)?;
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(child.wait()?.code(), Some(143));
    let modes = rustix::termios::tcgetattr(slave.as_fd())?.local_modes;
    assert!(modes.contains(LocalModes::ICANON | LocalModes::ECHO));
    Ok(run.leaks.pass()?)
}

#[test]
fn doctor_runs_a_vm_and_is_red_when_none_runs() -> TestResult {
    let _slot = Slot::take(1)?;
    let state = tempfile::tempdir()?;
    let doctor = |flags: &[&str]| -> TestResult<(Option<i32>, serde_json::Value)> {
        let mut command = Command::new(program()?);
        command.args(["doctor", "--json"]).args(flags).env("UVM_STATE_DIR", state.path()).stdin(Stdio::null());
        let output = command.stderr(Stdio::null()).output()?;
        Ok((output.status.code(), serde_json::from_slice(&output.stdout)?))
    };
    let (code, found) = doctor(&[])?;
    assert_eq!(code, Some(0), "{found:#}");
    assert_eq!(found["phases_ms"].as_array().map(Vec::len), Some(4), "{found:#}");
    let garbage = state.path().join("initrd");
    std::fs::write(&garbage, [b'x'; 4096])?;
    let (code, found) = doctor(&["--initrd", &garbage.display().to_string()])?;
    assert_eq!(code, Some(1), "{found:#}");
    let failed = found["findings"].as_array().and_then(|all| all.iter().find(|one| one["outcome"] == "failed"));
    assert!(
        failed.is_some_and(|one| one["check"] == "a VM" && one["detail"].to_string().contains("panic")),
        "{found:#}"
    );
    Ok(())
}

#[test]
fn gc_and_ps_tell_what_is_there() -> TestResult {
    let state = tempfile::tempdir()?;
    let uvm = |arguments: &[&str]| -> TestResult<String> {
        let output = Command::new(program()?).args(arguments).env("UVM_STATE_DIR", state.path()).output()?;
        assert!(output.status.success(), "{}", text(&output.stderr));
        Ok(text(&output.stdout))
    };
    // What is no VM's is nobody's to remove, or to write to.
    let photos = state.path().join("photos");
    std::fs::create_dir(&photos)?;
    std::fs::write(photos.join("1.jpg"), "mine")?;
    assert_eq!(uvm(&["gc", "--dry-run"])?, "nothing is left of any VM without an owner\n");
    // The maker of this one was killed.
    std::fs::create_dir(state.path().join(".uvm-part-half-made-0"))?;
    assert!(uvm(&["gc", "--dry-run"])?.contains("would remove half-made"));
    let told: serde_json::Value = serde_json::from_str(&uvm(&["gc", "--json"])?)?;
    assert_eq!(told[0]["id"], "half-made");
    assert_eq!(uvm(&["gc"])?, "nothing is left of any VM without an owner\n");
    assert_eq!(uvm(&["ps", "--json"])?.trim(), "[]");
    let mut left = Vec::new();
    for dir in [state.path(), &photos] {
        for entry in std::fs::read_dir(dir)? {
            left.push(entry?.file_name());
        }
    }
    assert_eq!(left, ["photos", "1.jpg"]);
    Ok(())
}
