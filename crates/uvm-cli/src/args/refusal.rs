//! A command line that is refused: how that is told, and the exit code.

use std::ffi::OsString;
use std::io::IsTerminal;

use crate::report;

/// Tells what is wrong with the command line, or the help that was asked for; gives the exit code. `uvm run` gives
/// [`report::FAILED`] for what is wrong, as a command may give any other code; the rest 2.
pub(crate) fn refused(error: &clap::Error) -> i32 {
    if !error.use_stderr() {
        let (plain, styled) = (error.render().to_string(), error.render().ansi().to_string());
        let text = if std::io::stdout().is_terminal() { styled } else { plain };
        return report::exit_code(report::output(text.as_bytes()));
    }
    // There is nobody else to tell.
    let _ = error.print();
    exit_code_of_refusal(std::env::args_os().skip(1))
}

fn exit_code_of_refusal(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    // No option before the subcommand has a value.
    let subcommand = arguments.into_iter().find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    if subcommand.is_some_and(|word| word == "run") { report::FAILED } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_run_has_a_code_of_its_own() {
        let code = |words: &[&str]| exit_code_of_refusal(words.iter().map(Into::into));
        assert_eq!(code(&["run", "--nope"]), 125);
        assert_eq!(code(&["-v", "run", "--memory", "x"]), 125);
        for others in [&["gc", "run"][..], &["--nope", "ps"], &[], &["--nope"]] {
            assert_eq!(code(others), 2, "{others:?}");
        }
    }
}
