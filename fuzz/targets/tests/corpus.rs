//! Every target takes every file of its stored corpus.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use uvm_fuzz_targets::TARGETS;

fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpus")
}

#[test]
fn every_target_survives_its_corpus() {
    for (name, target) in TARGETS {
        let dir = corpus().join(name);
        let files: Vec<_> = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(path).unwrap());
        }
    }
}

#[test]
fn every_corpus_has_a_target_and_every_target_a_program() {
    let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let listed = |dir: PathBuf| -> BTreeSet<String> {
        let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(corpus()), names);
    assert_eq!(listed(corpus().join("../fuzz_targets")), names);
}
