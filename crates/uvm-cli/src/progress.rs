//! Progress on standard error, where that is a terminal and nothing else is said there.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use uvm::image::{Progress, ProgressSink};

use crate::report;

/// One line that says what is being done, until it is dropped.
pub(crate) struct Line(Option<ProgressBar>);

impl Line {
    /// A line that says `what`; none without a terminal, or when a log is written there.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        if !is_wanted() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner().with_message(what.into());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(Some(bar))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn is_wanted() -> bool {
    std::io::stderr().is_terminal() && tracing::level_filters::LevelFilter::current() < tracing::Level::INFO
}

/// Says what the making of boot files does: bars on a terminal, else one line a step where `always`.
pub(crate) fn sink(always: bool) -> ProgressSink {
    if !is_wanted() {
        return ProgressSink::new(move |progress| {
            if let (true, Progress::Started { step, detail }) = (always, &progress) {
                report::note(format_args!("{step} {detail}"));
            }
        });
    }
    let current: Arc<Mutex<Option<ProgressBar>>> = Arc::default();
    ProgressSink::new(move |progress| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        match progress {
            Progress::Started { step, detail } => {
                let bar = ProgressBar::new_spinner().with_message(format!("{step} {detail}"));
                bar.enable_steady_tick(Duration::from_millis(100));
                *current = Some(bar);
            }
            Progress::Advanced { done, total, .. } => {
                if let (Some(bar), Some(total)) = (&*current, total) {
                    if bar.length().is_none()
                        && let Ok(style) =
                            ProgressStyle::with_template("{spinner} {msg} {bar:20} {bytes}/{total_bytes}")
                    {
                        bar.set_style(style);
                        bar.set_length(total);
                    }
                    bar.set_position(done);
                }
            }
            Progress::Finished { .. } => {
                if let Some(bar) = current.take() {
                    bar.finish_and_clear();
                }
            }
            Progress::Note { text } => report::note(text),
            _ => {}
        }
    })
}
