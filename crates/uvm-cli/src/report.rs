//! Errors as a person reads them, and as an exit code.

use std::fmt::Write as _;

/// This program failed, not the command in the VM.
pub(crate) const FAILED: i32 = 125;

/// The error and its causes, each on a line of its own; one that only repeats its cause is left out.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        if line != last {
            let _ = write!(text, "\n  because: {line}");
            last = line;
        }
        source = cause.source();
    }
    text
}

/// Prints an error.
pub(crate) fn error(error: &(dyn std::error::Error + 'static)) {
    eprintln!("uvm: {}", describe(error));
}

/// 0, or 1 with the error printed.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(e) => {
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
}
