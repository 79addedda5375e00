//! Set-up, checks, measurements and campaigns: `cargo xtask COMMAND`, or `./dev COMMAND` on a machine without a linker.

mod bench;
mod bounded;
mod ci;
mod overlay;
mod policy;
mod public;
mod setup;
mod shell;
mod soak;
mod wine;

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use shell::Cmd;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup          install what is missing, build the agent and the command, make boot files
  run [COMMAND]  set up, then run COMMAND (default: a greeting, uname -a, uptime) in a VM;
                 the exit code is COMMAND's
  ci             all that CI checks, by stage, with a budget for each
  windows        the tests for Windows, under wine
  packages       pack what is public, and compare its interfaces with those of an earlier commit
  bench [NAME]   measure, against references in the same run; NAME: see `bench list`
  soak NAME      a long campaign; NAME: see `soak list`
  replay CASES.json --files FILES.json
                 run cases recorded from the original; prints them with what was done here
  image ARGS     the same as `uvm image ARGS`
  wine PROGRAM [ARGUMENT...]
                 run a program for Windows, in a prefix of the project's own; everything is ended after 5 minutes
  man DIR        write man pages and shell completions into DIR
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let result = match command {
        "setup" => setup::all(),
        "run" => return run(rest),
        "ci" => ci::run(),
        "windows" => ci::windows_tests(),
        "packages" => ci::packages(),
        "bench" => bench::run(rest),
        "soak" => soak::run(rest),
        "image" => setup::all().and_then(|()| Cmd::new(setup::UVM).arg("image").args(rest).run()),
        "replay" => return replay(rest),
        "man" => man(rest),
        "wine" => match wine::run(rest) {
            Ok(code) => return code.into(),
            Err(error) => Err(error),
        },
        _ => {
            eprint!("{USAGE}");
            return if matches!(command, "help" | "--help" | "-h") { ExitCode::SUCCESS } else { ExitCode::from(2) };
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask {command}: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The exit code is the command's, as that of `uvm run` is; and as there 125, if it was not run.
fn run(command: &[String]) -> ExitCode {
    let command: Vec<&str> = match command {
        [] => vec!["sh", "-c", "echo \"hello from a utility VM:\"; uname -a; uptime"],
        given => given.iter().map(String::as_str).skip_while(|word| *word == "--").collect(),
    };
    let ran = setup::all().and_then(|()| Cmd::new(setup::UVM).args(["run", "--"]).args(command).status());
    match ran {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("xtask run: {error:#}");
            ExitCode::from(125)
        }
    }
}

/// How a program ended, as shells tell it: its exit code, or 128 and the signal that killed it.
fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// By a program of its own, so that this one stays small. Its exit code tells whether all cases are as recorded.
fn replay(arguments: &[String]) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args(["run", "--quiet", "--package", "uvm-testkit", "--bin", "uvm-replay", "--"]).args(arguments);
    match command.status() {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("xtask replay: cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn man(arguments: &[String]) -> anyhow::Result<()> {
    let [directory] = arguments else { anyhow::bail!("a directory is needed") };
    setup::build_command()?;
    Cmd::new(setup::UVM).args(["man", directory]).run()?;
    for (shell, file) in [("bash", "uvm.bash"), ("zsh", "_uvm"), ("fish", "uvm.fish")] {
        let script = Cmd::new(setup::UVM).args(["completions", shell]).output()?;
        std::fs::write(std::path::Path::new(directory).join(file), script)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_end_is_told_as_shells_do() {
        // As wait(2) gives them: the exit code in the second byte, or a signal in the first.
        for (status, code) in [(0, 0), (42 << 8, 42), (255 << 8, 255), (9, 137)] {
            let told = code_of(ExitStatus::from_raw(status));
            assert_eq!(format!("{told:?}"), format!("{:?}", ExitCode::from(code)), "{status:#x}");
        }
    }
}
