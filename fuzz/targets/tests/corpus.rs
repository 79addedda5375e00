//! Every input in the corpus, through its target.

use std::fs;
use std::path::Path;

#[test]
fn every_input_of_the_corpus_passes_and_every_target_has_some() {
    for (name, target) in uvm_fuzz_targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
        let inputs = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for input in inputs {
            let path = input.expect("a directory entry").path();
            println!("{}", path.display());
            target(&fs::read(&path).expect("an input"));
            count += 1;
        }
        assert!(count > 0, "no input in {}", folder.display());
    }
}
