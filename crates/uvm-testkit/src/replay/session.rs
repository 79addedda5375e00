//! One case: its host, its guest, its VM, and its calls one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json, to_value};
use tokio::runtime::Builder;
use uvm::UtilityVm;
use uvm_hcs::recording::{RecordedCall, RecordingHcs};
use uvm_hcs::{HcsPlatform, WinPath};

use super::containers::Returned;
use super::guest::{Guest, Script};
use super::host::{self, Answers};
use super::log::Log;
use super::plug::Handle;

/// What a call did.
pub(super) enum Outcome {
    Done(Value),
    Failed {
        error: String,
        /// The name of the original's error that it is.
        is: Option<&'static str>,
        /// What is returned besides.
        returned: Value,
    },
    /// The library does not have it.
    NotYet,
}

impl Outcome {
    pub(super) fn of<T, E: std::error::Error + 'static>(result: Result<T, E>, value: impl FnOnce(T) -> Value) -> Self {
        match result {
            Ok(done) => Self::Done(value(done)),
            Err(error) => Self::failed(&error),
        }
    }

    pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::failed_as(error, None, Value::Null)
    }

    pub(super) fn failed_as(
        error: &(dyn std::error::Error + 'static),
        is: Option<&'static str>,
        returned: Value,
    ) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source());
        let texts: Vec<String> = causes.map(ToString::to_string).collect();
        Self::Failed { error: texts.join(": "), is, returned }
    }

    pub(super) fn refused(error: impl Into<String>) -> Self {
        Self::Failed { error: error.into(), is: None, returned: Value::Null }
    }
}

/// A case while it runs.
pub(super) struct Session {
    pub(super) platform: Arc<HcsPlatform>,
    pub(super) host: RecordingHcs,
    pub(super) case: Value,
    pub(super) defaults: Value,
    pub(super) script: Script,
    guest: Option<Guest>,
    pub(super) vm: Option<UtilityVm>,
    pub(super) handles: BTreeMap<String, Handle>,
    pub(super) returned: Returned,
    pub(super) log: Log,
    /// How many there ever were.
    pub(super) kept: usize,
}

/// Runs a case. The second value is the call that the library does not have, where the case was broken off.
pub(super) fn run(case: &Value, files: &[Value]) -> Result<(Value, Option<String>), String> {
    let log = Log::of_case(case);
    // Everything of a case runs on this thread.
    let _log = tracing::subscriber::set_default(log.clone());
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let limit = tokio::time::timeout(LIMIT, run_here(case, files, log)).await;
        limit.unwrap_or_else(|_| Err("the case does not end".to_owned()))
    })
}

async fn run_here(case: &Value, files: &[Value], log: Log) -> Result<(Value, Option<String>), String> {
    let answers = Answers::default();
    let host = host::of_case(case, files, &answers)?;
    let platform = HcsPlatform::connect(Arc::new(host.clone())).await.map_err(|e| e.to_string())?;
    let executable = WinPath::new(case["host"]["executable"].as_str().ok_or("no executable")?);
    let platform = platform.on_current_runtime().for_program(executable, WinPath::new(host::PROGRAM_FILES));
    host.take_calls();
    let (guest, script) = Guest::new(case, host.clone())?;
    let mut session = Session {
        platform: Arc::new(platform),
        host,
        case: case.clone(),
        defaults: Value::Null,
        script,
        guest: Some(guest),
        vm: None,
        handles: BTreeMap::new(),
        returned: Returned::default(),
        log,
        kept: 0,
    };
    let calls = case["calls"].as_array().ok_or("a case has calls")?;
    let mut done = Vec::with_capacity(calls.len());
    let mut missing = None;
    for call in calls {
        answers.of_call(call);
        let name = call["call"].as_str().ok_or("a call has a name")?;
        let is_for_a_vm = !name.starts_with("NewDefault") && !name.starts_with("Create") && !name.starts_with('#');
        if is_for_a_vm && session.vm.is_none() {
            // Where the original had one and we do not: nothing can be compared any more.
            break;
        }
        let outcome = session.call(name, &call["args"]).await?;
        // Whatever was set off by it happens before the next one.
        tokio::time::sleep(SETTLE).await;
        if matches!(outcome, Outcome::NotYet) {
            missing = Some(name.to_owned());
            break;
        }
        done.push(written(call, outcome, &session.host.take_calls())?);
    }
    let mut ours = case.clone();
    ours["calls"] = Value::Array(done);
    Ok((ours, missing))
}

impl Session {
    /// Has the guest wait for the start of this system. There is one VM in a case.
    pub(super) fn expect_start(&mut self, system: &str) {
        if let Some(guest) = self.guest.take() {
            tokio::spawn(guest.run(system.to_owned()));
        }
    }
}

/// The call with what we did in place of what was recorded.
fn written(call: &Value, outcome: Outcome, recorded: &[RecordedCall]) -> Result<Value, String> {
    let mut ours = Map::new();
    for key in ["call", "args", "unordered", "note"] {
        if let Some(value) = call.get(key) {
            ours.insert(key.to_owned(), value.clone());
        }
    }
    let (error, is, returned) = match outcome {
        Outcome::Done(returned) => (Value::Null, None, returned),
        Outcome::Failed { error, is, returned } => (json!(error), is, returned),
        Outcome::NotYet => (json!("not yet"), None, Value::Null),
    };
    ours.insert("error".to_owned(), error);
    if let Some(is) = is {
        ours.insert("error_is".to_owned(), json!(is));
    }
    if !returned.is_null() {
        ours.insert("returned".to_owned(), returned);
    }
    // The original's recordings tell nothing of files that were changed, or of access that was taken back.
    let is_told = |entry: &RecordedCall| entry.to != "files" && !(entry.to == "grant" && entry.op == "revoke vm");
    let entries: Result<Vec<Value>, _> = recorded.iter().filter(|entry| is_told(entry)).map(to_value).collect();
    ours.insert("recorded".to_owned(), Value::Array(entries.map_err(|e| e.to_string())?));
    Ok(Value::Object(ours))
}

/// Longer than anything takes, by a clock that moves only when nobody can go on.
const LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longer than whatever a call sets off takes.
pub(super) const SETTLE: Duration = Duration::from_secs(1);
