//! What this program says on its standard output and error, and its exit code.
//!
//! The macros of the standard library panic where the stream is closed or full: nothing here does. A closed standard output
//! ends the program quietly, with the code of one that SIGPIPE killed; a full one is an error; and where standard error is
//! neither, nobody is told.

use std::fmt::Display;
use std::io::{self, Write};

/// This program failed, not the command in the VM.
#[cfg(target_os = "linux")]
pub(crate) const FAILED: i32 = 125;
/// What a shell makes of a program that was killed by SIGPIPE.
const BROKEN_PIPE: i32 = 128 + 13;

/// Standard output did not take something.
#[derive(Debug)]
struct OutputError(io::Error);

impl Display for OutputError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot write standard output")
    }
}

impl std::error::Error for OutputError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Prints a line, or several, on standard output.
pub(crate) fn line(text: impl Display) -> anyhow::Result<()> {
    output(format!("{text}\n").as_bytes())
}

/// Prints a value as JSON.
#[cfg(target_os = "linux")]
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(serde_json::to_string_pretty(value)?)
}

/// Writes to standard output.
pub(crate) fn output(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| OutputError(e).into())
}

/// Says something on standard error.
pub(crate) fn note(text: impl Display) {
    // There is nobody else to tell.
    let _ = io::stderr().lock().write_all(format!("uvm: {text}\n").as_bytes());
}

/// The error and its causes, each on a line of its own; one that only repeats its cause is left out. For terminals: some of
/// it are a guest's words, which must not command them.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    texts(error).join("\n  because: ")
}

/// The same in one line, for logs.
#[cfg(any(target_os = "linux", test))]
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    texts(error).join(": ")
}

fn texts(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let causes = std::iter::successors(Some(error), |e| e.source());
    let mut texts: Vec<String> = causes.map(|cause| printable(&cause.to_string())).collect();
    texts.dedup();
    texts
}

/// Takes out all control characters but line feeds and tabs.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// Prints an error.
pub(crate) fn error(error: &(dyn std::error::Error + 'static)) {
    note(describe(error));
}

/// 0; or 1 with the error printed, unless it is that nobody reads the output.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> i32 {
    let Err(e) = result else { return 0 };
    match e.downcast_ref::<OutputError>() {
        Some(OutputError(cause)) if cause.kind() == io::ErrorKind::BrokenPipe => BROKEN_PIPE,
        _ => {
            error(e.as_ref());
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = anyhow::anyhow!("no such file").context("no such file").context("cannot open");
        assert_eq!(describe(error.as_ref()), "cannot open\n  because: no such file");
    }

    #[test]
    fn a_guests_words_do_not_command_the_terminal() {
        let error = anyhow::anyhow!("\x1b]0;title\x07no\rsuch\u{9b}31m file\n\tat all\0").context("\x1b[2Jcannot open");
        assert_eq!(describe(error.as_ref()), "[2Jcannot open\n  because: ]0;titlenosuch31m file\n\tat all");
        assert_eq!(chain(error.as_ref()), "[2Jcannot open: ]0;titlenosuch31m file\n\tat all");
    }

    #[test]
    fn a_closed_output_is_quiet_and_a_full_one_an_error() {
        let code = |kind: io::ErrorKind| exit_code(Err(OutputError(kind.into()).into()));
        assert_eq!((code(io::ErrorKind::BrokenPipe), code(io::ErrorKind::StorageFull)), (141, 1));
        let of_another = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(exit_code(Err(of_another.into())), 1, "a pipe that is not standard output");
    }
}
