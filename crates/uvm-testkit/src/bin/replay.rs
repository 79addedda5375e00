//! `uvm-replay CASES.json --files FILES.json`: runs cases recorded from the original. Prints them with what was done here on
//! standard output, and how they compare on standard error.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;

use serde_json::Value;
use uvm_testkit::replay::{Replayed, Verdict, read_cases, replay};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [cases, "--files", files] | ["--files", files, cases] => run(cases, files),
        _ => Err("usage: uvm-replay CASES.json --files FILES.json".to_owned()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("uvm-replay: {error}");
        ExitCode::from(2)
    })
}

fn run(cases: &str, files: &str) -> Result<ExitCode, String> {
    let read = |path: &str| {
        let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        read_cases(&text).map_err(|e| format!("{path}: {e}"))
    };
    let (cases, files) = (read(cases)?, read(files)?);
    let mut done = Vec::with_capacity(cases.len());
    let (mut counts, mut missing) = (BTreeMap::<&str, usize>::new(), BTreeMap::<String, usize>::new());
    for case in &cases {
        let Replayed { case, verdict } = replay(case, &files)?;
        eprintln!("{}: {verdict}", case["name"].as_str().unwrap_or("a case without a name"));
        let kind = match verdict {
            Verdict::Same => "pass",
            Verdict::Defects { .. } => "differ by numbered defects",
            Verdict::Differs(_) => "differ",
            Verdict::NotYet(call) => {
                *missing.entry(call).or_default() += 1;
                "not yet"
            }
        };
        *counts.entry(kind).or_default() += 1;
        done.push(case);
    }
    for (call, count) in missing {
        eprintln!("not yet: {call}: {count}");
    }
    let summary: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    eprintln!("{} cases: {}", cases.len(), summary.join(", "));
    println!("{}", Value::Array(done));
    let is_good = counts.keys().all(|kind| matches!(*kind, "pass" | "differ by numbered defects"));
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
