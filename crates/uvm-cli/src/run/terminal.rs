//! The caller's terminal.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use rustix::termios::{OptionalActions, Termios};
use uvm::TerminalSize;

/// The size of the terminal; 24 lines of 80 without one.
pub(crate) fn size() -> TerminalSize {
    match rustix::termios::tcgetwinsize(io::stdout()).or_else(|_| rustix::termios::tcgetwinsize(io::stdin())) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, columns: size.ws_col },
        _ => TerminalSize { rows: 24, columns: 80 },
    }
}

/// What the terminal was set to before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal on standard input, raw: each key goes to the guest. Dropping it, and a panic, set it back.
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// `None` if standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        if !io::stdin().is_terminal() {
            return None;
        }
        let before = rustix::termios::tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            set_back();
            hook(panic);
        }));
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw).ok()?;
        Some(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        set_back();
    }
}

fn set_back() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The terminal may be gone.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}
