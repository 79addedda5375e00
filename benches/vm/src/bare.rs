//! A reference: QEMU on the library's own command line, with a program in the agent's place and nobody who manages it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::FdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use uvm::image::BootFiles;

use crate::command_line::{CONSOLE, CommandLine, Descriptors, QMP};

/// A running QEMU. Dropping it kills it.
pub(crate) struct BareQemu {
    child: Child,
    began: Instant,
    /// Our ends of its channels, by the id of the character device.
    channels: BTreeMap<String, UnixStream>,
}

/// What the library would say over QMP to power the VM on.
const POWER_ON: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n";

impl BareQemu {
    /// Starts `program` on `line` with these boot files.
    pub(crate) fn spawn(program: &Path, line: &CommandLine, files: &BootFiles) -> anyhow::Result<Self> {
        Self::spawn_with(program, line, files, BTreeMap::new())
    }

    /// The same, with these ends of channels, by the id of the character device, instead of new ones.
    pub(crate) fn spawn_with(
        program: &Path,
        line: &CommandLine,
        files: &BootFiles,
        given: BTreeMap<String, OwnedFd>,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let kernel = OwnedFd::from(File::open(files.kernel_path())?);
        let initrd = OwnedFd::from(File::open(files.initrd_path())?);
        let (mut channels, mut theirs) = (BTreeMap::new(), given);
        for id in line.channels() {
            if theirs.contains_key(&id) {
                continue;
            }
            let (our_end, its_end) = UnixStream::pair()?;
            channels.insert(id.clone(), our_end);
            theirs.insert(id, OwnedFd::from(its_end));
        }
        let descriptors = Descriptors {
            kernel: kernel.as_raw_fd(),
            initrd: initrd.as_raw_fd(),
            channels: theirs.iter().map(|(id, fd)| (id.clone(), fd.as_raw_fd())).collect(),
        };
        if let Some(mut qmp) = channels.get(QMP) {
            qmp.write_all(POWER_ON)?;
        }
        let mut command = Command::new(program);
        command.args(line.with(&descriptors)?).env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
        // This program starts one process at a time, so only this one inherits them.
        for fd in [&kernel, &initrd].into_iter().chain(theirs.values()) {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        let child = command.spawn().context("start QEMU")?;
        if let Some(console) = channels.remove(CONSOLE) {
            thread::spawn(move || discard(console));
        }
        Ok(Self { child, began, channels })
    }

    /// Takes our end of a channel.
    pub(crate) fn channel(&mut self, id: &str) -> anyhow::Result<UnixStream> {
        self.channels.remove(id).with_context(|| format!("there is no channel {id}"))
    }

    /// Waits until its guest has powered off. The time since before it was started.
    pub(crate) fn powered_off(mut self) -> anyhow::Result<Duration> {
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        ensure!(ready_within(pidfd.as_fd(), PATIENCE)?, "the reference guest did not power off within {PATIENCE:?}");
        let took = self.began.elapsed();
        let status = self.child.wait()?;
        if !status.success() {
            bail!("QEMU: {status}");
        }
        Ok(took)
    }
}

/// Reads what a guest writes to its console until QEMU has ended. QEMU writes it byte by byte, of which a socket that nobody reads
/// from holds a few hundred; with each one after that the guest waits for milliseconds.
fn discard(mut console: UnixStream) {
    // An error, too, means that there is no more to come.
    let _ = io::copy(&mut console, &mut io::sink());
}

impl Drop for BareQemu {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long a reference guest may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until the descriptor is readable.
pub(crate) fn ready_within(fd: BorrowedFd<'_>, patience: Duration) -> anyhow::Result<bool> {
    let timeout = Timespec { tv_sec: patience.as_secs().try_into()?, tv_nsec: 0 };
    let count = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).context("wait for a program to end")?;
    Ok(count > 0)
}
