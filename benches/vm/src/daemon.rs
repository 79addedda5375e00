//! A program that serves a device of a reference, from crates.io.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tempfile::TempDir;

use crate::bare::ready_within;
use crate::vng::{cache_directory, once, run};

/// How long it may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// The socket that QEMU's end is connected to, in the program's directory.
pub(crate) const SOCKET: &str = "socket";

/// One that runs. Dropping it ends it.
pub(crate) struct Daemon {
    name: &'static str,
    child: Child,
    dir: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended, with QEMU.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts the program of that name and version, which is installed if it is not there, with the arguments that are
    /// made for its directory.
    pub(crate) fn start(
        (name, version): (&'static str, &str),
        arguments: impl FnOnce(&mut Command, &Path),
    ) -> anyhow::Result<Self> {
        let (program, dir) = (installed(name, version)?, tempfile::tempdir()?);
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        arguments(&mut command, dir.path());
        Ok(Self { name, child: command.spawn().with_context(|| format!("start {name}"))?, dir })
    }

    /// Connects to [`SOCKET`], once somebody listens.
    pub(crate) fn connect(&self) -> anyhow::Result<UnixStream> {
        let began = Instant::now();
        loop {
            match UnixStream::connect(self.dir.path().join(SOCKET)) {
                Ok(end) => return Ok(end),
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(e).with_context(|| format!("connect to {}", self.name)),
            }
        }
    }

    /// [`SOCKET`], once it is there.
    pub(crate) fn listening(&mut self) -> anyhow::Result<PathBuf> {
        let (began, socket) = (Instant::now(), self.dir.path().join(SOCKET));
        while !socket.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} has ended: {status}", self.name);
            }
            ensure!(began.elapsed() < PATIENCE, "{} does not listen within {PATIENCE:?}", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(socket)
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> anyhow::Result<()> {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        ensure!(ready_within(pidfd.as_fd(), PATIENCE)?, "{} did not end within {PATIENCE:?}", self.name);
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Finds the program, or installs it.
fn installed(name: &str, version: &str) -> anyhow::Result<PathBuf> {
    let root = cache_directory()?.join(format!("{name}-{version}"));
    once(&root, |directory| {
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install.args(["install", name, "--version", version, "--locked", "--root"]).arg(directory);
        // Not into this project's directory, and not with its lock.
        run(install.arg("--target-dir").arg(directory.join("target")).current_dir("/"))
    })
    .with_context(|| format!("install {name} from crates.io"))?;
    Ok(root.join("bin").join(name))
}
