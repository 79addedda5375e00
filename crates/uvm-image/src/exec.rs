//! Running other programs: with a deadline, cancellable, and with their last words in the error.
//!
//! Output goes to files, never to pipes: a grandchild that outlives the program can hold a pipe open for ever, and a
//! file needs no thread that reads it. Children stay in our process group, so that Ctrl-C on the terminal reaches
//! them too.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::{ImageError, Intent, IoContext};
use crate::store::ImageStore;

/// One run of a program.
pub(crate) struct Run<'a> {
    store: &'a ImageStore,
    command: Command,
    /// The command line, for messages.
    text: String,
    deadline: Duration,
}

impl<'a> Run<'a> {
    /// A run of `program`, which may take `deadline`.
    pub(crate) fn new(store: &'a ImageStore, program: &Path, deadline: Duration) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("PATH", &store.search_path).env("LC_ALL", "C");
        let text = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self { store, command, text, deadline }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.text.push(' ');
        self.text.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Passes nothing of our environment on, but for what every program may need.
    pub(crate) fn clean_env(mut self) -> Self {
        self.command.env_clear().env("PATH", &self.store.search_path).env("LC_ALL", "C");
        for name in ["HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                self.command.env(name, value);
            }
        }
        self
    }

    pub(crate) fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn stdin(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Runs to the end and returns what it printed on its standard output. `meanwhile` is called several times a
    /// second.
    pub(crate) fn capture(self, meanwhile: impl FnMut()) -> Result<Vec<u8>, ImageError> {
        let (mut stdout, stderr) = (self.scratch()?, self.scratch()?);
        self.run(&stdout, &stderr, &stderr, meanwhile)?;
        read_from_start(&mut stdout, MAX_CAPTURE).at(Intent::Read, Path::new("a program's output"))
    }

    /// Runs to the end with all output appended to `log`.
    pub(crate) fn logged(self, log: &File, meanwhile: impl FnMut()) -> Result<(), ImageError> {
        self.run(log, log, log, meanwhile)
    }

    fn run(
        mut self,
        stdout: &File,
        stderr: &File,
        last_words: &File,
        mut meanwhile: impl FnMut(),
    ) -> Result<(), ImageError> {
        self.store.cancel.check()?;
        let program = self.program();
        let spawn_error = |source| ImageError::Spawn { program: program.clone(), source };
        self.command.stdout(stdout.try_clone().map_err(spawn_error)?);
        self.command.stderr(stderr.try_clone().map_err(spawn_error)?);
        // A log may hold the words of earlier runs.
        let start = last_words.metadata().map_or(0, |metadata| metadata.len());
        tracing::debug!(command = %self.text, "running");
        let began = Instant::now();
        let mut child = Ended { child: self.command.spawn().map_err(spawn_error)? };
        let status = loop {
            match child.child.try_wait().map_err(spawn_error)? {
                Some(status) => break status,
                None if self.store.cancel.is_cancelled() => return Err(ImageError::Cancelled),
                None if began.elapsed() >= self.deadline => {
                    drop(child);
                    let output = CommandOutput::tail_of(last_words, start);
                    return Err(ImageError::CommandTimeout { command: self.text, waited: self.deadline, output });
                }
                None => {}
            }
            meanwhile();
            // Quick programs are not slowed down, slow ones not polled hard.
            sleep((began.elapsed() / 8).clamp(Duration::from_millis(1), Duration::from_millis(100)));
        };
        // A Ctrl-C that raised the flag has most likely ended the child, too: that is no failure of the child's.
        self.store.cancel.check()?;
        if status.success() {
            return Ok(());
        }
        let output = CommandOutput::tail_of(last_words, start);
        if output.lines.iter().any(|line| line.contains(NO_SPACE)) {
            let (path, source) = (self.store.data_dir.path().to_owned(), rustix::io::Errno::NOSPC.into());
            return Err(ImageError::DiskFull { path, source });
        }
        Err(ImageError::CommandFailed { command: self.text, status, output })
    }

    /// A file in memory: a question to a program must not fail because the disk is full.
    fn scratch(&self) -> Result<File, ImageError> {
        let file = memfd_create("output", MemfdFlags::CLOEXEC);
        file.map(File::from).map_err(|error| ImageError::Spawn { program: self.program(), source: error.into() })
    }

    fn program(&self) -> PathBuf {
        PathBuf::from(self.command.get_program())
    }
}

/// A child that is ended when dropped: asked first, so that it can end its own children, then killed.
struct Ended {
    child: Child,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let give_up = Instant::now() + GRACE;
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        // Not reaped before `try_wait` says so, hence the pid is still the child's.
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() >= give_up {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            let _ = kill_process(pid, Signal::TERM);
            sleep(Duration::from_millis(20));
        }
    }
}

/// The end of what a program printed, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandOutput {
    lines: Vec<String>,
}

impl CommandOutput {
    /// The last lines, oldest first.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The last lines of `file` that come after its first `start` bytes.
    fn tail_of(file: &File, start: u64) -> Self {
        let mut file = file;
        let tail = file.seek(SeekFrom::End(0)).and_then(|end| {
            file.seek(SeekFrom::Start(end.saturating_sub(MAX_TAIL).max(start)))?;
            let mut bytes = Vec::new();
            file.take(MAX_TAIL).read_to_end(&mut bytes)?;
            file.seek(SeekFrom::End(0))?;
            Ok(bytes)
        });
        Self::tail_of_bytes(&tail.unwrap_or_default())
    }

    fn tail_of_bytes(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let lines = lines.split_off(lines.len().saturating_sub(TAIL_LINES));
        // What a program prints goes to a terminal in the end: no escape sequences from it.
        let printable = |line: &str| line.chars().map(|c| if c.is_control() && c != '\t' { '?' } else { c }).collect();
        Self { lines: lines.into_iter().map(printable).collect() }
    }
}

impl fmt::Display for CommandOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return Ok(());
        }
        f.write_str("; its output ends with:")?;
        self.lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

fn read_from_start(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    if file.take(limit + 1).read_to_end(&mut bytes)? as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// What programs say when the disk is full; they run in the C locale.
const NO_SPACE: &str = "No space left on device";
/// How long a program may take to end when told to.
const GRACE: Duration = Duration::from_secs(5);
const MAX_CAPTURE: u64 = 16 << 20;
const MAX_TAIL: u64 = 8 << 10;
const TAIL_LINES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;

    fn shell<'a>(store: &'a ImageStore, script: &str, deadline: Duration) -> Run<'a> {
        Run::new(store, &store.program("sh").unwrap(), deadline).args(["-c", script])
    }

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::new(DataDir::at(dir.path()).unwrap());
        (dir, store)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn output_is_captured_and_failure_quotes_the_error_output() {
        let (_dir, store) = store();
        let out = shell(&store, "echo to stdout; echo to stderr >&2", LONG).capture(|| ()).unwrap();
        assert_eq!(out, b"to stdout\n");
        let error =
            shell(&store, "echo wrong thing >&2; printf 'a\\033[31m' >&2; exit 3", LONG).capture(|| ()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("\n    wrong thing\n    a?[31m"), "{text}");
    }

    #[test]
    fn a_program_that_hangs_is_ended_even_if_it_will_not() {
        let (_dir, store) = store();
        let began = Instant::now();
        let error = shell(&store, "echo started >&2; sleep 60", Duration::from_millis(300)).capture(|| ()).unwrap_err();
        assert!(
            matches!(&error, ImageError::CommandTimeout { output, .. } if output.lines() == ["started"]),
            "{error}"
        );
        let error =
            shell(&store, "trap '' TERM; while :; do sleep 0.1; done", Duration::from_millis(300)).capture(|| ());
        assert!(matches!(error, Err(ImageError::CommandTimeout { .. })));
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }

    #[test]
    fn cancelling_ends_the_program() {
        let (_dir, store) = store();
        let cancel = store.cancel.clone();
        let error = shell(&store, "sleep 60", LONG).capture(|| cancel.cancel()).unwrap_err();
        assert!(matches!(error, ImageError::Cancelled), "{error}");
    }

    #[test]
    fn only_the_end_of_a_long_output_is_quoted() {
        let (dir, store) = store();
        let log = File::options().append(true).read(true).create(true).open(dir.path().join("log")).unwrap();
        let error = shell(&store, "seq 1 5000; exit 1", LONG).logged(&log, || ()).unwrap_err();
        let ImageError::CommandFailed { output, .. } = error else { panic!("{error}") };
        assert_eq!(output.lines().len(), TAIL_LINES);
        assert_eq!(output.lines().last().map(String::as_str), Some("5000"));
        let error = shell(&store, "echo again; exit 1", LONG).logged(&log, || ()).unwrap_err();
        let ImageError::CommandFailed { output, .. } = error else { panic!("{error}") };
        assert_eq!(output.lines(), ["again"], "not what the run before had to say");
    }
}
