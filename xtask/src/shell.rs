//! Running other programs, in the root of the project.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::bounded::run_bounded;

/// The root of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// As a child, without a limit.
fn plain(mut command: Command) -> anyhow::Result<ExitStatus> {
    command.status().context("it cannot be run")
}

/// A program to run.
pub(crate) struct Cmd {
    command: Command,
    shown: Vec<OsString>,
}

impl Cmd {
    /// `program` is a name, or a path from the project's root.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        let path = Path::new(program);
        let found = if path.components().count() > 1 { root().join(path).into_os_string() } else { program.to_owned() };
        let mut command = Command::new(found);
        command.current_dir(root());
        Self { command, shown: vec![program.to_owned()] }
    }

    /// cargo, as it was called.
    pub(crate) fn cargo() -> Self {
        let mut cargo = Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.shown = vec!["cargo".into()];
        cargo
    }

    pub(crate) fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        for arg in args {
            self.command.arg(&arg);
            self.shown.push(arg.as_ref().to_owned());
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    fn shown(&self) -> String {
        self.shown.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// Runs it with this program's streams.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        self.run_by(plain)
    }

    /// As [`run`](Self::run), and everything that it started ends with it, or is ended with it after `limit`.
    pub(crate) fn run_within(self, limit: Duration) -> anyhow::Result<()> {
        self.run_by(|command| run_bounded(command, limit, Duration::ZERO))
    }

    /// Runs it with this program's streams; how it ends is for the caller to judge.
    pub(crate) fn status(self) -> anyhow::Result<ExitStatus> {
        self.status_by(plain).map(|(_, status)| status)
    }

    fn run_by(self, run: impl FnOnce(Command) -> anyhow::Result<ExitStatus>) -> anyhow::Result<()> {
        let (shown, status) = self.status_by(run)?;
        if !status.success() {
            bail!("{shown}: {status}");
        }
        Ok(())
    }

    /// Shows it, and runs it: what was shown, and how it ended.
    fn status_by(
        self,
        run: impl FnOnce(Command) -> anyhow::Result<ExitStatus>,
    ) -> anyhow::Result<(String, ExitStatus)> {
        let shown = self.shown();
        eprintln!("+ {shown}");
        let status = run(self.command).with_context(|| shown.clone())?;
        Ok((shown, status))
    }

    /// Runs it and gives its output.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        let shown = self.shown();
        let output = self.command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {shown}"))?;
        if !output.status.success() {
            bail!("{shown}: {}", output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Its output, if it runs with success.
    pub(crate) fn output_or_none(mut self) -> Option<String> {
        let output = self.command.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it runs with success; it says nothing.
    pub(crate) fn succeeds(mut self) -> bool {
        let quiet = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    }
}
