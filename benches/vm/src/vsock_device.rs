//! Two devices for virtual sockets, each with a VM of the same guest on the same command line: ours in this process, and
//! `vhost-device-vsock`, a program of rust-vmm, in a process of its own.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream as StdStream};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use uvm::image::BootFiles;
use uvm_bench_guest::BLOCK;
use uvm_vsock::{Config, Vsock, VsockListener};

use crate::bare::BareQemu;
use crate::command_line::{CommandLine, VSOCK};
use crate::context::Context;
use crate::daemon::{Daemon, SOCKET};

/// What is installed.
pub(crate) const VERSION: &str = "0.3.0";
const CID: u64 = 3;
/// The reference's socket for those who dial, in its directory.
const HOST: &str = "host";
/// How long a guest may take to be ready.
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
    Reference(Daemon),
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
        let reference = Daemon::start(("vhost-device-vsock", VERSION), |command, dir| {
            command.arg("--guest-cid").arg(CID.to_string()).arg("--socket").arg(dir.join(SOCKET));
            command.arg("--uds-path").arg(dir.join(HOST));
        })?;
        let end = reference.connect()?;
        let given = BTreeMap::from([(VSOCK.to_owned(), OwnedFd::from(end))]);
        let qemu = BareQemu::spawn_with(context.host.program(), line, files, given)?;
        Ok(Self { _qemu: qemu, device: Device::Reference(reference) })
    }

    /// The process that runs the device.
    pub(crate) fn pid(&self) -> u32 {
        match &self.device {
            Device::Ours(_) => std::process::id(),
            Device::Reference(reference) => reference.pid(),
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
                let mut stream = UnixStream::connect(reference.path().join(HOST)).await?;
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

/// Has the guest's program at the other end fill so many blocks, and reads them.
pub(crate) async fn up(mut stream: Box<dyn Stream>, blocks: u64) -> anyhow::Result<()> {
    stream.write_u64_le(blocks).await?;
    let (mut buffer, mut left) = (vec![0; BLOCK], blocks * BLOCK as u64);
    while left > 0 {
        let n = stream.read(&mut buffer).await?;
        ensure!(n > 0, "it ended {left} bytes early");
        left -= n as u64;
    }
    Ok(())
}

/// Writes so many blocks, until the guest's program at the other end has read them.
pub(crate) async fn down(mut stream: Box<dyn Stream>, blocks: u64) -> anyhow::Result<()> {
    stream.write_u64_le(blocks).await?;
    let block = vec![0; BLOCK];
    for _ in 0..blocks {
        stream.write_all(&block).await?;
    }
    // All of it has been read.
    stream.read_u8().await?;
    Ok(())
}
