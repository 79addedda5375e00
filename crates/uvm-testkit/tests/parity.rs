//! `docs/parity.md` is complete and true: every item of the reference and every known defect has a row, and what the rows
//! name is in the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use uvm_testkit::TestResult;

/// Numbers of the known defects.
const DEFECTS: std::ops::RangeInclusive<u32> = 1..=82;
/// Where each thing works.
const HOSTS: [&str; 2] = ["HCS", "HCS, QEMU"];

/// What is in the sources.
#[derive(Default)]
struct Sources {
    tests: BTreeSet<String>,
    /// Names that something public is declared by.
    public: BTreeSet<String>,
}

impl Sources {
    fn read(directory: &Path) -> io::Result<Self> {
        let mut sources = Self::default();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() && !path.ends_with("target") {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    sources.add(&fs::read_to_string(path)?);
                }
            }
        }
        Ok(sources)
    }

    fn add(&mut self, text: &str) {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(name) = declared(line, "fn ") {
                if std::mem::take(&mut is_test) {
                    self.tests.insert(name.to_owned());
                }
                if line.starts_with("pub ") {
                    self.public.insert(name.to_owned());
                }
            } else if line.starts_with("pub ") {
                let kinds = ["struct ", "enum ", "const ", "type ", "pub "];
                self.public.extend(kinds.iter().filter_map(|kind| declared(line, kind)).map(str::to_owned));
            } else if let Some(variant) = line.strip_suffix([',', '{']) {
                // A variant of an enumeration, whose type is looked for, too.
                self.public.insert(variant.trim().to_owned());
            }
        }
    }
}

/// The name behind a keyword.
fn declared<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let (before, after) = line.split_once(keyword)?;
    let is_whole = before.is_empty() || before.ends_with(' ');
    let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
    (is_whole && end > 0).then(|| &after[..end])
}

/// What is between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The rows of the tables, by what their first cell says.
fn rows(text: &str) -> Result<BTreeMap<&str, Vec<&str>>, String> {
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if cells.iter().all(|cell| cell.bytes().all(|c| c == b'-')) {
            continue;
        }
        let name = cells[0].trim_matches('`');
        let is_heading = ["reference", "number", "difference"].contains(&name);
        if rows.insert(name, cells.clone()).is_some() && !is_heading {
            return Err(format!("{name} has two rows"));
        }
    }
    Ok(rows)
}

#[test]
fn every_item_and_every_defect_has_a_row_that_names_what_is_there() -> TestResult {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("docs/parity.md"))?;
    let items = fs::read_to_string(root.join("crates/uvm-testkit/tests/data/reference-items.txt"))?;
    let sources = Sources::read(&root.join("crates"))?;
    let rows = rows(&text)?;
    let mut wrong = Vec::new();
    let mut claimed = BTreeSet::new();
    for item in items.lines() {
        let Some([_, here, tests, hosts, defects]) = rows.get(item).map(Vec::as_slice) else {
            wrong.push(format!("{item}: no row of five cells"));
            continue;
        };
        let unknown = |name: &&str| !name.rsplit("::").all(|part| sources.public.contains(part) || part == "paths");
        let (here, tests) = (quoted(here), quoted(tests));
        wrong.extend(here.iter().filter(|name| unknown(name)).map(|name| format!("{item}: no {name}")));
        let missing = tests.iter().filter(|test| !sources.tests.contains(**test));
        wrong.extend(missing.map(|test| format!("{item}: no test {test}")));
        if here.is_empty() || tests.is_empty() || !HOSTS.contains(hosts) {
            wrong.push(format!("{item}: a cell is empty, or the host is none"));
        }
        claimed.extend(defects.split_whitespace());
    }
    for number in DEFECTS {
        let name = format!("D{number}");
        let Some([_, here, _, tests]) = rows.get(name.as_str()).map(Vec::as_slice) else {
            wrong.push(format!("{name}: no row of four cells"));
            continue;
        };
        let tests = quoted(tests);
        if tests.is_empty() || here.is_empty() {
            wrong.push(format!("{name}: a cell is empty"));
        }
        for test in tests {
            let is_named_after_it = test.split('_').any(|word| *word == *name.to_lowercase());
            if !is_named_after_it || !sources.tests.contains(test) {
                wrong.push(format!("{name}: no test {test}, or not one of it"));
            }
        }
    }
    let known = |defect: &&&str| rows.contains_key(**defect);
    wrong.extend(claimed.iter().filter(|defect| !known(defect)).map(|defect| format!("{defect} is no defect")));
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}
