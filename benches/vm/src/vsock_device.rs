//! Two devices for virtual sockets, each with a VM of the same guest on the same command line: ours in this process, and
//! `vhost-device-vsock`, a program of rust-vmm, in a process of its own.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use uvm::image::BootFiles;
use uvm_vsock::{Config, Vsock, VsockListener};

use crate::bare::BareQemu;
use crate::command_line::{CommandLine, VSOCK};
use crate::context::Context;
use crate::vng::{cache_directory, once, run};

/// What is installed.
pub(crate) const VERSION: &str = "0.3.0";
const CID: u64 = 3;
/// How long a guest, or the program, may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// A stream of either device.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A device, and the VM it serves. Dropping it ends both.
pub(crate) struct Machine {
    _qemu: BareQemu,
    device: Device,
}

enum Device {
    Ours(Vsock),
    Reference(Reference),
}

struct Reference {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Reference {
    fn drop(&mut self) {
        // It may have ended, with QEMU.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machine {
    pub(crate) fn ours(context: &Context, line: &CommandLine, files: &BootFiles) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join(VSOCK);
        let listener = UnixListener::bind(&path)?;
        let end = StdStream::connect(&path)?;
        let vsock = Vsock::serve(Config::new(CID)?, listener)?;
        let given = BTreeMap::from([(VSOCK.to_owned(), OwnedFd::from(end))]);
        let qemu = BareQemu::spawn_with(context.host.program(), line, files, given)?;
        Ok(Self { _qemu: qemu, device: Device::Ours(vsock) })
    }

    pub(crate) fn reference(context: &Context, line: &CommandLine, files: &BootFiles) -> anyhow::Result<Self> {
        let program = reference_program()?;
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("vhost");
        let mut command = Command::new(program);
        command.arg("--guest-cid").arg(CID.to_string()).arg("--socket").arg(&socket);
        command.arg("--uds-path").arg(dir.path().join("host")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("start vhost-device-vsock")?;
        let reference = Reference { child, dir };
        let began = Instant::now();
        let end = loop {
            match StdStream::connect(&socket) {
                Ok(end) => break end,
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Err(e) => return Err(e).context("connect to vhost-device-vsock"),
            }
        };
        let given = BTreeMap::from([(VSOCK.to_owned(), OwnedFd::from(end))]);
        let qemu = BareQemu::spawn_with(context.host.program(), line, files, given)?;
        Ok(Self { _qemu: qemu, device: Device::Reference(reference) })
    }

    /// The process that runs the device.
    pub(crate) fn pid(&self) -> u32 {
        match &self.device {
            Device::Ours(_) => std::process::id(),
            Device::Reference(reference) => reference.child.id(),
        }
    }

    /// Lets the guest dial a port of ours.
    pub(crate) fn listen(&self, port: u32) -> anyhow::Result<VsockListener> {
        match &self.device {
            Device::Ours(vsock) => Ok(vsock.listen(port)?),
            Device::Reference(_) => bail!("the reference's listeners are not used"),
        }
    }

    /// Dials the guest's port, once it listens.
    pub(crate) async fn dial(&self, port: u32) -> anyhow::Result<Box<dyn Stream>> {
        let began = Instant::now();
        loop {
            match self.try_dial(port).await {
                Ok(stream) => return Ok(stream),
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(e) => return Err(e),
            }
        }
    }

    async fn try_dial(&self, port: u32) -> anyhow::Result<Box<dyn Stream>> {
        match &self.device {
            Device::Ours(vsock) => Ok(Box::new(vsock.dial(port).await?)),
            Device::Reference(reference) => {
                let mut stream = UnixStream::connect(reference.dir.path().join("host")).await?;
                stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
                // Byte by byte: what follows the line is the stream's.
                let mut line = Vec::new();
                while line.last() != Some(&b'\n') {
                    line.push(stream.read_u8().await?);
                }
                if !line.starts_with(b"OK ") {
                    bail!("vhost-device-vsock answered {:?}", String::from_utf8_lossy(&line));
                }
                Ok(Box::new(stream))
            }
        }
    }
}

/// Finds the program, or installs it.
fn reference_program() -> anyhow::Result<PathBuf> {
    let root = cache_directory()?.join(format!("vhost-device-vsock-{VERSION}"));
    once(&root, |directory| {
        let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        install.args(["install", "vhost-device-vsock", "--version", VERSION, "--locked", "--root"]).arg(directory);
        // Not into this project's directory, and not with its lock.
        run(install.arg("--target-dir").arg(directory.join("target")).current_dir("/"))
    })
    .context("install vhost-device-vsock from crates.io")?;
    Ok(root.join("bin/vhost-device-vsock"))
}
