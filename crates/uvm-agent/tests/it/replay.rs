//! The recorded conversations of the original hosts, of January 2021 and August 2026, with this agent in the place of the
//! original one: what the host wrote is written again, and what the guest wrote must come again.
//!
//! Responses are compared by their types, ids and keys; texts for people are free where the original has a cause of its
//! own to tell. Before a request is written, all has come that came before it in the recording. Between streams and
//! responses the protocol promises no order for processes of the VM, so each is read where the recording has it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::support::{Host, Message, Over, Stream as HostStream, over_each_link, request, soon};

over_each_link! {
    the_host_of_january_2021_gets_what_it_got_then
    the_host_of_august_2026_gets_what_it_got_then
}

/// What cannot be replayed yet, and why.
const NOT_YET: [(&str, &str); 3] = [
    ("container-life", "makes containers, which answers 0x80004001"),
    ("container-run", "makes containers, which answers 0x80004001"),
    ("container-terminate", "makes containers, which answers 0x80004001"),
];

/// Where this agent differs on purpose: conversation, and the lines that are left out.
fn left_out(conversation: &str, event: &Event) -> bool {
    match (conversation, event.name.as_str()) {
        // The original cannot signal processes of the VM and says that there is no such container. This one announces
        // that it can, and the process would die of it.
        ("exec-killed", "SignalProcess") => true,
        // The original dials first and then finds no program; here no stream is dialled in vain.
        ("exec-missing", "") => event.port.is_some(),
        // What follows on the first two changes, which are refused, mounts layers or looks at what was mounted.
        ("modify", _) => event.id > 2 || event.port.is_some(),
        _ => false,
    }
}

/// Keys of `Capabilities` that the originals have and this agent does not: networks and the update of containers.
const NOT_ANNOUNCED: [&str; 2] = ["NamespaceAddRequestSupported", "UpdateContainerSupported"];

/// One line of a recording.
struct Event {
    what: String,
    from_host: bool,
    name: String,
    kind: u32,
    id: u64,
    port: Option<u32>,
    data: String,
    body: String,
}

impl Event {
    fn parse(line: &str) -> Self {
        let line: BTreeMap<String, Box<RawValue>> = serde_json::from_str(line).expect("a line of JSON");
        let raw = |key: &str| line.get(key).map_or("null", |value| value.get());
        let text = |key: &str| serde_json::from_str::<Option<String>>(raw(key)).expect("text").unwrap_or_default();
        let number = |key: &str| serde_json::from_str::<Option<u64>>(raw(key)).expect("a number");
        let kind = text("type");
        Self {
            what: text("ev"),
            from_host: text("dir") == "H>G",
            name: text("name"),
            kind: kind.strip_prefix("0x").map_or(0, |hex| u32::from_str_radix(hex, 16).expect("hex")),
            id: number("id").unwrap_or_default(),
            port: number("port").map(|port| port.try_into().expect("a port")),
            data: text("data"),
            body: format!("{}{}", raw("body"), text("tail")),
        }
    }
}

/// A host that says what the recorded one said.
struct Replay {
    host: Host,
    streams: HashMap<u32, Stream>,
    /// Ours by the recorded ones.
    processes: BTreeMap<u64, u64>,
    /// Responses that came before their turn.
    early: HashMap<u64, Message>,
    shutting_down: bool,
}

enum Stream {
    Listening(JoinHandle<HostStream>),
    Open(HostStream),
}

impl Replay {
    async fn step(&mut self, event: &Event) {
        match (event.what.as_str(), event.from_host) {
            ("frame", true) => self.request(event).await,
            ("frame", false) => self.response(event).await,
            ("open", _) => drop(self.stream(event).await),
            ("data", true) => {
                self.stream(event).await.write_all(event.data.as_bytes()).await.expect("written");
            }
            ("data", false) => {
                let mut bytes = vec![0; event.data.len()];
                soon(self.stream(event).await.read_exact(&mut bytes)).await.expect("read");
                assert_eq!(String::from_utf8_lossy(&bytes), event.data);
            }
            // A process that has ended needs no input: its end may be gone by then.
            ("eof", true) => drop(self.stream(event).await.shutdown().await),
            ("eof", false) => {
                let count = soon(self.stream(event).await.read(&mut [0])).await.expect("read");
                assert_eq!(count, 0, "more than was recorded");
            }
            // Which end closes first is not recorded: the originals' VMs were ended from outside.
            ("bridge-open" | "bridge-eof", _) => {}
            (other, _) => panic!("{other} in a recording"),
        }
    }

    async fn request(&mut self, event: &Event) {
        let mut body = event.body.clone();
        let json: Value = serde_json::from_str(&body).expect("JSON");
        if let Some(recorded) = json["ProcessId"].as_u64() {
            let ours = self.processes[&recorded];
            body = body.replace(&format!("\"ProcessId\":{recorded}"), &format!("\"ProcessId\":{ours}"));
        }
        let ports = json["Settings"]["VsockStdioRelaySettings"].as_object();
        for port in ports.into_iter().flat_map(|ports| ports.values()).filter_map(Value::as_u64) {
            let port = port.try_into().expect("a port");
            self.streams.insert(port, Stream::Listening(self.host.listen(port)));
        }
        self.host.send(&request(event.kind, event.id, &body)).await;
        self.shutting_down |= event.name.starts_with("Shutdown") && json["ContainerId"] == crate::support::ZERO;
    }

    async fn response(&mut self, event: &Event) {
        let answer = loop {
            if let Some(answer) = self.early.remove(&event.id) {
                break answer;
            }
            let answer = self.host.receive().await;
            assert!(self.early.insert(answer.id, answer).is_none(), "two answers to one request");
        };
        assert_eq!(answer.kind, event.kind, "{}", event.name);
        let recorded: Value = serde_json::from_str(&event.body).expect("JSON");
        let ours = answer.json();
        if event.name == "ResizeConsole" {
            // The original cannot resize consoles of the VM. This one can, if the process is still there.
            assert_eq!(recorded["Result"], 0xc037_010e_u32.cast_signed());
            assert!([0, 0x8007_0490_u32.cast_signed()].map(Value::from).contains(&ours["Result"]), "{ours}");
            return;
        }
        if let (Some(recorded), Some(ours)) = (recorded["ProcessId"].as_u64(), ours["ProcessId"].as_u64()) {
            self.processes.insert(recorded, ours);
        }
        compare(&event.name, &recorded, &ours);
        if recorded["ErrorMessage"].as_str().is_some_and(|text| text.starts_with("HRESULT: ")) {
            assert_eq!(answer.body, event.body, "a failure that is only a code has the same bytes");
        }
    }

    async fn stream(&mut self, event: &Event) -> &mut HostStream {
        let port = event.port.expect("a port");
        let stream = match self.streams.remove(&port).expect("asked for") {
            Stream::Listening(accepting) => soon(accepting).await.expect("joined"),
            Stream::Open(stream) => stream,
        };
        match self.streams.entry(port).insert_entry(Stream::Open(stream)).into_mut() {
            Stream::Open(stream) => stream,
            Stream::Listening(_) => unreachable!("it was just opened"),
        }
    }

    async fn end(mut self) {
        if self.shutting_down {
            soon(self.host.agent.shutdown_wanted()).await;
            self.host.agent.last_call();
            self.host.expect_end().await;
        } else {
            self.host.expect_silence().await;
        }
        assert!(self.early.is_empty(), "answers that were not recorded");
    }
}

/// All that was recorded is in ours too, but process ids and texts; and ours has no keys that only this agent knows, but
/// where it has announced them.
fn compare(name: &str, recorded: &Value, ours: &Value) {
    let context = || format!("{name}: recorded {recorded}\nours {ours}");
    for (key, value) in recorded.as_object().expect("an object") {
        let our = ours.get(key).unwrap_or_else(|| panic!("no {key}: {}", context()));
        match key.as_str() {
            "ProcessId" => assert!(our.as_u64().is_some_and(|id| id > 0), "{}", context()),
            "ErrorMessage" | "GuestStacks" => assert!(our.as_str().is_some_and(|text| !text.is_empty())),
            "ErrorRecords" => {
                let records = our.as_array().expect("a list");
                assert_eq!(records.len(), value.as_array().expect("a list").len(), "{}", context());
                assert_eq!((&records[0]["Result"], &records[0]["ModuleName"]), (&ours["Result"], &"gcs".into()));
            }
            "Capabilities" => compare_capabilities(value, our),
            _ => assert_eq!(our, value, "{}", context()),
        }
    }
    let known = |key: &str| recorded.get(key).is_some() || ["Signal", "Errno"].contains(&key);
    assert!(ours.as_object().expect("an object").keys().all(|key| known(key)), "{}", context());
}

fn compare_capabilities(recorded: &Value, ours: &Value) {
    for key in ["SupportedSchemaVersions", "RuntimeOsType"] {
        assert_eq!(ours[key], recorded[key]);
    }
    for (key, value) in recorded["GuestDefinedCapabilities"].as_object().expect("an object") {
        let our = ours["GuestDefinedCapabilities"].get(key);
        assert_eq!(our, Some(value).filter(|_| !NOT_ANNOUNCED.contains(&key.as_str())), "{key}");
    }
}

async fn replay_year(year: &str, over: Over) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../uvm-wire/tests/transcripts").join(year);
    let entries = std::fs::read_dir(&folder).expect("recordings");
    let conversations: BTreeSet<String> = entries
        .map(|entry| entry.expect("readable").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    for (conversation, _) in NOT_YET {
        assert!(conversations.contains(conversation), "{conversation} is no recording");
    }
    let mut replayed = 0;
    for conversation in &conversations {
        if let Some((_, why)) = NOT_YET.iter().find(|(name, _)| name == conversation) {
            println!("{year}/{conversation} is not replayed: it {why}");
            continue;
        }
        println!("{year}/{conversation}");
        let text = std::fs::read_to_string(folder.join(conversation).with_extension("jsonl")).expect("a recording");
        let mut replay = Replay {
            host: Host::connected(over).await,
            streams: HashMap::new(),
            processes: BTreeMap::new(),
            early: HashMap::new(),
            shutting_down: false,
        };
        for event in text.lines().map(Event::parse).filter(|event| !left_out(conversation, event)) {
            replay.step(&event).await;
        }
        replay.end().await;
        replayed += 1;
    }
    assert_eq!((replayed, conversations.len()), (12, 15));
}

async fn the_host_of_january_2021_gets_what_it_got_then(over: Over) {
    replay_year("h21-g21", over).await;
}

async fn the_host_of_august_2026_gets_what_it_got_then(over: Over) {
    replay_year("h26-g26", over).await;
}
