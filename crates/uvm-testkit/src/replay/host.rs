//! The host of a case: its files, its answers, its faults.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, from_str, json};
use uvm::wire::{Guid, Hresult};
use uvm_hcs::recording::{Fault, RecordedCall, RecordingHcs};
use uvm_hcs::{WinPath, WindowsBuild};

/// What the host is to answer next, as it was recorded.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<VecDeque<Value>>>);

impl Answers {
    /// From now on, what was answered in this call.
    pub(super) fn of_call(&self, call: &Value) {
        let recorded = call["recorded"].as_array().map_or(&[][..], Vec::as_slice);
        let with_answer = recorded.iter().filter(|entry| entry.get("answer").is_some()).cloned();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = with_answer.collect();
    }

    /// The answer that was recorded for such a question.
    fn take(&self, asked: &RecordedCall) -> Option<String> {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let json: Value = from_str(asked.text()).unwrap_or_default();
        let fits = |entry: &Value| entry["to"] == asked.to && entry["op"] == asked.op && entry["json"] == json;
        let at = list.iter().position(fits)?;
        list.remove(at).map(|entry| entry["answer"].to_string())
    }
}

/// The host of this case.
pub(super) fn of_case(case: &Value, files: &[Value], answers: &Answers) -> Result<RecordingHcs, String> {
    let number = |value: &Value, what: &str| {
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| format!("{what} is no number: {value}"))
    };
    let text = |value: &Value, what: &str| value.as_str().map(str::to_owned).ok_or_else(|| format!("no {what}"));
    let runtime_id: Guid =
        text(&case["host"]["runtime_id"], "runtime id")?.parse().map_err(|_| "the runtime id is no GUID")?;
    let own = Own {
        os: if case["os"] == "lcow" { "Linux" } else { "Windows" },
        runtime_id: runtime_id.to_string(),
        capabilities: capabilities(case),
    };
    let answers = answers.clone();
    let host = RecordingHcs::new()
        .with_build(WindowsBuild(number(&case["build"], "build")?))
        .with_logical_processors(number(&case["host"]["logical_processors"], "logical_processors")?)
        .with_runtime_id(runtime_id)
        .with_calls_that_take(Duration::from_millis(1))
        .with_answers(move |asked| answers.take(asked).or_else(|| own.answer(asked)));
    host.set_working_set(runtime_id, WORKING_SET);
    for name in ["kernel", "rootfs.vhd"] {
        host.add_file(&WinPath::new(PROGRAM_FILES).join("Linux Containers").join(name), 16);
    }
    for file in files {
        let path = WinPath::new(text(&file["path"], "path of a file")?);
        if file["dir"] == true {
            host.add_directory(&path);
        } else {
            host.add_file(&path, file["size"].as_u64().unwrap_or_default());
        }
    }
    Ok(host)
}

/// What the guest of a case can do, in the words of the bridge.
pub(super) fn capabilities(case: &Value) -> Value {
    let names = case["guest"]["capabilities"].as_array().map_or(&[][..], Vec::as_slice);
    names.iter().filter_map(Value::as_str).map(|name| (name.to_owned(), json!(true))).collect()
}

/// What the host answers where nothing was recorded.
struct Own {
    os: &'static str,
    runtime_id: String,
    capabilities: Value,
}

impl Own {
    fn answer(&self, asked: &RecordedCall) -> Option<String> {
        if asked.op != "get_properties" {
            return None;
        }
        let wanted: Value = from_str(asked.text()).unwrap_or_default();
        let wants = |name: &str| wanted["PropertyTypes"].as_array().is_some_and(|types| types.contains(&json!(name)));
        let mut answer = json!({
            "Id": asked.id, "SystemType": "VirtualMachine", "RuntimeOsType": self.os, "RuntimeId": self.runtime_id,
            "State": "Running"
        });
        if wants("GuestConnection") {
            answer["GuestConnectionInfo"] = json!({
                "SupportedSchemaVersions": [{"Major": 2, "Minor": 1}], "ProtocolVersion": 4,
                "GuestDefinedCapabilities": self.capabilities
            });
        }
        Some(answer.to_string())
    }
}

/// A planted fault: `None` if it is for the guest.
pub(super) fn fault(args: &Value) -> Result<Option<Fault>, String> {
    let text = |key: &str| args[key].as_str();
    let (to, op) = text("to").zip(text("op")).ok_or("a fault without an aim")?;
    if to == "guest" {
        return Ok(None);
    }
    let count =
        |key: &str, default: usize| args[key].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(default);
    let mut fault = Fault::on(to, op)
        .code(hresult(&args["code"])?)
        .detail(text("result").unwrap_or_default())
        .after(count("skip", 0))
        .times(count("times", 1));
    if let Some(text) = text("match") {
        fault = fault.containing(text);
    }
    if text("result") == Some("async") {
        fault = fault.later();
    }
    Ok(Some(fault))
}

/// A result written as `0x80070005`.
pub(super) fn hresult(value: &Value) -> Result<Hresult, String> {
    let bits = value.as_str().and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    bits.map(Hresult::from_bits).ok_or_else(|| format!("no result: {value}"))
}

/// Where the machine of the recordings kept programs. The original's boot files were there, besides the listed files.
pub(super) const PROGRAM_FILES: &str = r"C:\Program Files";
/// The working set of the process that holds a VM's memory, in bytes.
const WORKING_SET: u64 = 123_456_789;
