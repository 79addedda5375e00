//! QMP messages, without I/O.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The longest line taken from QEMU. Its longest answers (schemas, block trees) stay far below.
pub(crate) const MAX_LINE: usize = 4 * 1024 * 1024;

/// QEMU refused a command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("QMP command {command}: {class}: {desc}")]
pub struct QmpError {
    /// The command.
    pub command: String,
    /// QEMU's error class, e.g. `GenericError`, `DeviceNotFound`.
    pub class: String,
    /// QEMU's words.
    pub desc: String,
}

/// Something QEMU told unasked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QmpEvent {
    /// `SHUTDOWN`, `DEVICE_DELETED`, ...
    pub(crate) name: String,
    /// What came with it.
    pub(crate) data: Map<String, Value>,
}

/// A QEMU version: major, minor, micro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion(pub u32, pub u32, pub u32);

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A message from QEMU.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Greeting(QemuVersion),
    Event(QmpEvent),
    Return { id: u64, value: Value },
    Error { id: Option<u64>, class: String, desc: String },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "QMP")]
    greeting: Option<RawGreeting>,
    event: Option<String>,
    data: Option<Map<String, Value>>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    value: Option<Value>,
    error: Option<RawError>,
    id: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawGreeting {
    version: RawVersions,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawVersions {
    qemu: RawVersion,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawVersion {
    major: u32,
    minor: u32,
    micro: u32,
}

/// Tells `"return": null` apart from no `return` at all.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct RawError {
    #[serde(default)]
    class: String,
    #[serde(default)]
    desc: String,
}

/// Decodes one line. `None` for a message that makes no sense here.
pub(crate) fn decode(line: &[u8]) -> Option<Message> {
    let raw: Raw = serde_json::from_slice(line).ok()?;
    if let Some(RawGreeting { version: RawVersions { qemu } }) = raw.greeting {
        return Some(Message::Greeting(QemuVersion(qemu.major, qemu.minor, qemu.micro)));
    }
    if let Some(name) = raw.event {
        return Some(Message::Event(QmpEvent { name, data: raw.data.unwrap_or_default() }));
    }
    if let Some(RawError { class, desc }) = raw.error {
        return Some(Message::Error { id: raw.id, class, desc });
    }
    Some(Message::Return { id: raw.id?, value: raw.value? })
}

/// Encodes one command, with its line end.
pub(crate) fn encode(id: u64, command: &str, arguments: &Value) -> Vec<u8> {
    let mut message = serde_json::json!({ "execute": command, "id": id });
    if !arguments.is_null() {
        message["arguments"] = arguments.clone();
    }
    let mut line = message.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_message_decodes() {
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}}}"#;
        assert_eq!(decode(greeting), Some(Message::Greeting(QemuVersion(7, 2, 22))));
        assert_eq!(decode(br#"{"QMP": {}}"#), Some(Message::Greeting(QemuVersion(0, 0, 0))));
        assert_eq!(
            decode(br#"{"return": {}, "id": 3}"#),
            Some(Message::Return { id: 3, value: serde_json::json!({}) })
        );
        assert_eq!(decode(br#"{"return": null, "id": 3}"#), Some(Message::Return { id: 3, value: Value::Null }));
        let error = br#"{"id": 4, "error": {"class": "GenericError", "desc": "no"}}"#;
        let expected = Message::Error { id: Some(4), class: "GenericError".into(), desc: "no".into() };
        assert_eq!(decode(error), Some(expected));
        let event = br#"{"timestamp": {}, "event": "SHUTDOWN", "data": {"guest": true}}"#;
        let Some(Message::Event(event)) = decode(event) else { panic!("an event") };
        assert_eq!((event.name.as_str(), event.data.get("guest")), ("SHUTDOWN", Some(&Value::Bool(true))));
        for nonsense in [&b"{}"[..], b"", b"[]", b"{\"id\":1}", b"{\"return\":{}}", b"\xff"] {
            assert_eq!(decode(nonsense), None);
        }
    }

    #[test]
    fn commands_are_one_line() {
        assert_eq!(encode(7, "cont", &Value::Null), b"{\"execute\":\"cont\",\"id\":7}\n");
        let args = serde_json::json!({ "a": "x\ny" });
        let line = encode(8, "q", &args);
        assert_eq!(line.iter().position(|&b| b == b'\n'), Some(line.len() - 1));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_lines_never_panic(line: Vec<u8>) {
            let _ = decode(&line);
        }
    }
}
