//! Processes in the VM: started, fed, read, waited for, signalled.

mod bridged;
mod create;
mod hosted;
mod io;

use std::collections::BTreeMap;
use std::fmt;

use tokio::io::AsyncReadExt;
use uvm_wire::execute::{ConsoleSize, ProcessParameters};
use uvm_wire::process::{SignalProcess, WaitForProcessReply, WindowsSignal};

pub(crate) use create::{Launch, Place, create};
pub use io::{ProcessInput, ProcessOutput};

use crate::error::UvmError;
use crate::vm::UtilityVm;

use bridged::BridgedProcess;
use hosted::HostedProcess;

/// A process to start in the VM.
///
/// ```
/// let spec = uvm::ProcessSpec::new(["sh", "-c", "echo $GREETING"]).with_env("GREETING", "hello");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessSpec {
    /// The program and its arguments. A program without a slash is looked for in `PATH`.
    pub args: Vec<String>,
    /// The whole environment. Default: the agent's, with a `PATH`.
    pub env: BTreeMap<String, String>,
    /// Where it starts. Default: `/`.
    pub cwd: String,
    /// Give it a terminal of this size instead of pipes. It then has one output, [`Process::stdout`].
    pub terminal: Option<TerminalSize>,
    /// Connect its standard input. Default: no; it is closed then.
    pub stdin: bool,
    /// Connect its standard output. Default: yes.
    pub stdout: bool,
    /// Connect its standard error. Default: yes, but not with a terminal.
    pub stderr: bool,
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

impl ProcessSpec {
    /// A process with these arguments, the first of which is the program, and with its output connected.
    pub fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { args, stdout: true, stderr: true, ..Self::default() }
    }

    /// With this variable in its environment, which then is the whole of it: see [`ProcessSpec::env`].
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Starting there.
    #[must_use]
    pub fn with_cwd(self, cwd: impl Into<String>) -> Self {
        Self { cwd: cwd.into(), ..self }
    }

    /// With its standard input connected.
    #[must_use]
    pub fn with_stdin(self) -> Self {
        Self { stdin: true, ..self }
    }

    /// With a terminal of this size.
    #[must_use]
    pub fn with_terminal(self, size: TerminalSize) -> Self {
        Self { terminal: Some(size), stderr: false, ..self }
    }

    pub(crate) fn launch(&self) -> Launch {
        let parameters = ProcessParameters {
            command_args: self.args.clone(),
            working_directory: if self.cwd.is_empty() { "/".into() } else { self.cwd.clone() },
            environment: self.env.clone(),
            emulate_console: self.terminal.is_some(),
            create_stdin_pipe: self.stdin,
            create_stdout_pipe: self.stdout,
            create_stderr_pipe: self.stderr,
            console_size: self.terminal.map(|size| ConsoleSize { height: size.rows, width: size.columns }),
            ..ProcessParameters::default()
        };
        let program = format!("{:?}", self.args.first().map_or("", String::as_str));
        Launch { place: Place::Vm, program, parameters }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessExit {
    /// By itself, with this code.
    Code(u32),
    /// By a signal; `None` if the guest's agent cannot tell which.
    Signal(Option<u32>),
}

impl ProcessExit {
    fn of(reply: WaitForProcessReply) -> Self {
        match reply {
            WaitForProcessReply { signal: Some(signal), .. } => Self::Signal(Some(signal)),
            WaitForProcessReply { exit_code: WaitForProcessReply::KILLED, .. } => Self::Signal(None),
            WaitForProcessReply { exit_code, .. } => Self::Code(exit_code),
        }
    }

    /// `true` for code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ProcessExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(Some(signal)) => write!(f, "killed by signal {signal}"),
            Self::Signal(None) => f.write_str("killed by a signal"),
        }
    }
}

/// A process in the VM. Dropping it does not end the process, but closes its standard streams.
#[derive(Debug)]
pub struct Process {
    vm: UtilityVm,
    id: u32,
    /// The agent can signal it.
    can_be_signalled: bool,
    /// Its standard input, if it was asked for. Take it, or drop it: the process sees the end of its input only once
    /// this is shut down or dropped.
    pub stdin: Option<ProcessInput>,
    /// Its standard output, or its terminal's.
    pub stdout: Option<ProcessOutput>,
    /// Its standard error.
    pub stderr: Option<ProcessOutput>,
    way: Way,
}

/// By which way a process is reached.
#[derive(Debug)]
enum Way {
    Bridge(BridgedProcess),
    Host(HostedProcess),
}

/// What a process wrote, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: ProcessExit,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// All of its standard error.
    pub stderr: Vec<u8>,
}

impl Process {
    /// Its id in the guest.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits for its end. Cancel-safe; may be called again. Read its output meanwhile: a process may not end before
    /// somebody reads what it writes.
    ///
    /// # Errors
    /// [`UvmError::Exited`] if the VM ended first, [`UvmError::Guest`] if the guest lost it, [`UvmError::Operation`] if the
    /// host's service did.
    pub async fn wait(&self) -> Result<ProcessExit, UvmError> {
        match &self.way {
            Way::Bridge(process) => process.wait(&self.vm).await,
            Way::Host(process) => process.wait(&self.vm).await,
        }
    }

    /// How it ended, if it has: what [`wait`](Self::wait) would give at once. `None` also if it was lost.
    pub fn exit(&self) -> Option<ProcessExit> {
        match &self.way {
            Way::Bridge(process) => process.exit(),
            Way::Host(process) => process.exit(),
        }
    }

    /// Sends a signal, by its number. `false`: it has ended.
    ///
    /// # Errors
    /// [`UvmError::GuestUnsupported`] with an agent that cannot signal processes outside containers, [`UvmError::Guest`],
    /// [`UvmError::Exited`]; [`UvmError::Operation`] where the host's service holds the guest connection.
    pub async fn signal(&self, signal: i32) -> Result<bool, UvmError> {
        self.send(SignalProcess::linux(self.id, signal)).await
    }

    /// The same for a process in a Windows guest.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn signal_windows(&self, signal: WindowsSignal) -> Result<bool, UvmError> {
        self.send(SignalProcess::windows(self.id, signal)).await
    }

    /// Kills it. `false`: it has ended.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn kill(&self) -> Result<bool, UvmError> {
        self.send(SignalProcess::kill(self.id)).await
    }

    async fn send(&self, call: SignalProcess) -> Result<bool, UvmError> {
        if !self.can_be_signalled {
            return Err(UvmError::GuestUnsupported { id: self.vm.id().clone(), what: SIGNALS });
        }
        match &self.way {
            Way::Bridge(process) => process.signal(&self.vm, call).await,
            Way::Host(process) => process.signal(&self.vm, call).await,
        }
    }

    /// Tells it the size of its terminal.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn resize(&self, size: TerminalSize) -> Result<(), UvmError> {
        match &self.way {
            Way::Bridge(process) => process.resize(&self.vm, size).await,
            Way::Host(process) => process.resize(&self.vm, size).await,
        }
    }

    /// Ends its standard input, as [`ProcessInput::finish`] does. Nothing to do if it has none, or it was taken.
    ///
    /// # Errors
    /// [`UvmError::Stream`].
    pub async fn close_stdin(&mut self) -> Result<(), UvmError> {
        match self.stdin.take() {
            Some(mut stdin) => stdin.finish().await.map_err(|source| self.stream_error(source)),
            None => Ok(()),
        }
    }

    /// Ends its standard input, reads all of its output, and waits for its end. Cancel-safe: what was read is lost.
    ///
    /// # Errors
    /// [`UvmError::Stream`], and those of [`wait`](Self::wait).
    pub async fn output(mut self) -> Result<Output, UvmError> {
        drop(self.stdin.take());
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let (stdout, stderr) = tokio::join!(read_all(stdout), read_all(stderr));
        // The reason why a stream was cut is the better error.
        let exit = self.wait().await?;
        let stdout = stdout.map_err(|source| self.stream_error(source))?;
        let stderr = stderr.map_err(|source| self.stream_error(source))?;
        Ok(Output { exit, stdout, stderr })
    }

    fn stream_error(&self, source: std::io::Error) -> UvmError {
        UvmError::Stream { id: self.vm.id().clone(), process: self.id, source }
    }
}

async fn read_all(output: Option<ProcessOutput>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut output) = output {
        output.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// What is tried, in errors.
const CREATE: &str = "create a process in";
const WAIT: &str = "wait for a process of";
const SIGNAL: &str = "signal a process of";
const RESIZE: &str = "resize a terminal of";
/// What an agent may not be able to do.
const SIGNALS: &str = "signals to this process";
