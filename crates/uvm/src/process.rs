//! Processes in the VM: started, fed, read, waited for, signalled.

mod create;
mod io;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use uvm_wire::ContainerId;
use uvm_wire::execute::{ConsoleSize, ProcessParameters};
use uvm_wire::process::{ResizeConsole, SignalProcess, WaitForProcessReply, WindowsSignal};

pub(crate) use create::{Launch, create};
pub use io::{ProcessInput, ProcessOutput};

use crate::bridge::BridgeError;
use crate::error::UvmError;
use crate::vm::{Guest, UtilityVm};

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
        Launch { container: ContainerId::UVM, program, parameters }
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

/// The outcome of the wait that runs in the background from the start of the process on.
type Outcome = watch::Receiver<Option<Result<ProcessExit, Arc<BridgeError>>>>;

/// A process in the VM. Dropping it does not end the process, but closes its standard streams.
#[derive(Debug)]
pub struct Process {
    vm: UtilityVm,
    guest: Guest,
    container: ContainerId,
    id: u32,
    /// Its standard input, if it was asked for. Take it, or drop it: the process sees the end of its input only once
    /// this is shut down or dropped.
    pub stdin: Option<ProcessInput>,
    /// Its standard output, or its terminal's.
    pub stdout: Option<ProcessOutput>,
    /// Its standard error.
    pub stderr: Option<ProcessOutput>,
    outcome: Outcome,
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
    /// [`UvmError::Exited`] if the VM ended first, [`UvmError::Guest`] if the guest lost it.
    pub async fn wait(&self) -> Result<ProcessExit, UvmError> {
        let mut outcome = self.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        let intent = "wait for a process of";
        match outcome {
            Some(Ok(exit)) => Ok(exit),
            Some(Err(source)) => {
                let source = self.vm.inner.unless_ended(intent, again(&source)).await?;
                Err(self.vm.inner.witness().guest(intent, source))
            }
            // The VM's thread is gone, and with it the task that waited.
            None => Err(UvmError::Refused { id: self.vm.id().clone(), intent, why: crate::vm::Refusal::Closed }),
        }
    }

    /// How it ended, if it has: what [`wait`](Self::wait) would give at once. `None` also if it was lost.
    pub fn exit(&self) -> Option<ProcessExit> {
        self.outcome.borrow().as_ref()?.as_ref().ok().copied()
    }

    /// Sends a signal, by its number. `false`: it has ended.
    ///
    /// # Errors
    /// [`UvmError::GuestUnsupported`] with an agent that cannot signal processes outside containers,
    /// [`UvmError::Guest`], [`UvmError::Exited`].
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
        let what = "signals to this process";
        if !self.container.is_uvm() && !self.guest.capabilities.guest_defined.signal_process {
            return Err(self.unsupported(what));
        }
        self.unless_gone("signal a process of", what, call).await
    }

    /// Tells it the size of its terminal.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn resize(&self, size: TerminalSize) -> Result<(), UvmError> {
        let call = ResizeConsole { process_id: self.id, height: size.rows, width: size.columns };
        self.unless_gone("resize a terminal of", "resizing the terminal of this process", call).await.map(drop)
    }

    /// Ends its standard input. Nothing to do if it has none, or it was taken.
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

    fn unsupported(&self, what: &'static str) -> UvmError {
        UvmError::GuestUnsupported { id: self.vm.id().clone(), what }
    }

    /// Makes a call about this process. `false` if the process has ended.
    async fn unless_gone<R>(&self, intent: &'static str, what: &'static str, call: R) -> Result<bool, UvmError>
    where
        R: uvm_wire::Rpc<Reply = uvm_wire::call::Done> + Send + Sync + 'static,
    {
        match self.vm.inner.call(&self.guest, &self.container, intent, call).await {
            Err(UvmError::Guest { source, .. }) if already_gone(&source) => Ok(false),
            // The original's agents for Linux look for a container of that name: they know no process outside of one.
            Err(UvmError::Guest { source, .. }) if self.container.is_uvm() && knows_no_such_system(&source) => {
                Err(self.unsupported(what))
            }
            result => result.map(|_| true),
        }
    }
}

async fn read_all(output: Option<ProcessOutput>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut output) = output {
        output.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The guest knows the process no more: it has ended.
fn already_gone(error: &BridgeError) -> bool {
    error.failure().is_some_and(|failure| failure.result == uvm_wire::Hresult::NOT_FOUND)
}

/// The guest knows no container, or VM, of that id.
fn knows_no_such_system(error: &BridgeError) -> bool {
    error.failure().is_some_and(|failure| failure.result == uvm_wire::Hresult::SYSTEM_NOT_FOUND)
}

/// The same error once more: the wait is shared, its error is told to each who asks.
fn again(error: &BridgeError) -> BridgeError {
    match error {
        BridgeError::Failed(failure) => BridgeError::Failed(failure.clone()),
        BridgeError::Timeout { call, waited } => BridgeError::Timeout { call: *call, waited: *waited },
        BridgeError::Closed { call, source } => BridgeError::Closed { call: *call, source: Arc::clone(source) },
        BridgeError::Encode { call, .. } | BridgeError::Answer { call, .. } => {
            let failure = uvm_wire::Failure::plain(format_args!("{call}: {}", crate::error::chain(error)));
            BridgeError::Failed(Box::new(failure))
        }
    }
}
