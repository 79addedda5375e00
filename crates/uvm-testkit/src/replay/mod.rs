//! Runs cases that were recorded from the original on the library over a Windows host in memory, and compares.
//!
//! A case is a list of calls with options, planted faults, and what each call sent to the host and to the guest. Here the
//! library runs on the Host Compute Service's platform, over [`RecordingHcs`](uvm_hcs::recording::RecordingHcs), with a
//! scripted guest at the other end of a real bridge; the clock stands still while anybody can go on, so that what happens
//! first is written down first. Of a recording only the inputs are read, and what the host is to answer.
//!
//! | module | concept |
//! | --- | --- |
//! | `session` | one case: its calls, one after the other |
//! | `calls` | what a call of the original is here |
//! | `plug` | the same of what is plugged into a VM |
//! | `containers` | the same of containers and processes |
//! | `network` | the same of networks |
//! | `options` | options of the original, from and to JSON |
//! | `host` | the host, its files, its answers, its faults |
//! | `guest` | the guest |
//! | `log` | this program's log, with what the guest logs |
//! | `compare` | whether what we did is what was recorded |

mod calls;
mod compare;
mod containers;
mod guest;
mod host;
mod log;
mod network;
mod options;
mod plug;
mod session;

use std::fmt;

pub use compare::differences;

use serde_json::Value;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As recorded.
    Same,
    /// Otherwise, and the case shows numbered defects of the original.
    Defects {
        /// Their numbers.
        numbers: Vec<String>,
        /// What is otherwise.
        differences: Vec<String>,
    },
    /// Otherwise.
    Differs(Vec<String>),
    /// The library does not have this call.
    NotYet(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, differences: &[String]| {
            differences.iter().try_for_each(|difference| write!(f, "\n    {difference}"))
        };
        match self {
            Self::Same => f.write_str("pass"),
            Self::Defects { numbers, differences } => {
                write!(f, "defects {}", numbers.join(" "))?;
                list(f, differences)
            }
            Self::Differs(differences) => {
                f.write_str("differs")?;
                list(f, differences)
            }
            Self::NotYet(call) => write!(f, "not yet: {call}"),
        }
    }
}

/// A case that was run.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The case with what we did in place of what was recorded.
    pub case: Value,
    /// What became of it.
    pub verdict: Verdict,
}

/// A file of cases, or of one, as a list.
///
/// # Errors
/// It is no JSON of that shape.
pub fn read_cases(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    Ok(match serde_json::from_str(text)? {
        Value::Array(cases) => cases,
        case => vec![case],
    })
}

/// Runs a case on a host with these files.
///
/// # Errors
/// It is no case.
pub fn replay(case: &Value, files: &[Value]) -> Result<Replayed, String> {
    let (ours, missing) = session::run(case, files)?;
    let verdict = missing.map_or_else(|| judge(case, &ours), Verdict::NotYet);
    Ok(Replayed { case: ours, verdict })
}

fn judge(case: &Value, ours: &Value) -> Verdict {
    let differences = differences(case, ours);
    let marks = case["defects"].as_array().map_or(&[][..], Vec::as_slice);
    let numbers: Vec<String> = marks.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    match (differences.is_empty(), numbers.is_empty()) {
        (true, _) => Verdict::Same,
        (false, true) => Verdict::Differs(differences),
        (false, false) => Verdict::Defects { numbers, differences },
    }
}
