//! A program for guests of tests: at one end of virtual sockets.
//!
//! * `dial PORT COUNT BYTES`: dials the host COUNT times at once, sends BYTES on each in writes of 64 KiB, half-closes, reads
//!   to the end; prints how many bytes came on all of them.
//! * `echo PORT`: listens, says `ready`, sends back what one connection sends, to the end of file.
//! * `close PORT BYTES`: dials the host, sends BYTES, and is gone.

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("dial") => linux::dial(number(1), number(2), number(3) as usize),
        Some("echo") => linux::echo(number(1)),
        Some("close") => linux::close(number(1), number(2) as usize),
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "dial, echo or close")),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::{self, Read, Write};
    use std::net::Shutdown;
    use std::thread;

    use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

    /// More than Linux puts into one piece of memory.
    const BLOCK: usize = 64 * 1024;

    fn host(port: u32) -> io::Result<VsockStream> {
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
}
