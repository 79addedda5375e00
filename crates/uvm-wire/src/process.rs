//! Calls about a process that runs: wait, signal, resize.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::call::{Reply, sealed::Sealed};
use crate::failure::Failure;
use crate::hresult::Hresult;
use crate::json::{RawJson, from_str};
use crate::object::{is_empty, words};

/// Waits for a process to end and its output to be drained.
///
/// A process of the VM is waited for with the id of the VM, whatever id it was started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WaitForProcess {
    /// The process.
    #[serde(rename = "ProcessId")]
    pub process_id: u32,
    /// The longest wait. 0 never succeeds, not even for a process that has ended: to ask without waiting, give a little.
    #[serde(rename = "TimeoutInMs")]
    pub timeout_ms: u32,
}

impl WaitForProcess {
    /// The `timeout_ms` of a wait without limit.
    pub const FOREVER_MS: u32 = u32::MAX;

    /// A wait without limit.
    pub const fn forever(process_id: u32) -> Self {
        Self { process_id, timeout_ms: Self::FOREVER_MS }
    }

    /// The longest wait; `None` without limit.
    pub const fn timeout(&self) -> Option<Duration> {
        match self.timeout_ms {
            Self::FOREVER_MS => None,
            ms => Some(Duration::from_millis(ms as u64)),
        }
    }
}

/// Answers [`WaitForProcess`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitForProcessReply {
    /// Processes of containers: the exit status, or 128 and the signal. Processes of the VM: the exit status, or
    /// [`KILLED`](Self::KILLED).
    #[serde(rename = "ExitCode")]
    pub exit_code: u32,
    /// An extension of ours: the signal that ended a process of the VM, once the agent has announced
    /// [`exit_detail`](crate::negotiate::GuestDefinedCapabilities::exit_detail).
    #[serde(rename = "Signal", default, skip_serializing_if = "is_empty")]
    pub signal: Option<u32>,
}

impl WaitForProcessReply {
    /// The exit code of a process of the VM that was ended by a signal.
    pub const KILLED: u32 = u32::MAX;
}

impl Sealed for WaitForProcessReply {}
impl Reply for WaitForProcessReply {}

/// Sends a signal to a process.
///
/// The original's agents signal only processes of containers; ours, if they announce
/// [`external_process_signal`](crate::negotiate::GuestDefinedCapabilities::external_process_signal), also those of the
/// VM, with the id of the VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignalProcess {
    /// The process.
    #[serde(rename = "ProcessId")]
    pub process_id: u32,
    /// The signal. Without it, or with [`Signal::Unspecified`] in it: SIGKILL.
    #[serde(rename = "Options", skip_serializing_if = "is_empty")]
    pub options: Option<SignalOptions>,
}

impl SignalProcess {
    /// Sends `signal` to a process in a Linux guest.
    pub fn linux(process_id: u32, signal: i32) -> Self {
        let signal = if signal == 0 { Signal::Unspecified } else { Signal::Linux(signal) };
        Self { process_id, options: Some(SignalOptions { signal }) }
    }

    /// Sends `signal` to a process in a Windows guest.
    pub fn windows(process_id: u32, signal: WindowsSignal) -> Self {
        Self { process_id, options: Some(SignalOptions { signal: Signal::Windows(signal) }) }
    }

    /// Ends a process in any guest.
    pub fn kill(process_id: u32) -> Self {
        Self { process_id, options: None }
    }

    /// The signal number for a Linux guest to send.
    ///
    /// # Errors
    /// The failure to answer with, [`Hresult::INVALID_JSON`]: the request names a signal of Windows guests.
    pub fn linux_signal(&self) -> Result<i32, Failure> {
        const SIGKILL: i32 = 9;
        match self.options.as_ref().map(|options| &options.signal) {
            None | Some(Signal::Unspecified) => Ok(SIGKILL),
            Some(Signal::Linux(number)) => Ok(*number),
            Some(Signal::Windows(name)) => Err(Failure::wrapping(
                Hresult::INVALID_JSON,
                format_args!("signal {name} is for Windows guests: a number is needed"),
            )),
        }
    }
}

/// The `Options` of [`SignalProcess`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SignalOptions {
    /// The signal.
    #[serde(rename = "Signal", skip_serializing_if = "is_empty")]
    pub signal: Signal,
}

/// A signal: a number for Linux guests, a word for Windows guests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// None named: SIGKILL. On the wire no key, or 0.
    #[default]
    Unspecified,
    /// A signal of Linux, by its number.
    Linux(i32),
    /// A signal of Windows consoles.
    Windows(WindowsSignal),
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Unspecified => serializer.serialize_i32(0),
            Self::Linux(number) => serializer.serialize_i32(*number),
            Self::Windows(signal) => signal.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Either type may come, so look before reading.
        let Some(raw) = Option::<RawJson>::deserialize(deserializer)? else { return Ok(Self::Unspecified) };
        if raw.get().starts_with('"') {
            from_str(raw.get()).map(Self::Windows).map_err(D::Error::custom)
        } else {
            let number = from_str(raw.get()).map_err(D::Error::custom)?;
            Ok(if number == 0 { Self::Unspecified } else { Self::Linux(number) })
        }
    }
}

words! {
    /// What can be sent to a process in a Windows guest.
    pub enum WindowsSignal {
        /// Control-C.
        CtrlC = "CtrlC",
        /// Control-Break.
        CtrlBreak = "CtrlBreak",
        /// The console is closed.
        CtrlClose = "CtrlClose",
        /// The user logs off.
        CtrlLogOff = "CtrlLogOff",
        /// The system shuts down.
        CtrlShutdown = "CtrlShutdown",
    }
}

/// Resizes the terminal of a process. The same restriction as for [`SignalProcess`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResizeConsole {
    /// The process.
    #[serde(rename = "ProcessId")]
    pub process_id: u32,
    /// Lines.
    #[serde(rename = "Height")]
    pub height: u16,
    /// Columns.
    #[serde(rename = "Width")]
    pub width: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_both_forms() {
        for (text, signal) in [
            ("{}", Signal::Unspecified),
            (r#"{"Signal":null}"#, Signal::Unspecified),
            (r#"{"Signal":0}"#, Signal::Unspecified),
            (r#"{"signal": 15 }"#, Signal::Linux(15)),
            (r#"{"Signal":-1}"#, Signal::Linux(-1)),
            (r#"{"Signal":"CtrlLogOff"}"#, Signal::Windows(WindowsSignal::CtrlLogOff)),
            (r#"{"Signal":"\u0043trlC"}"#, Signal::Windows(WindowsSignal::CtrlC)),
        ] {
            assert_eq!(from_str::<SignalOptions>(text).unwrap().signal, signal, "{text}");
        }
        for bad in ["1.5", "true", "[]", "{}", "2147483648", "\"\\ud800\""] {
            assert!(from_str::<SignalOptions>(&format!(r#"{{"Signal":{bad}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_signal_is_a_kill_and_a_windows_signal_is_no_number() {
        let write = |request: &SignalProcess| serde_json::to_string(request).unwrap();
        assert_eq!(write(&SignalProcess::kill(7)), r#"{"ProcessId":7}"#);
        assert_eq!(write(&SignalProcess::linux(7, 0)), r#"{"ProcessId":7,"Options":{}}"#);
        assert_eq!(write(&SignalProcess::linux(7, 15)), r#"{"ProcessId":7,"Options":{"Signal":15}}"#);
        let windows = SignalProcess::windows(7, WindowsSignal::CtrlC);
        assert_eq!(write(&windows), r#"{"ProcessId":7,"Options":{"Signal":"CtrlC"}}"#);
        assert_eq!(SignalProcess::kill(7).linux_signal(), Ok(9));
        assert_eq!(SignalProcess::linux(7, 0).linux_signal(), Ok(9));
        assert_eq!(SignalProcess::linux(7, 15).linux_signal(), Ok(15));
        assert_eq!(windows.linux_signal().unwrap_err().result, Hresult::INVALID_JSON);
    }

    #[test]
    fn only_the_largest_timeout_is_without_limit() {
        assert_eq!(WaitForProcess::forever(1).timeout(), None);
        let wait = WaitForProcess { process_id: 1, timeout_ms: u32::MAX - 1 };
        assert_eq!(wait.timeout(), Some(Duration::from_millis(4_294_967_294)));
    }
}
