//! A recorded conversation, without what the library does not say on purpose.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;
use uvm_testkit::TestResult;
use uvm_wire::header::MessageClass;
use uvm_wire::{Call, MessageType, decode_request};

/// One request that the library does not make, and why.
struct LeftOut {
    conversation: &'static str,
    /// Of the request, in the recordings of both years.
    name: &'static str,
    id: u64,
    why: &'static str,
}

/// Where the library differs on purpose. The answers go with the requests.
const LEFT_OUT: [LeftOut; 3] = [
    LeftOut {
        conversation: "container-life",
        name: "Create",
        id: 10,
        why: "the library has made a container of this id, and does not ask for it twice",
    },
    LeftOut {
        conversation: "unknown-container",
        name: "Start",
        id: 3,
        why: "it does nothing in these guests: the library sends it with Create, and with nothing else",
    },
    LeftOut {
        conversation: "unknown-container",
        name: "GetProperties",
        id: 6,
        why: "guests have no properties of the VM itself: the library asks the host for those",
    },
];

pub(crate) const YEARS: [&str; 2] = ["h21-g21", "h26-g26"];

/// What one host and one guest said to each other.
pub(crate) struct Recording {
    pub(crate) year: &'static str,
    pub(crate) conversation: String,
    pub(crate) lines: Vec<Line>,
}

impl Recording {
    /// All of a year, by name.
    pub(crate) fn all(year: &'static str) -> TestResult<Vec<Self>> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(directory(year))?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        paths.sort();
        paths.iter().map(|path| Self::read(year, path)).collect()
    }

    fn read(year: &'static str, path: &Path) -> TestResult<Self> {
        let conversation = path.file_stem().and_then(|name| name.to_str()).ok_or("a name")?.to_owned();
        let text = std::fs::read_to_string(path)?;
        let mut lines: Vec<Line> = text.lines().map(Line::parse).collect::<Result<_, _>>()?;
        let left_out: Vec<&LeftOut> = LEFT_OUT.iter().filter(|l| l.conversation == conversation).collect();
        for LeftOut { name, id, why, .. } in &left_out {
            let before = lines.len();
            lines.retain(|line| !(line.id == Some(*id) && line.json["name"] == *name));
            assert_eq!(before - lines.len(), 2, "{year}/{conversation} has no {name} {id}: {why}");
        }
        // Ids count up.
        for line in &mut lines {
            line.id = line.id.map(|id| id - left_out.iter().map(|l| u64::from(l.id < id)).sum::<u64>());
        }
        Ok(Self { year, conversation, lines })
    }

    /// Whether it is of a guest of August 2026.
    pub(crate) fn is_newer(&self) -> bool {
        self.year == YEARS[1]
    }

    /// The id of the first container that is made, and the OCI specification it is made of.
    pub(crate) fn first_container(&self) -> TestResult<(String, String)> {
        for line in self.lines.iter().filter(|line| line.json["name"] == "Create") {
            let received = decode_request(MessageType::CREATE, line.body.as_bytes())?;
            if let Call::Create(create) = received.call {
                let specification = create.config.to_linux().map_err(|e| e.to_string())?.specification.get().to_owned();
                return Ok((received.base.container_id.as_str().to_owned(), specification));
            }
        }
        Err("no container is made".into())
    }
}

fn directory(year: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../uvm-wire/tests/transcripts").join(year)
}

/// One line of a recording.
pub(crate) struct Line {
    /// What it says.
    pub(crate) json: Value,
    /// The id of a request or its answer.
    pub(crate) id: Option<u64>,
    /// The body of its frame, as it was written.
    body: String,
}

impl Line {
    fn parse(text: &str) -> serde_json::Result<Self> {
        let raw: HashMap<String, Box<RawValue>> = serde_json::from_str(text)?;
        let body = raw.get("body").map_or_else(String::new, |body| body.get().to_owned());
        let mut line = Self { json: serde_json::from_str(text)?, id: None, body };
        let is_call = line.message_type().is_some_and(|kind| kind.class() != Some(MessageClass::Notification));
        line.id = line.json["id"].as_u64().filter(|_| is_call);
        Ok(line)
    }

    /// That of its frame.
    pub(crate) fn message_type(&self) -> Option<MessageType> {
        let hex = self.json["type"].as_str()?.strip_prefix("0x")?;
        u32::from_str_radix(hex, 16).ok().map(MessageType::from_bits)
    }

    /// The bytes of its frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let Self { json, id, body } = self;
        let kind = self.message_type().expect("it is a frame").bits();
        let tail = json["tail"].as_str().unwrap_or_default();
        let size = u32::try_from(16 + body.len() + tail.len()).expect("small");
        assert_eq!(Some(u64::from(size)), json["size"].as_u64(), "the recording keeps every byte");
        let id = id.unwrap_or_default();
        [&kind.to_le_bytes()[..], &size.to_le_bytes(), &id.to_le_bytes(), body.as_bytes(), tail.as_bytes()].concat()
    }

    /// The request in its frame.
    pub(crate) fn call(&self) -> Call {
        let message_type = self.message_type().expect("it is a frame");
        decode_request(message_type, self.body.as_bytes()).expect("a request").call
    }

    /// Whom it is for.
    pub(crate) fn container_id(&self) -> &str {
        self.json["body"]["ContainerId"].as_str().expect("requests say so")
    }
}
