//! What the helper is told on its command line.

use std::ffi::OsString;
use std::os::fd::RawFd;

use crate::guard::Access;

/// How it is called.
pub const USAGE: &str =
    "usage: uvm-fs --directory FD --socket FD [--vm TEXT] [--token TEXT] [--read-only] [--passthrough] [--gone] [--no-namespaces]

Serves one directory to one guest. Not for the command line: uvm starts it.

  --directory FD    the directory, open
  --socket FD       a listening Unix socket, on which the device is spoken for (vhost-user)
  --vm, --token TEXT
                    what the process is known by to those who look for it and clean up
  --read-only       the guest cannot change anything
  --passthrough     owners are the host's; without it, all files are the directory's owner's
  --gone            the share is: what is asked, also of the process before this one, is answered with errors
  --no-namespaces   no namespaces of its own, for tests: everything else holds without them";

/// Whether the helper gets namespaces of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// If it can have them.
    Own,
    /// None.
    Shared,
}

/// One share to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// The number of the directory's descriptor.
    pub directory: RawFd,
    /// The number of the listening socket.
    pub socket: RawFd,
    /// Whether the guest may write.
    pub access: Access,
    /// Owners are the host's own.
    pub passthrough: bool,
    /// The share is gone: requests are answered, and no more.
    pub gone: bool,
    /// Where it is confined to.
    pub namespaces: Namespaces,
}

/// Why a command line is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// It is not one of those in [`USAGE`].
    #[error("{0:?} is no option")]
    Unknown(OsString),
    /// A value is missing, or no number of a descriptor.
    #[error("{option} needs {wanted}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it needs.
        wanted: &'static str,
    },
}

impl Command {
    /// Reads the arguments, the program's name not among them.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, CommandError> {
        let mut arguments = arguments.into_iter();
        let (mut directory, mut socket) = (None, None);
        let mut command = Self {
            directory: -1,
            socket: -1,
            access: Access::ReadWrite,
            passthrough: false,
            gone: false,
            namespaces: Namespaces::Own,
        };
        while let Some(argument) = arguments.next() {
            match argument.to_str() {
                Some("--directory") => directory = Some(descriptor("--directory", arguments.next())?),
                Some("--socket") => socket = Some(descriptor("--socket", arguments.next())?),
                Some("--vm") => text("--vm", arguments.next())?,
                Some("--token") => text("--token", arguments.next())?,
                Some("--read-only") => command.access = Access::ReadOnly,
                Some("--passthrough") => command.passthrough = true,
                Some("--gone") => command.gone = true,
                Some("--no-namespaces") => command.namespaces = Namespaces::Shared,
                _ => return Err(CommandError::Unknown(argument)),
            }
        }
        let missing = |option| CommandError::Value { option, wanted: DESCRIPTOR };
        command.directory = directory.ok_or(missing("--directory"))?;
        command.socket = socket.ok_or(missing("--socket"))?;
        Ok(command)
    }
}

/// Passes a text that only others read.
fn text(option: &'static str, value: Option<OsString>) -> Result<(), CommandError> {
    value.map(drop).ok_or(CommandError::Value { option, wanted: "a text" })
}

const DESCRIPTOR: &str = "the number of a descriptor, 3 or more";

fn descriptor(option: &'static str, value: Option<OsString>) -> Result<RawFd, CommandError> {
    let number = value.and_then(|value| value.to_str()?.parse().ok()).filter(|&number| number > 2);
    number.ok_or(CommandError::Value { option, wanted: DESCRIPTOR })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, CommandError> {
        Command::parse(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn a_command_line_is_read() {
        let command =
            parse("--vm v --directory 7 --socket 9 --token t-1 --read-only --no-namespaces").expect("it is one");
        assert_eq!(
            command,
            Command {
                directory: 7,
                socket: 9,
                access: Access::ReadOnly,
                passthrough: false,
                gone: false,
                namespaces: Namespaces::Shared
            }
        );
        assert!(parse("--directory 7 --socket 9 --gone").expect("it is one").gone);
        assert!(parse("--directory 7 --socket 9 --passthrough").expect("it is one").passthrough);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, text) in [
            ("", "--directory needs the number of a descriptor, 3 or more"),
            ("--directory 3", "--socket needs the number of a descriptor, 3 or more"),
            ("--directory 2 --socket 3", "--directory needs the number of a descriptor, 3 or more"),
            ("--directory x", "--directory needs the number of a descriptor, 3 or more"),
            ("--directory 3 --socket 4 --token", "--token needs a text"),
            ("--sandbox none", "\"--sandbox\" is no option"),
        ] {
            assert_eq!(parse(line).expect_err(line).to_string(), text);
        }
    }
}
