//! The example in the README is the one that is compiled, and it runs.

use std::process::Command;

use uvm_testkit::TestResult;
use uvm_testkit::slot::Slot;

use crate::cli::built;

#[test]
fn the_readmes_example_is_the_one_that_runs() -> TestResult {
    let readme = include_str!("../../../../README.md");
    let example = include_str!("../../../../crates/uvm/examples/hello.rs");
    let code = example.split_once("\n\n").map(|(_, code)| code).ok_or("no code")?;
    assert!(readme.contains(&format!("```rust\n{code}```\n")), "README.md and examples/hello.rs differ");
    let _slot = Slot::take(1)?;
    let output = Command::new(built("examples/hello", "cargo build -p uvm --examples")?).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("hello from Linux ") && said.ends_with("\n(exit code 0)\n"), "{output:?}");
    Ok(())
}
