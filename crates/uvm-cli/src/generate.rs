//! Completion scripts and man pages, from the definition of the command line.

use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::Cli;
use crate::report;

pub(crate) fn completions(shell: clap_complete::Shell) -> anyhow::Result<()> {
    // Its writer must not fail.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "uvm", &mut script);
    report::output(&script)
}

pub(crate) fn man(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
        .with_context(|| format!("cannot write man pages into {}", directory.display()))
}
