//! This program's own log while a case runs: its level decides what the agent is told to log, and what the guest logs goes
//! into it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, from_str, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// A log that keeps its entries.
#[derive(Clone)]
pub(super) struct Log {
    level: Level,
    entries: Arc<Mutex<Vec<Value>>>,
}

impl Log {
    /// At the level that the original had: `info`, or that in the case's name behind `loglevel/`.
    pub(super) fn of_case(case: &Value) -> Self {
        let name = case["name"].as_str().unwrap_or_default();
        let level = match name.split_once("loglevel/").map(|(_, level)| level) {
            Some("trace") => Level::TRACE,
            Some("debug") => Level::DEBUG,
            Some("warning") => Level::WARN,
            Some("error") => Level::ERROR,
            _ => Level::INFO,
        };
        Self { level, entries: Arc::default() }
    }

    /// What was logged since the last time, in the shape of the recordings.
    pub(super) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let level = event.metadata().level().to_string().to_lowercase();
        let entry = json!({"level": level, "message": entry.message, "fields": entry.fields});
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An entry, with its fields as the original calls them.
#[derive(Default)]
struct Entry {
    message: String,
    fields: Map<String, Value>,
}

impl Entry {
    fn add(&mut self, field: &Field, text: String) {
        let name = match field.name() {
            "message" => {
                self.message = text;
                return;
            }
            // Those that the guest's entry has besides.
            "fields" => {
                if let Ok(Value::Object(fields)) = from_str(&text) {
                    self.fields.extend(fields);
                }
                return;
            }
            "vm" => "uvm-id",
            name => name,
        };
        // Where the guest does not tell the time, the original writes the first of all.
        let text = if name == "vm.time" && text.is_empty() { "0001-01-01T00:00:00Z".to_owned() } else { text };
        self.fields.insert(name.to_owned(), text.into());
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}
