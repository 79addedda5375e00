//! The recorded conversations of the original guests, of January 2021 and August 2026, with our library in the place of
//! the original host: what the host wrote must come again, and what the guest wrote is written again, byte for byte.
//!
//! Requests are compared by their types, ids and calls; the bytes of our own encoder are compared with these recordings
//! elsewhere. A closed output is not waited for: the guest's end of a process of the VM does not depend on it.

#![cfg(target_os = "linux")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{self, UnboundedSender};
use uvm::{LcowOptions, Process, ProcessExit, ProcessSpec, TerminalSize, UtilityVm, UvmError};
use uvm_platform::Port;
use uvm_platform::fake::{FakeGuestEnd, FakePlatform, FakeStream};
use uvm_testkit::TestResult;
use uvm_testkit::guest::Guest;
use uvm_wire::execute::VsockStdio;
use uvm_wire::{Call, MessageType, decode_request};

/// What is not replayed, and why.
const NOT_YET: [(&str, &str); 5] = [
    ("container-life", "plugs disks and layers into the VM"),
    ("container-run", "plugs disks and layers into the VM"),
    ("container-terminate", "plugs disks and layers into the VM"),
    ("modify", "plugs disks and layers into the VM"),
    ("unknown-container", "speaks of containers that the library has no handle of, so it cannot even ask"),
];
/// Boot files, empty ones, with the original's agent: then none of ours is insisted on.
const MANIFEST: &str = r#"{
    "format": 1,
    "agent": {
        "kind": "original",
        "version": "recorded",
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    },
    "kernel": {"name": "none", "release": "6.1.0", "image": "bzimage", "hz": null},
    "busybox": null,
    "modules": [],
    "files": {
        "kernel": {"size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        "initrd.img": {"size": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    }
}"#;
/// Nothing here takes longer, on the slowest machine.
const DEADLINE: Duration = Duration::from_secs(30);
/// The variable that all recorded processes have.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One line of a recording.
struct Line {
    /// What it says.
    json: Value,
    /// The body of its frame, as it was written.
    body: String,
}

impl Line {
    fn parse(text: &str) -> serde_json::Result<Self> {
        let raw: HashMap<String, Box<RawValue>> = serde_json::from_str(text)?;
        let body = raw.get("body").map_or_else(String::new, |body| body.get().to_owned());
        Ok(Self { json: serde_json::from_str(text)?, body })
    }

    /// The bytes of its frame.
    fn frame(&self) -> Vec<u8> {
        let Self { json, body } = self;
        let hex = json["type"].as_str().and_then(|text| text.strip_prefix("0x")).expect("hex");
        let kind = u32::from_str_radix(hex, 16).expect("hex");
        let tail = json["tail"].as_str().unwrap_or_default();
        let size = u32::try_from(16 + body.len() + tail.len()).expect("small");
        assert_eq!(Some(u64::from(size)), json["size"].as_u64(), "the recording keeps every byte");
        let id = json["id"].as_u64().expect("an id");
        [&kind.to_le_bytes()[..], &size.to_le_bytes(), &id.to_le_bytes(), body.as_bytes(), tail.as_bytes()].concat()
    }
}

/// A guest that says what the recorded one said.
struct Replay {
    guest: Guest,
    end: FakeGuestEnd,
    streams: HashMap<u32, FakeStream>,
}

impl Replay {
    async fn step(&mut self, recorded: &Line) {
        let line = &recorded.json;
        let from_host = line["dir"] == "H>G";
        match (line["ev"].as_str().expect("a kind"), from_host) {
            ("frame", true) => self.request(recorded).await,
            ("frame", false) => self.guest.write(&recorded.frame()).await.expect("the host reads"),
            ("data", true) => {
                let expected = line["data"].as_str().expect("data");
                let mut bytes = vec![0; expected.len()];
                self.stream(line).read_exact(&mut bytes).await.expect("read");
                assert_eq!(String::from_utf8_lossy(&bytes), expected);
            }
            ("data", false) => {
                self.stream(line).write_all(line["data"].as_str().expect("data").as_bytes()).await.expect("written");
            }
            // A host may have dropped the whole stream by now, and with it this half.
            ("eof", false) => drop(self.stream(line).shutdown().await),
            ("eof", true) if line["stream"] == "stdin" => {
                assert_eq!(self.stream(line).read(&mut [0]).await.expect("read"), 0, "more than was recorded");
            }
            _ => {}
        }
    }

    async fn request(&mut self, recorded: &Line) {
        let received = self.guest.next().await.expect("a request").expect("not the end");
        let (line, recorded) = (&recorded.json, recorded.frame());
        let message_type = MessageType::from_bits(u32::from_le_bytes(recorded[..4].try_into().expect("four")));
        assert_eq!((received.message_type, received.id), (message_type, line["id"].as_u64().expect("an id")));
        let mut call = decode_request(message_type, &recorded[16..]).expect("a request").call;
        if let Call::ExecuteProcess(call) = &mut call {
            let parameters = &mut call.settings.parameters;
            // The library always says where: where the original's hosts leave it to the guest, that is the root.
            if parameters.working_directory.is_empty() {
                parameters.working_directory = "/".into();
            }
            // It has no command lines, only arguments.
            if parameters.command_args.is_empty() {
                parameters.command_line.clear();
                parameters.command_args = ["/bin/echo", "a b", "c d", "e f"].map(Into::into).into();
            }
        }
        assert_eq!(received.request.call, call, "line {}", line["n"]);
        if let Call::ExecuteProcess(call) = &call {
            self.dial(&call.settings.vsock_stdio.unwrap_or_default()).await;
        }
    }

    /// A guest dials before it starts a process and answers. The recordings have some of it later: these are other
    /// sockets, which the recorder looked at in its own order.
    async fn dial(&mut self, stdio: &VsockStdio) {
        for port in [stdio.stdin, stdio.stdout, stdio.stderr].into_iter().flatten() {
            let stream = self.end.dial(Port(port.get())).await.expect("the host listens");
            self.streams.insert(port.get(), stream);
        }
    }

    fn stream(&mut self, line: &Value) -> &mut FakeStream {
        let port = line["port"].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
        self.streams.get_mut(&port).expect("open")
    }
}

/// Where the library differs on purpose.
fn left_out(conversation: &str, line: &Value) -> bool {
    // The library knows that these guests can neither signal nor resize processes of the VM, and does not ask.
    match conversation {
        "exec-killed" => line["name"] == "SignalProcess",
        "exec-tty" => line["name"] == "ResizeConsole",
        _ => false,
    }
}

/// Starts a VM whose guest plays a conversation, lets `host` play the other part, and ends it.
async fn replay<F, G>(year: &str, conversation: &'static str, host: F) -> TestResult
where
    F: FnOnce(UtilityVm) -> G,
    G: Future<Output = TestResult>,
{
    println!("{year}/{conversation}");
    let text = std::fs::read_to_string(recordings(year).join(conversation).with_extension("jsonl"))?;
    let lines: Vec<Line> = text.lines().map(Line::parse).collect::<Result<_, _>>()?;
    let (sender, mut verdicts) = mpsc::unbounded_channel();
    let lines = Arc::new(lines);
    let script = move |end: FakeGuestEnd| {
        let (lines, verdicts) = (Arc::clone(&lines), sender.clone());
        async move {
            // A panic in here is the test's. There is a verdict at the end of the recording, and one at that of the bridge.
            let playing = tokio::spawn(play(end, conversation, lines, verdicts.clone()));
            let _ = verdicts.send(playing.await.map_err(|e| e.to_string()));
        }
    };
    let boot_files = tempfile::tempdir()?;
    for (file, text) in [("kernel", ""), ("initrd.img", ""), ("manifest.json", MANIFEST)] {
        std::fs::write(boot_files.path().join(file), text)?;
    }
    let options = LcowOptions::default().with_boot_files(boot_files.path());
    let vm = UtilityVm::create_lcow_on(Arc::new(FakePlatform::new().with_guest(script)), &options).await?;
    vm.start().await?;
    let played = host(vm.clone()).await;
    let verdict = tokio::time::timeout(DEADLINE, verdicts.recv()).await;
    assert_eq!(verdict, Ok(Some(Ok(()))), "the guest of {year}/{conversation} got less or something else; {played:?}");
    vm.close().await?;
    if let Ok(Err(why)) = verdicts.try_recv() {
        panic!("the guest of {year}/{conversation} got more than was recorded: {why}");
    }
    played
}

async fn play(end: FakeGuestEnd, conversation: &str, lines: Arc<Vec<Line>>, verdicts: UnboundedSender<Verdict>) {
    let guest = Guest::boot(&end).await.expect("the host listens");
    let mut replay = Replay { guest, end, streams: HashMap::new() };
    for line in lines.iter().filter(|line| !left_out(conversation, &line.json)) {
        replay.step(line).await;
    }
    // Nobody listens after a failure.
    let _ = verdicts.send(Ok(()));
    // The end of the guest is the answer to the wish for it.
    if conversation == "shutdown" {
        return;
    }
    // The host may say one thing more: that the VM is to end.
    if let Ok(Some(more)) = replay.guest.next().await {
        let end = matches!(more.request.call, Call::ShutdownGraceful(_) | Call::ShutdownForced(_));
        assert!(end, "{} was not recorded", more.message_type);
    }
}

/// What a guest says of its host: nothing, or what it has done wrong.
type Verdict = Result<(), String>;

fn recordings(year: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../uvm-wire/tests/transcripts").join(year)
}

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec::new(["/bin/sh", "-c", script]).with_env("PATH", PATH)
}

async fn run(vm: &UtilityVm, spec: &ProcessSpec) -> TestResult<(ProcessExit, String, String)> {
    let output = vm.create_process(spec).await?.output().await?;
    Ok((output.exit, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

async fn type_in(process: &mut Process, text: &str) -> TestResult {
    process.stdin.as_mut().expect("asked for").write_all(text.as_bytes()).await?;
    process.close_stdin().await?;
    Ok(())
}

fn ended(code: u32, stdout: &str, stderr: &str) -> (ProcessExit, String, String) {
    (ProcessExit::Code(code), stdout.to_owned(), stderr.to_owned())
}

async fn replay_year(year: &str) -> TestResult {
    replay(year, "negotiate", |_| async { Ok(()) }).await?;
    replay(year, "exec-true", |vm| async move {
        let spec = ProcessSpec::new(["/bin/true"]).with_env("PATH", PATH);
        assert_eq!(run(&vm, &spec).await?, ended(0, "", ""));
        Ok(())
    })
    .await?;
    replay(year, "exec-exit42", |vm| async move {
        assert_eq!(run(&vm, &shell("exit 42")).await?, ended(42, "", ""));
        Ok(())
    })
    .await?;
    replay(year, "exec-output", |vm| async move {
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
    })
    .await?;
    replay(year, "exec-cat-stdin", |vm| async move {
        let spec = ProcessSpec::new(["/bin/cat"]).with_env("PATH", PATH).with_stdin();
        let mut process = vm.create_process(&spec).await?;
        type_in(&mut process, "hello\nbridge\n").await?;
        assert_eq!(process.output().await?.stdout, b"hello\nbridge\n");
        Ok(())
    })
    .await?;
    replay(year, "exec-killed", |vm| async move {
        assert_eq!(run(&vm, &shell("kill -9 $$")).await?.0, ProcessExit::Signal(None));
        let mut spec = ProcessSpec::new(["/bin/cat"]).with_stdin();
        spec.stderr = false;
        let mut process = vm.create_process(&spec).await?;
        assert!(matches!(process.signal(15).await, Err(UvmError::GuestUnsupported { .. })));
        type_in(&mut process, "still here").await?;
        assert_eq!(process.output().await?.stdout, b"still here");
        Ok(())
    })
    .await?;
    replay(year, "exec-missing", |vm| async move {
        let spec = ProcessSpec::new(["/no/such/program"]).with_env("PATH", PATH);
        let error = vm.create_process(&spec).await.expect_err("there is no such program");
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let text: Vec<String> = causes.map(ToString::to_string).collect();
        let text = text.join(": ");
        assert!(text.contains("/no/such/program: no such file or directory"), "{text}");
        Ok(())
    })
    .await?;
    replay(year, "exec-tty", |vm| async move {
        let size = TerminalSize { rows: 30, columns: 90 };
        let spec = shell("test -t 0 && test -t 1 && echo tty").with_env("TERM", "xterm").with_stdin();
        let process = vm.create_process(&spec.with_terminal(size)).await?;
        let resized = process.resize(TerminalSize { rows: 40, columns: 100 }).await;
        assert!(matches!(resized, Err(UvmError::GuestUnsupported { .. })));
        let output = process.output().await?;
        assert_eq!((output.exit, output.stdout.as_slice()), (ProcessExit::Code(0), &b"tty\r\n"[..]));
        Ok(())
    })
    .await?;
    replay(year, "dump-stacks", |vm| async move {
        assert!(vm.dump_stacks().await?.starts_with("goroutine "));
        Ok(())
    })
    .await?;
    replay(year, "shutdown", |vm| async move {
        vm.shutdown().await?;
        vm.wait().await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_guest_of_january_2021_is_served_as_it_was_then() -> TestResult {
    replay_year("h21-g21").await
}

#[tokio::test]
async fn the_guest_of_august_2026_is_served_as_it_was_then() -> TestResult {
    replay_year("h26-g26").await
}

#[test]
fn every_recording_is_replayed_or_listed() {
    for year in ["h21-g21", "h26-g26"] {
        let count = std::fs::read_dir(recordings(year)).expect("recordings").count();
        assert_eq!(count, 10 + NOT_YET.len());
        for (conversation, why) in NOT_YET {
            assert!(recordings(year).join(conversation).with_extension("jsonl").exists());
            println!("{year}/{conversation} is not replayed: it {why}");
        }
    }
}
