//! The guest's program: PID 1 of an initramfs that holds it and, as `/modules/NN-*.ko`, the modules for virtio-serial.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::mount::MountFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use uvm_bench_mux::{CHUNK, COMMAND_LEN, Command, MESSAGE, MUX_PORT, PLAIN_PORT, port};
use uvm_mux::channel::PortChannel;
use uvm_mux::{Config, Mux, MuxListener, MuxStream, Priority, Role};

fn main() -> Result<()> {
    let result = run();
    if let Err(error) = &result {
        println!("bench guest: {error:#}");
    }
    rustix::system::reboot(rustix::system::RebootCommand::PowerOff)?;
    result
}

fn run() -> Result<()> {
    for (kind, target) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        fs::create_dir_all(target)?;
        rustix::mount::mount(kind, target, kind, MountFlags::empty(), None).with_context(|| format!("mount {kind}"))?;
    }
    load_modules()?;
    let (mut plain, mux) = (open_port(PLAIN_PORT)?, open_port(MUX_PORT)?);
    thread::Builder::new().name("mux".into()).spawn(move || {
        if let Err(error) = run_mux(mux) {
            println!("bench guest: mux: {error:#}");
        }
    })?;
    plain.write_all(&[0])?; // ready
    serve_plain(&mut plain)
}

fn load_modules() -> Result<()> {
    let mut modules: Vec<_> =
        fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    modules.sort();
    for module in modules {
        let file = File::open(&module)?;
        rustix::system::finit_module(&file, c"", 0).with_context(|| format!("load {}", module.display()))?;
    }
    Ok(())
}

fn open_port(name: &str) -> Result<File> {
    for _ in 0..500 {
        if let Some(path) = find_port(name) {
            return OpenOptions::new().read(true).write(true).open(path).with_context(|| format!("open port {name}"));
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("no port {name}")
}

fn find_port(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let port = ports
        .flatten()
        .find(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|found| found.trim_end() == name))?;
    Some(PathBuf::from("/dev").join(port.file_name())).filter(|path| path.exists())
}

fn serve_plain(plain: &mut File) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let mut command = [0; COMMAND_LEN];
        plain.read_exact(&mut command)?;
        match Command::decode(command).context("unknown command")? {
            Command::Echo(n) => {
                for _ in 0..n {
                    plain.read_exact(&mut buffer[..MESSAGE])?;
                    plain.write_all(&buffer[..MESSAGE])?;
                }
            }
            Command::Sink(mut left) => {
                while left > 0 {
                    let n = plain.read(&mut buffer)?;
                    left = left.checked_sub(n as u64).context("more than was announced")?;
                }
                plain.write_all(&[0])?;
            }
            Command::Source(mut left) => {
                while left > 0 {
                    let n = plain.write(&buffer[..CHUNK.min(usize::try_from(left)?)])?;
                    left -= n as u64;
                }
            }
            Command::Quit => return Ok(()),
        }
    }
}

fn run_mux(mux: File) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (mux, driver) = Mux::new(PortChannel::new(mux)?, Role::Guest, Config::default());
        tokio::spawn(serve(mux.listen(port::ECHO)?, echo));
        tokio::spawn(serve(mux.listen(port::SINK)?, sink));
        tokio::spawn(serve(mux.listen(port::SOURCE)?, source));
        tokio::spawn(serve(mux.listen(port::PIPE_SOURCE)?, pipe_source));
        bail!("link down: {}", driver.await)
    })
}

async fn serve<F>(mut listener: MuxListener, service: fn(MuxStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    while let Ok(stream) = listener.accept().await {
        tokio::spawn(async move {
            if let Err(error) = service(stream).await {
                println!("bench guest: {error}");
            }
        });
    }
}

async fn echo(mut stream: MuxStream) -> std::io::Result<()> {
    stream.set_priority(Priority::Control);
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..n]).await?;
    }
}

async fn sink(mut stream: MuxStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut buffer).await? > 0 {}
    stream.write_all(&[0]).await?;
    stream.shutdown().await
}

async fn source(mut stream: MuxStream) -> std::io::Result<()> {
    let mut left = stream.read_u64_le().await?;
    let chunk = vec![0; CHUNK];
    while left > 0 {
        let n = left.min(CHUNK as u64);
        stream.write_all(&chunk[..n as usize]).await?;
        left -= n;
    }
    stream.shutdown().await
}

/// A thread stands for the process; what it writes to a pipe is relayed as an agent would.
async fn pipe_source(mut stream: MuxStream) -> std::io::Result<()> {
    let mut left = stream.read_u64_le().await?;
    let (reader, mut writer) = std::io::pipe()?;
    thread::spawn(move || {
        let chunk = vec![0; CHUNK];
        while left > 0 {
            let n = left.min(CHUNK as u64);
            if writer.write_all(&chunk[..n as usize]).is_err() {
                return;
            }
            left -= n;
        }
    });
    let reader = pipe::Receiver::from_owned_fd(reader.into())?;
    loop {
        reader.readable().await?;
        match std::future::poll_fn(|cx| stream.poll_fill(cx, |room| reader.try_read(room))).await {
            Ok(0) => return stream.shutdown().await,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
