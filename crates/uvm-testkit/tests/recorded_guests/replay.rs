//! A guest on the fake host that says what a recorded one said, and wants to hear what that one heard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::{self, UnboundedSender};
use uvm::{LcowOptions, UtilityVm};
use uvm_platform::Port;
use uvm_platform::fake::{FakeGuestEnd, FakePlatform, FakeStream};
use uvm_testkit::TestResult;
use uvm_testkit::guest::Guest;
use uvm_wire::execute::VsockStdio;
use uvm_wire::{Call, RawJson};

use crate::recording::{Line, Recording};

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
        let number = &recorded.json["n"];
        assert_eq!(Some(received.message_type), recorded.message_type(), "line {number}");
        assert_eq!(Some(received.id), recorded.id, "line {number}");
        assert_eq!(received.request.base.container_id.as_str(), recorded.container_id(), "line {number}");
        let mut call = recorded.call();
        if let Call::ExecuteProcess(call) = &mut call
            && recorded.container_id() == uvm_wire::ContainerId::UVM.as_str()
        {
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
        assert_eq!(comparable(received.request.call), comparable(call.clone()), "line {number}");
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

/// A call whose documents are equal when they say the same: a host may write `&` as `\u0026`.
fn comparable(mut call: Call) -> Call {
    let document = match &mut call {
        Call::Create(create) => &mut create.config.oci_specification,
        Call::ExecuteProcess(call) => &mut call.settings.parameters.oci_process,
        _ => return call,
    };
    if let Some(document) = document {
        let value: Value = serde_json::from_str(document.get()).expect("it is JSON");
        *document = RawJson::of(&value).expect("it was JSON");
    }
    call
}

/// Starts a VM whose guest plays a conversation, lets `host` play the other part, and ends it.
pub(crate) async fn replay<F, G>(recording: &Arc<Recording>, host: F) -> TestResult
where
    F: FnOnce(UtilityVm) -> G,
    G: Future<Output = TestResult>,
{
    let name = format!("{}/{}", recording.year, recording.conversation);
    println!("{name}");
    let (sender, mut verdicts) = mpsc::unbounded_channel();
    let recording = Arc::clone(recording);
    let script = move |end: FakeGuestEnd| {
        let (recording, verdicts) = (Arc::clone(&recording), sender.clone());
        async move {
            // A panic in here is the test's. There is a verdict at the end of the recording, and one at that of the bridge.
            let playing = tokio::spawn(play(end, recording, verdicts.clone()));
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
    assert_eq!(verdict, Ok(Some(Ok(()))), "the guest of {name} got less or something else; {played:?}");
    vm.close().await?;
    if let Ok(Err(why)) = verdicts.try_recv() {
        panic!("the guest of {name} got more than was recorded: {why}");
    }
    played
}

async fn play(end: FakeGuestEnd, recording: Arc<Recording>, verdicts: UnboundedSender<Verdict>) {
    let guest = Guest::boot(&end).await.expect("the host listens");
    let mut replay = Replay { guest, end, streams: HashMap::new() };
    for line in &recording.lines {
        replay.step(line).await;
    }
    // Nobody listens after a failure.
    let _ = verdicts.send(Ok(()));
    // The end of the guest is the answer to the wish for it.
    if recording.conversation == "shutdown" {
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
