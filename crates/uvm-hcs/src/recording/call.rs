//! Calls that were made, and faults that make them fail.

use std::time::Duration;

use serde::Serialize;
use uvm_wire::{Hresult, RawJson};

/// A call to the host, in the shape of the cases recorded from the original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordedCall {
    /// Which part of the host: `hcs`, `grant`, `hvsock`, `hns`, `hcn`, `process`, `files`; or `guest`, of what a test that
    /// plays the guest has written down.
    pub to: &'static str,
    /// What it was to do: `create_system`.
    pub op: String,
    /// With what: a system's id, a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What was sent along.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<RawJson>,
    /// What was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<RawJson>,
    /// How it failed: the result and what was said of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Of a message to the guest: its type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    /// And its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<u64>,
}

impl RecordedCall {
    /// A call with nothing sent along.
    pub fn new(to: &'static str, op: &str) -> Self {
        Self {
            to,
            op: op.to_owned(),
            id: None,
            json: None,
            answer: None,
            failure: None,
            message_type: None,
            message_id: None,
        }
    }

    pub(super) fn on(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// With what is sent along. A text that is no JSON is kept as a string.
    pub(super) fn with(self, text: &str) -> Self {
        let json = RawJson::parse(text).or_else(|_| RawJson::of(&text)).ok();
        Self { json, ..self }
    }

    /// What was sent along, as text; empty if nothing was.
    pub fn text(&self) -> &str {
        self.json.as_ref().map(RawJson::get).unwrap_or_default()
    }

    /// Part, operation and object, for a list that a test compares.
    pub fn summary(&self) -> String {
        let id = self.id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
        format!("{} {}{id}", self.to, self.op)
    }
}

/// A fault: which calls it fails, and how.
#[derive(Clone, Debug)]
#[must_use = "it fails nothing before it is planted"]
pub struct Fault {
    to: String,
    op: String,
    containing: String,
    skip: usize,
    times: usize,
    failing: Failing,
    later: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Failing {
    Code { code: Hresult, detail: String },
    Hang,
    Late(Duration),
}

impl Fault {
    /// Fails the next call of this operation, with an unspecified failure.
    pub fn on(to: &str, op: &str) -> Self {
        let failing = Failing::Code { code: Hresult::FAIL, detail: String::new() };
        Self {
            to: to.to_owned(),
            op: op.to_owned(),
            containing: String::new(),
            skip: 0,
            times: 1,
            failing,
            later: false,
        }
    }

    /// Only calls whose object or JSON holds this text.
    pub fn containing(self, text: &str) -> Self {
        Self { containing: text.to_owned(), ..self }
    }

    /// Only after this many calls that fit have gone well.
    pub fn after(self, skip: usize) -> Self {
        Self { skip, ..self }
    }

    /// This many calls in a row.
    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }

    /// With this result.
    pub fn code(self, code: Hresult) -> Self {
        let detail = match self.failing {
            Failing::Code { detail, .. } => detail,
            Failing::Hang | Failing::Late(_) => String::new(),
        };
        Self { failing: Failing::Code { code, detail }, ..self }
    }

    /// With what the service says of it.
    pub fn detail(self, detail: &str) -> Self {
        let code = match self.failing {
            Failing::Code { code, .. } => code,
            Failing::Hang | Failing::Late(_) => Hresult::FAIL,
        };
        Self { failing: Failing::Code { code, detail: detail.to_owned() }, ..self }
    }

    /// Only after the call was taken: a system whose creation fails so was there, and is closed.
    pub fn later(self) -> Self {
        Self { later: true, ..self }
    }

    /// Not at all, but by answering so late: the call has been taken then.
    pub fn late(self, by: Duration) -> Self {
        Self { failing: Failing::Late(by), ..self }
    }

    /// By never ending.
    pub fn hang(self) -> Self {
        Self { failing: Failing::Hang, ..self }
    }

    fn fits(&self, call: &RecordedCall) -> bool {
        let holds = |text: &str| text.contains(&self.containing);
        self.to == call.to && self.op == call.op && (call.id.as_deref().is_some_and(holds) || holds(call.text()))
    }
}

/// How the first fault that fits the call makes it fail, if one does, and whether only after it was taken. A used fault
/// is gone.
pub(super) fn first_that_fits(faults: &mut Vec<Fault>, call: &RecordedCall) -> Option<(Failing, bool)> {
    let at = faults.iter().position(|fault| fault.times > 0 && fault.fits(call))?;
    let fault = faults.get_mut(at)?;
    if fault.skip > 0 {
        fault.skip -= 1;
        return None;
    }
    fault.times -= 1;
    let failing = (fault.failing.clone(), fault.later);
    if fault.times == 0 {
        drop(faults.remove(at));
    }
    Some(failing)
}
