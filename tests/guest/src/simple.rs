//! One thing at a time on a virtual socket, or a Unix one.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// More than Linux puts into one piece of memory.
const BLOCK: usize = 64 * 1024;

pub(crate) fn host(port: u32) -> io::Result<VsockStream> {
    VsockStream::connect(&VsockAddr::new(VMADDR_CID_HOST, port))
}

/// What both kinds of sockets do.
trait Socket: Read + Write + Send + 'static {
    /// Closes the direction that is written.
    fn finish(&self) -> io::Result<()>;
}

impl Socket for VsockStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Socket for UnixStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

fn send(stream: &mut impl Socket, bytes: usize) -> io::Result<()> {
    let block: Vec<u8> = (0..BLOCK).map(|at| (at % 251) as u8).collect();
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BLOCK);
        stream.write_all(&block[..n])?;
        left -= n;
    }
    Ok(())
}

pub(crate) fn dial(port: u32, count: u32, bytes: usize) -> io::Result<()> {
    all((0..count).map(|_| host(port)).collect::<io::Result<_>>()?, bytes)
}

pub(crate) fn unix(path: &str, count: u32, bytes: usize) -> io::Result<()> {
    all((0..count).map(|_| UnixStream::connect(path)).collect::<io::Result<_>>()?, bytes)
}

pub(crate) fn ask(path: &str, text: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    print!("{answer}");
    Ok(())
}

/// Sends so much on each at once, half-closes, reads to the end; prints how much came.
fn all(streams: Vec<impl Socket>, bytes: usize) -> io::Result<()> {
    let threads: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || -> io::Result<usize> {
                send(&mut stream, bytes)?;
                stream.finish()?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer)
            })
        })
        .collect();
    let mut came = 0;
    for thread in threads {
        came += thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    println!("{came}");
    Ok(())
}

pub(crate) fn echo(port: u32) -> io::Result<()> {
    let listener = VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, port))?;
    println!("ready");
    let (mut stream, _) = listener.accept()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    stream.write_all(&bytes)
}

pub(crate) fn close(port: u32, bytes: usize) -> io::Result<()> {
    send(&mut host(port)?, bytes)
}
