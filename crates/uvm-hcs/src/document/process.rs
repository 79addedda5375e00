//! Processes that the service makes: what is asked of them, and what it answers.

use serde::{Deserialize, Serialize};

use super::query::{AnswerError, read};
use super::to_text;

/// The request that tells a process the size of its console, in characters.
pub fn resize(rows: u16, columns: u16) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Size {
        height: u16,
        width: u16,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        operation: &'static str,
        console_size: Size,
    }
    to_text(&Request { operation: "ConsoleSize", console_size: Size { height: rows, width: columns } })
}

/// The request that ends the standard input of a process.
pub fn close_stdin() -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Handle {
        handle: &'static str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        operation: &'static str,
        close_handle: Handle,
    }
    to_text(&Request { operation: "CloseHandle", close_handle: Handle { handle: "StdIn" } })
}

/// Which streams of a process are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Pipes {
    /// What it reads.
    #[serde(rename = "CreateStdInPipe")]
    pub stdin: bool,
    /// What it writes.
    #[serde(rename = "CreateStdOutPipe")]
    pub stdout: bool,
    /// What it complains.
    #[serde(rename = "CreateStdErrPipe")]
    pub stderr: bool,
}

impl Pipes {
    /// Those that these parameters ask for; none if they are not of the schema, as the service will say.
    pub fn wanted(parameters: &str) -> Self {
        serde_json::from_str(parameters).unwrap_or_default()
    }
}

/// What the service knows of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[non_exhaustive]
pub struct ProcessStatus {
    /// It has ended.
    pub exited: bool,
    /// With this code.
    pub exit_code: u32,
    /// Why the service could not wait for it, as a result; 0: it could.
    pub last_wait_result: i32,
}

impl ProcessStatus {
    /// Reads an answer.
    ///
    /// # Errors
    /// It is no JSON of the schema.
    pub fn read(answer: &str) -> Result<Self, AnswerError> {
        read(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_the_service_takes_them() {
        assert_eq!(resize(40, 120), r#"{"Operation":"ConsoleSize","ConsoleSize":{"Height":40,"Width":120}}"#);
        assert_eq!(close_stdin(), r#"{"Operation":"CloseHandle","CloseHandle":{"Handle":"StdIn"}}"#);
    }

    #[test]
    fn streams_are_those_that_are_asked_for() {
        let wanted = Pipes::wanted(r#"{"CommandLine":"x","CreateStdInPipe":true,"CreateStdErrPipe":true}"#);
        assert_eq!(wanted, Pipes { stdin: true, stdout: false, stderr: true });
        assert_eq!(Pipes::wanted("[]"), Pipes::default());
    }

    #[test]
    fn a_status_says_how_a_process_ended() {
        let status = ProcessStatus::read(r#"{"ProcessId":7,"Exited":true,"ExitCode":4294967295,"LastWaitResult":0}"#);
        let killed = ProcessStatus { exited: true, exit_code: u32::MAX, last_wait_result: 0 };
        assert_eq!(status.expect("it does"), killed);
        assert!(ProcessStatus::read(r#"{"ExitCode":-1}"#).is_err());
    }
}
