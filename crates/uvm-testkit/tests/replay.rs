//! The cases recorded from the original, all of them: what we do is what was recorded, or differs for a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;
use uvm_testkit::TestResult;
use uvm_testkit::replay::{Verdict, differences, read_cases, replay};

const FILES: [&str; 10] = [
    "containers.json",
    "create-lcow.json",
    "create-wcow.json",
    "lifecycle.json",
    "network.json",
    "random-create.json",
    "random-operations.json",
    "resources.json",
    "storage-lcow.json",
    "storage-wcow.json",
];

/// How many cases there are, how many are as recorded, and how many differ by the numbered defects they are marked with.
/// The rest is in the lists below.
const CASES: usize = 395;
const SAME: usize = 227;
const DEFECTS: usize = 128;

/// Cases that differ without being marked with a defect, and why.
const DELIBERATE: [(&str, &str); 13] = [
    ("lcow/life/guest-log/then-broken", "what is wrong with a line that is no JSON is said in other words"),
    ("wcow/containers/two/external", "a container needs an id and a configuration"),
    (
        "wcow/containers/process-fails/external",
        "a process whose end the guest will not tell is killed, since nobody would learn of it",
    ),
    ("wcow/scsi/physical-disk/external", "D39: the guest is not told to let go of a disk that it never mounted"),
    ("wcow/scsi/physical-disk/internal", "D39: the guest is not told to let go of a disk that it never mounted"),
    ("lcow/create/option/ProcessorLimit=negative", "a limit is not negative, and is refused before anything is made"),
    ("lcow/create/option/StorageQoS=negative", "a limit is not negative, and is refused before anything is made"),
    ("lcow/create/option/StorageQoS=one-negative", "a limit is not negative, and is refused before anything is made"),
    (
        "lcow/resources/assigned-memory/large",
        "a number that is too large to tell is the largest, not what is left of it",
    ),
    ("lcow/resources/stats/negative/physical=true", "as above, of the processor time"),
    ("wcow/resources/stats/negative/physical=true", "as above, of the processor time"),
    (
        "lcow/life/before-start",
        "the limits of a container cannot change before the start, which is told, not passed over",
    ),
    ("lcow/create/host-fails/properties-2", "the properties are read once, and the second reading is what fails"),
];

/// Random cases, which are marked with no defect: those that show in them.
const UNMARKED: [(&str, &[&str]); 27] = [
    ("lcow/random/05", &["D37", "D53"]),
    ("lcow/random/11", &["D37"]),
    ("lcow/random/13", &["D66"]),
    ("lcow/random/16", &["D37"]),
    ("lcow/random/17", &["D37"]),
    ("lcow/random/23", &["D53"]),
    ("lcow/random/24", &["D53"]),
    ("lcow/random/29", &["D37", "D53"]),
    ("lcow/random/30", &["D37", "D53", "D66"]),
    ("lcow/random/31", &["D37", "D53", "D66"]),
    ("lcow/random/36", &["D37"]),
    ("lcow/random/38", &["D37", "D53"]),
    ("lcow/random/39", &["D53"]),
    ("wcow/random/00", &["D37", "D47", "D53"]),
    ("wcow/random/01", &["D37", "D47", "D50", "D53"]),
    ("wcow/random/02", &["D39", "D47", "D50", "D66"]),
    ("wcow/random/04", &["D37", "D39", "D47", "D66"]),
    ("wcow/random/05", &["D37", "D47", "D50", "D53"]),
    ("wcow/random/15", &["D47", "D50", "D66"]),
    ("wcow/random/16", &["D39", "D47", "D50"]),
    ("wcow/random/22", &["D37", "D47", "D53"]),
    ("wcow/random/25", &["D37", "D47", "D50", "D66"]),
    ("wcow/random/29", &["D47", "D50"]),
    ("wcow/random/30", &["D37", "D47", "D50", "D53", "D66"]),
    ("wcow/random/32", &["D47", "D53", "D66"]),
    ("wcow/random/34", &["D37", "D47", "D50", "D53"]),
    ("wcow/random/35", &["D37", "D39", "D53"]),
];

#[test]
fn the_recorded_cases_are_as_recorded_or_differ_for_a_reason() -> TestResult {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vectors");
    let files = read_cases(&fs::read_to_string(data.join("host_files.json"))?)?;
    // What `cargo xtask replay` printed of the cases that differ by the defects they are marked with, one a line.
    let ours = fs::read_to_string(data.with_file_name("ours.jsonl"))?;
    let ours: Vec<Value> = ours.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut ours: BTreeMap<String, Value> =
        ours.into_iter().map(|case| (case["name"].as_str().unwrap_or_default().to_owned(), case)).collect();
    let (mut cases, mut same, mut defects, mut unmarked) = (0, 0, 0, 0);
    let mut differ = BTreeMap::new();
    for file in FILES {
        for case in read_cases(&fs::read_to_string(data.join(file))?)? {
            let name = case["name"].as_str().ok_or("a case has a name")?.to_owned();
            cases += 1;
            let replayed = replay(&case, &files).map_err(|e| format!("{name}: {e}"))?;
            let marked = match replayed.verdict {
                Verdict::Same => {
                    same += 1;
                    continue;
                }
                Verdict::NotYet(call) => return Err(format!("{name}: the library has no {call}").into()),
                Verdict::Defects { .. } => &mut defects,
                Verdict::Differs(_) if UNMARKED.iter().any(|(unmarked, _)| *unmarked == name) => &mut unmarked,
                Verdict::Differs(differences) => {
                    differ.insert(name, differences);
                    continue;
                }
            };
            let expected = ours.remove(&name).ok_or_else(|| format!("{name}: no answer of ours"))?;
            assert_eq!(differences(&expected, &replayed.case), Vec::<String>::new(), "{name}");
            *marked += 1;
        }
    }
    assert_eq!(ours.keys().next(), None, "an answer of ours that is as recorded is not needed");
    let deliberate: BTreeSet<String> = DELIBERATE.iter().map(|(name, _)| (*name).to_owned()).collect();
    let unexplained: Vec<_> = differ.iter().filter(|(name, _)| !deliberate.contains(*name)).collect();
    assert!(unexplained.is_empty(), "{unexplained:#?}");
    assert_eq!(differ.len(), DELIBERATE.len(), "a case that is as recorded needs no reason");
    assert_eq!((cases, same, defects, unmarked), (CASES, SAME, DEFECTS, UNMARKED.len()));
    Ok(())
}
