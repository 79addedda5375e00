//! The agent's log: one entry a line, kept until a host reads it.
//!
//! Entries are JSON objects (`level`, `msg`, `time`, further keys) or text, as the command line asks. They wait in a
//! bounded queue; what does not fit is counted, and the count is an entry of its own.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::Notify;

use crate::flags::{AgentFlags, Level};

/// Bytes of entries that wait for a reader.
const CAPACITY: usize = 256 * 1024;

/// The log. Clones share it.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    level: Level,
    json: bool,
    queue: Mutex<Queue>,
    arrived: Notify,
    written: Notify,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    /// An entry was taken that is not written yet.
    in_hand: bool,
}

impl Log {
    /// A log that takes entries up to the level of `flags`, in their format.
    pub fn new(flags: &AgentFlags) -> Self {
        Self(Arc::new(Shared {
            level: flags.log_level,
            json: flags.log_json,
            queue: Mutex::default(),
            arrived: Notify::new(),
            written: Notify::new(),
        }))
    }

    /// Adds an entry.
    pub fn add(&self, level: Level, message: impl fmt::Display, fields: &[(&str, &dyn fmt::Display)]) {
        if level > self.0.level {
            return;
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = rfc3339(since_1970.as_secs(), since_1970.subsec_nanos());
        let line =
            if self.0.json { json(level, &message, &time, fields) } else { text(level, &message, &time, fields) };
        self.push(line);
    }

    /// An entry that says what went wrong.
    pub fn error(&self, message: impl fmt::Display, cause: &dyn fmt::Display) {
        self.add(Level::Error, message, &[("error", cause)]);
    }

    fn push(&self, line: String) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > CAPACITY {
            queue.dropped += 1;
        } else {
            queue.bytes += line.len();
            queue.lines.push_back(line);
        }
        drop(queue);
        self.0.arrived.notify_one();
    }

    /// Waits for the next entry, with its line end. Cancel-safe. For one reader.
    pub async fn next(&self) -> String {
        loop {
            let arrived = self.0.arrived.notified();
            if let Some(line) = self.try_next() {
                return line;
            }
            arrived.await;
        }
    }

    /// The next entry, if there is one.
    pub fn try_next(&self) -> Option<String> {
        let mut queue = self.lock();
        if let Some(line) = queue.lines.pop_front() {
            queue.bytes -= line.len();
            queue.in_hand = true;
            return Some(line);
        }
        let dropped = std::mem::take(&mut queue.dropped);
        drop(queue);
        if dropped > 0 {
            self.add(Level::Warning, "log entries were dropped: nobody read them", &[("count", &dropped)]);
            return self.try_next();
        }
        None
    }

    /// All entries that were taken have been written.
    pub(crate) fn written(&self) {
        self.lock().in_hand = false;
        self.0.written.notify_waiters();
    }

    /// Waits until nothing is left to write, for a reader that says [`written`](Self::written). The deadline is the caller's.
    pub(crate) async fn all_written(&self) {
        loop {
            let written = self.0.written.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if self.is_written() {
                return;
            }
            written.await;
        }
    }

    fn is_written(&self) -> bool {
        let queue = self.lock();
        queue.lines.is_empty() && !queue.in_hand
    }

    /// Puts back an entry that was taken and could not be handed on.
    pub fn put_back(&self, line: String) {
        let mut queue = self.lock();
        queue.bytes += line.len();
        queue.lines.push_front(line);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn json(level: Level, message: &dyn fmt::Display, time: &str, fields: &[(&str, &dyn fmt::Display)]) -> String {
    let mut entry = Map::new();
    for (key, value) in fields {
        entry.insert((*key).to_owned(), Value::String(value.to_string()));
    }
    entry.insert("level".into(), level.name().into());
    entry.insert("msg".into(), Value::String(message.to_string()));
    entry.insert("time".into(), time.into());
    format!("{}\n", Value::Object(entry))
}

fn text(level: Level, message: &dyn fmt::Display, time: &str, fields: &[(&str, &dyn fmt::Display)]) -> String {
    let mut line = format!("time=\"{time}\" level={} msg={:?}", level.name(), message.to_string());
    for (key, value) in fields {
        let _ = write!(line, " {key}={:?}", value.to_string());
    }
    line.push('\n');
    line
}

/// Seconds and nanoseconds since 1970 as RFC 3339 has them, in UTC.
fn rfc3339(seconds: u64, nanos: u32) -> String {
    // Days to a date by counting from 1 March of year 0: the leap day is the last of its year.
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Says something on the console: for when there is no host to log to, and before the end.
pub fn console(message: impl fmt::Display) {
    // There is nobody to tell that it failed.
    let _ = OpenOptions::new().write(true).open("/dev/console").and_then(|mut c| writeln!(c, "uvm-agent: {message}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(json: bool) -> Log {
        Log::new(&AgentFlags { log_level: Level::Info, log_json: json, ..Default::default() })
    }

    #[tokio::test]
    async fn entries_are_json_objects_with_level_msg_and_time() {
        let log = log(true);
        log.add(Level::Debug, "too verbose", &[]);
        log.add(Level::Warning, "say \"hi\"", &[("pid", &7)]);
        let line = log.next().await;
        let entry: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(
            (&entry["level"], &entry["msg"], &entry["pid"]),
            (&"warning".into(), &"say \"hi\"".into(), &"7".into())
        );
        assert!(entry["time"].as_str().expect("a time").ends_with('Z') && line.ends_with("}\n"), "{line}");
        assert_eq!(log.try_next(), None);
    }

    #[test]
    fn text_is_one_line_too() {
        let log = log(false);
        log.add(Level::Error, "two\nlines", &[("error", &"no")]);
        let line = log.try_next().expect("an entry");
        assert!(line.ends_with(" level=error msg=\"two\\nlines\" error=\"no\"\n"), "{line}");
    }

    #[test]
    fn what_nobody_reads_is_bounded_and_counted() {
        let log = log(true);
        for _ in 0..10_000 {
            log.add(Level::Info, "x".repeat(100), &[]);
        }
        assert!(log.lock().bytes <= CAPACITY);
        let mut lines = Vec::new();
        while let Some(line) = log.try_next() {
            lines.push(line);
        }
        let last = lines.last().expect("entries");
        let count = format!("\"count\":\"{}\"", 10_000 - (lines.len() - 1));
        assert!(last.contains("dropped") && last.contains(&count), "{last} {count}");
        assert_eq!(log.lock().bytes, 0);
    }

    #[test]
    fn dates_are_right() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(rfc3339(seconds, 0), date);
        }
        assert_eq!(rfc3339(1_600_000_000, 5), "2020-09-13T12:26:40.000000005Z");
    }
}
