//! The level of this program's own log, which decides what the agent is told to log.

use serde_json::Value;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

/// Has this program log to nobody, for as long as what is returned lives, at the level that the original had: `info`, or
/// that in the case's name behind `loglevel/`.
pub(super) fn of_case(case: &Value) -> Dispatch {
    let name = case["name"].as_str().unwrap_or_default();
    let level = match name.split_once("loglevel/").map(|(_, level)| level) {
        Some("trace") => Level::TRACE,
        Some("debug") => Level::DEBUG,
        Some("warning") => Level::WARN,
        Some("error") => Level::ERROR,
        _ => Level::INFO,
    };
    Dispatch::new(Nobody(level))
}

struct Nobody(Level);

impl Subscriber for Nobody {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.0))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
