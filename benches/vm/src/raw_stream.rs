//! A reference: a guest that fills streams of the multiplexer, or empties them, and does nothing else.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use uvm::image::BootFiles;
use uvm_bench_guest::{BLOCK, SINK, SOURCE};
use uvm_mux::channel::SocketChannel;
use uvm_mux::{Config, Greeting, GuestState, Mux, Role};

use crate::bare::BareQemu;
use crate::command_line::{CommandLine, MUX};
use crate::context::Context;

/// The guest's program.
pub(crate) const GUEST: &str = "bench-guest-stream";
const PATIENCE: Duration = Duration::from_secs(120);

/// Its VM, and the host's end of its streams. Dropping it ends both.
pub(crate) struct RawStream {
    mux: Mux,
    _qemu: BareQemu,
}

impl RawStream {
    /// Boots it, on this command line.
    pub(crate) async fn boot(context: &Context, line: &CommandLine, files: &BootFiles) -> anyhow::Result<Self> {
        let mut qemu = BareQemu::spawn(context.host.program(), line, files)?;
        let mux = connect(qemu.channel(MUX)?)?;
        tokio::time::timeout(PATIENCE, mux.up()).await.context("the reference guest did not come up")??;
        Ok(Self { mux, _qemu: qemu })
    }

    /// How fast so much comes from the guest, in MiB/s.
    pub(crate) async fn guest_to_host(&self, mib: u64) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut stream = self.mux.dial(SOURCE).await?;
        stream.write_u64_le(blocks(mib)).await?;
        count(stream, mib).await?;
        Ok(speed(mib, began))
    }

    /// How fast so much comes to the guest, in MiB/s.
    pub(crate) async fn host_to_guest(&self, mib: u64) -> anyhow::Result<f64> {
        let began = Instant::now();
        let mut stream = self.mux.dial(SINK).await?;
        stream.write_u64_le(blocks(mib)).await?;
        let block = vec![0; BLOCK];
        for _ in 0..blocks(mib) {
            stream.write_all(&block).await?;
        }
        stream.read_u8().await?;
        Ok(speed(mib, began))
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        self.mux.close();
    }
}

/// The host's end, with its driver on a thread of its own, as the library has it.
fn connect(socket: UnixStream) -> anyhow::Result<Mux> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let context = runtime.enter();
    let role = Role::Owner(Greeting::new(GuestState::Fresh)?);
    let (mux, driver) = Mux::new(SocketChannel::new(socket)?, role, Config::default());
    drop(context);
    std::thread::Builder::new().name("mux".into()).spawn(move || runtime.block_on(driver))?;
    Ok(mux)
}

/// So much, as blocks.
pub(crate) const fn blocks(mib: u64) -> u64 {
    (mib << 20) / BLOCK as u64
}

/// Reads to the end, which must come after so much.
pub(crate) async fn count(mut from: impl AsyncRead + Unpin, mib: u64) -> anyhow::Result<()> {
    let (mut buffer, mut total) = (vec![0; 2 * BLOCK], 0);
    loop {
        match from.read(&mut buffer).await? {
            0 => break,
            n => total += n as u64,
        }
    }
    ensure!(total == mib << 20, "{total} bytes came instead of {mib} MiB");
    Ok(())
}

/// MiB/s since `began`.
#[expect(clippy::cast_precision_loss, reason = "a small number")]
pub(crate) fn speed(mib: u64, began: Instant) -> f64 {
    mib as f64 / began.elapsed().as_secs_f64()
}
