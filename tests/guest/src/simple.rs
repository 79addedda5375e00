//! One thing at a time on a virtual socket.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::thread;

use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// More than Linux puts into one piece of memory.
const BLOCK: usize = 64 * 1024;

pub(crate) fn host(port: u32) -> io::Result<VsockStream> {
    VsockStream::connect(&VsockAddr::new(VMADDR_CID_HOST, port))
}

fn send(stream: &mut VsockStream, bytes: usize) -> io::Result<()> {
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
    let streams: Vec<VsockStream> = (0..count).map(|_| host(port)).collect::<io::Result<_>>()?;
    let threads: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || -> io::Result<usize> {
                send(&mut stream, bytes)?;
                stream.shutdown(Shutdown::Write)?;
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
