//! A guest that writes blocks straight into a stream of the multiplexer, or reads them: no process, no pipe, no bridge.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_bench_guest::{BLOCK, MUX_PORT, SINK, SOURCE, load_boot_modules, mount_devices, open_port, pid_1};
use uvm_mux::channel::PortChannel;
use uvm_mux::{Config, Mux, MuxStream, Role};

uvm_bench_guest::in_the_agents_place!();

fn main() {
    pid_1(serve);
}

fn serve() -> io::Result<()> {
    load_boot_modules()?;
    mount_devices()?;
    let port = open_port(MUX_PORT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (mux, driver) = Mux::new(PortChannel::new(port)?, Role::Guest, Config::default());
        let mut source = mux.listen(SOURCE).map_err(io::Error::other)?;
        tokio::spawn(async move {
            while let Ok(stream) = source.accept().await {
                tokio::spawn(write_blocks(stream));
            }
        });
        let mut sink = mux.listen(SINK).map_err(io::Error::other)?;
        tokio::spawn(async move {
            while let Ok(stream) = sink.accept().await {
                tokio::spawn(read_blocks(stream));
            }
        });
        driver.await;
        Ok(())
    })
}

async fn write_blocks(mut stream: MuxStream) -> io::Result<()> {
    let blocks = stream.read_u64_le().await?;
    let block = vec![0; BLOCK];
    for _ in 0..blocks {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await
}

async fn read_blocks(mut stream: MuxStream) -> io::Result<()> {
    let blocks = stream.read_u64_le().await?;
    let mut block = vec![0; BLOCK];
    for _ in 0..blocks {
        stream.read_exact(&mut block).await?;
    }
    stream.write_u8(0).await?;
    stream.shutdown().await
}
