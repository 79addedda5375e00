//! The agent's log as it comes from the guest: JSON objects one after the other.
//!
//! The first bytes that are no such object end it: then everything that follows is taken for the dying agent's last words.

use std::io;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};
use uvm_platform::UvmId;

/// The longest entry, in bytes. An agent's are a hundred times shorter.
const MAX_ENTRY: usize = 64 * 1024;
/// The most that is kept of an agent's last words.
const MAX_LAST_WORDS: usize = 256 * 1024;
/// How long last words may take to end, once they have begun.
const LAST_WORDS_DEADLINE: Duration = Duration::from_secs(30);

/// How grave an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// The levels of the agent's log. What is worse than an error is one here: it is not this program that ends.
    fn parse(text: &str) -> Option<Self> {
        match text {
            "panic" | "fatal" | "error" => Some(Self::Error),
            "warning" | "warn" => Some(Self::Warning),
            "info" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            "trace" => Some(Self::Trace),
            _ => None,
        }
    }
}

/// One entry of the agent's log.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GuestLogEntry {
    /// How grave it is. Without one it is `Info`.
    pub level: LogLevel,
    /// What it says.
    pub message: String,
    /// When the guest wrote it, by its clock, as it wrote it (RFC 3339).
    pub time: Option<String>,
    /// Everything else. Whole numbers are integers.
    pub fields: Map<String, Value>,
}

/// Bytes that are no entry of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an entry of the agent's log: {why}")]
pub struct NotALog {
    why: String,
    /// Those bytes and what came behind them so far.
    pub rest: Vec<u8>,
}

/// Cuts a stream of bytes into log entries, without I/O.
#[derive(Debug, Default)]
pub struct GuestLogParser {
    bytes: Vec<u8>,
    /// How many must have come before an unfinished entry is looked at again, if none of them can end it.
    next_look: usize,
}

impl GuestLogParser {
    /// Takes the next bytes and gives the entries that are complete.
    ///
    /// # Errors
    /// [`NotALog`], with the entries before it: nothing that follows is one.
    pub fn push(&mut self, bytes: &[u8]) -> (Vec<GuestLogEntry>, Option<NotALog>) {
        self.bytes.extend_from_slice(bytes);
        // A guest that sends a long entry in small pieces would have each of them cost as much as all of it.
        if self.bytes.len() < self.next_look && !bytes.contains(&b'}') {
            return (Vec::new(), None);
        }
        let mut entries = Vec::new();
        let mut values = serde_json::Deserializer::from_slice(&self.bytes).into_iter::<Map<String, Value>>();
        let failure = loop {
            match values.next() {
                Some(Ok(object)) => entries.push(entry(object)),
                None => break None,
                Some(Err(e)) if e.is_eof() => break None,
                Some(Err(e)) => break Some(e.to_string()),
            }
        };
        let done = values.byte_offset();
        self.bytes.drain(..done);
        self.next_look = (2 * self.bytes.len()).min(MAX_ENTRY + 1);
        let too_long = || (self.bytes.len() > MAX_ENTRY).then(|| format!("it is longer than {MAX_ENTRY} bytes"));
        let failure = failure.or_else(too_long).map(|why| NotALog { why, rest: std::mem::take(&mut self.bytes) });
        (entries, failure)
    }
}

fn entry(mut object: Map<String, Value>) -> GuestLogEntry {
    let mut text = |key: &str| match object.remove(key) {
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
        None => None,
    };
    let level = text("level").as_deref().and_then(LogLevel::parse).unwrap_or(LogLevel::Info);
    let (message, time) = (text("msg").unwrap_or_default(), text("time"));
    let fields = object.into_iter().map(|(key, value)| (key, whole(value))).collect();
    GuestLogEntry { level, message, time, fields }
}

/// `1.0` is how some agents write 1.
fn whole(value: Value) -> Value {
    match value.as_f64().filter(|_| value.is_f64()) {
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked: every such number is exact")]
        Some(number) if number.fract() == 0.0 && number.abs() < 9e15 => Value::from(number as i64),
        _ => value,
    }
}

/// Reads the log until its end and hands each entry to [`tracing`].
pub(super) async fn to_tracing(id: &UvmId, mut stream: impl AsyncRead + Unpin) {
    let mut parser = GuestLogParser::default();
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let count = match stream.read(&mut buffer).await {
            Ok(count @ 1..) => count,
            Ok(_) => return,
            // The VM is gone, as VMs go.
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted) => return,
            Err(e) => return tracing::error!(vm = %id, error = %e, "gcs log read"),
        };
        let (entries, failure) = parser.push(&buffer[..count]);
        for entry in entries {
            trace(id, &entry);
        }
        if let Some(failure) = failure {
            tracing::error!(vm = %id, error = %failure, "gcs log read");
            return last_words(id, failure.rest, stream).await;
        }
    }
}

async fn last_words(id: &UvmId, mut words: Vec<u8>, stream: impl AsyncRead + Unpin) {
    let room = MAX_LAST_WORDS.saturating_sub(words.len()) as u64;
    // However it ends, what was read is told.
    let _ = tokio::time::timeout(LAST_WORDS_DEADLINE, stream.take(room).read_to_end(&mut words)).await;
    let text = String::from_utf8_lossy(&words);
    let text = text.trim();
    if !text.is_empty() {
        tracing::error!(vm = %id, stderr = text, "gcs terminated");
    }
}

fn trace(id: &UvmId, entry: &GuestLogEntry) {
    let (message, time) = (&entry.message, entry.time.as_deref().unwrap_or_default());
    let fields = if entry.fields.is_empty() { String::new() } else { Value::Object(entry.fields.clone()).to_string() };
    macro_rules! event {
        ($level:ident) => {
            tracing::event!(target: "uvm::guest", tracing::Level::$level, vm = %id, vm.time = time, fields, "{message}")
        };
    }
    match entry.level {
        LogLevel::Error => event!(ERROR),
        LogLevel::Warning => event!(WARN),
        LogLevel::Info => event!(INFO),
        LogLevel::Debug => event!(DEBUG),
        LogLevel::Trace => event!(TRACE),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing::field::{Field, Visit};

    use super::*;

    #[test]
    fn an_unfinished_entry_is_not_looked_at_for_each_of_its_pieces() {
        let mut parser = GuestLogParser::default();
        let mut looks = 0;
        assert_eq!(parser.push(b"{\"msg\":\"").1, None);
        for _ in 0..MAX_ENTRY - 8 {
            let before = parser.next_look;
            assert_eq!(parser.push(b"x"), (vec![], None));
            looks += usize::from(parser.next_look != before);
        }
        assert!(looks < 20, "{looks}");
        assert!(parser.push(b"x").1.is_some_and(|failure| failure.rest.len() == MAX_ENTRY + 1));
    }

    #[test]
    fn entries_are_objects_in_any_chunks() {
        let text = r#"{"level":"warning","msg":"a","time":"t1","n":1.0,"x":1.5,"big":18446744073709551615}
{"msg":"b"} {"level":"fatal","msg":7,"level2":"x"}"#;
        for chunk in [1, 3, text.len()] {
            let mut parser = GuestLogParser::default();
            let mut entries = Vec::new();
            for bytes in text.as_bytes().chunks(chunk) {
                let (more, failure) = parser.push(bytes);
                assert_eq!(failure, None);
                entries.extend(more);
            }
            assert_eq!(entries.len(), 3);
            assert_eq!((entries[0].level, entries[0].message.as_str()), (LogLevel::Warning, "a"));
            assert_eq!(entries[0].time.as_deref(), Some("t1"));
            let fields = json!({"n": 1, "x": 1.5, "big": u64::MAX});
            assert_eq!(Value::Object(entries[0].fields.clone()), fields);
            assert_eq!((entries[1].level, &entries[1].time), (LogLevel::Info, &None));
            assert_eq!((entries[2].level, entries[2].message.as_str()), (LogLevel::Error, "7"));
        }
    }

    #[test]
    fn what_is_no_object_ends_the_log_and_is_kept() {
        let mut parser = GuestLogParser::default();
        let (entries, failure) = parser.push(b"{\"msg\":\"a\"}\npanic: oh no\n\ngoroutine 1");
        assert_eq!(entries.len(), 1);
        let rest = failure.expect("no object").rest;
        assert_eq!(String::from_utf8_lossy(&rest).trim(), "panic: oh no\n\ngoroutine 1");
    }

    #[test]
    fn an_endless_entry_is_not_kept() {
        let mut parser = GuestLogParser::default();
        assert_eq!(parser.push(b"{\"msg\":\""), (vec![], None));
        let pushes = std::iter::repeat_n(&[b'x'; 16], MAX_ENTRY);
        let failure = pushes.map(|bytes| parser.push(bytes).1).find_map(|failure| failure).expect("it gives up");
        assert!(failure.rest.len() <= MAX_ENTRY + 16 && failure.to_string().contains("longer than 65536"), "{failure}");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_neither_panic_nor_pile_up(chunks: Vec<Vec<u8>>) {
            let mut parser = GuestLogParser::default();
            for chunk in chunks {
                if parser.push(&chunk).1.is_some() {
                    break;
                }
                assert!(parser.bytes.len() <= MAX_ENTRY);
            }
        }
    }

    /// Collects events as text.
    #[derive(Clone, Default)]
    struct Collector(Arc<Mutex<Vec<String>>>);

    impl tracing::Subscriber for Collector {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut line = event.metadata().level().to_string();
            event.record(&mut Line(&mut line));
            self.0.lock().expect("not poisoned").push(line);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    struct Line<'a>(&'a mut String);

    impl Visit for Line<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            write!(self.0, " {}={value:?}", field.name()).expect("text");
        }
    }

    async fn traced(bytes: &'static [u8]) -> Vec<String> {
        let collector = Collector::default();
        let guard = tracing::subscriber::set_default(collector.clone());
        to_tracing(&UvmId::new("vm-7").expect("valid"), bytes).await;
        drop(guard);
        let lines = collector.0.lock().expect("not poisoned");
        lines.clone()
    }

    #[tokio::test]
    async fn d14_every_line_carries_the_vms_id() {
        let lines = traced(b"{\"level\":\"panic\",\"msg\":\"hi\",\"time\":\"now\",\"pid\":4}\n{}").await;
        assert_eq!(lines[0], r#"ERROR message=hi vm=vm-7 vm.time="now" fields="{\"pid\":4}""#);
        assert!(lines[1].starts_with("INFO") && lines[1].contains("vm=vm-7"), "{lines:?}");
    }

    #[tokio::test]
    async fn a_dying_agents_last_words_are_one_entry() {
        let lines = traced(b"{\"msg\":\"ok\"}\npanic: x\n\ngoroutine 1 [running]\n").await;
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[1].contains("gcs log read"), "{lines:?}");
        assert!(lines[2].contains("gcs terminated") && lines[2].contains("goroutine 1 [running]"), "{lines:?}");
    }
}
