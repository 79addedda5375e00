//! Every input the fuzzers keep, through the target it was kept for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use uvm_fuzz_targets::TARGETS;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

#[test]
fn every_target_survives_its_corpus() {
    for (name, target) in TARGETS {
        let folder = corpora().join(name);
        let entries =
            fs::read_dir(&folder).unwrap_or_else(|error| panic!("no corpus in {}: {error}", folder.display()));
        let mut inputs = 0;
        for entry in entries {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            // Named before it runs, so that a crash says what it ran.
            println!("{}", path.display());
            target(&input);
            inputs += 1;
        }
        assert!(inputs > 0, "the corpus in {} is empty", folder.display());
    }
}

#[test]
fn every_target_has_a_wrapper_and_every_corpus_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(corpora()), targets);
    assert_eq!(names(corpora().join("../fuzz_targets")), targets);
}
