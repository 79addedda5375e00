//! A guest that serves virtual sockets, each connection by a thread: messages to send back, blocks to read and to write.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use uvm_bench_guest::{BLOCK, MESSAGE, TRUE, load_boot_modules, load_modules, mount_devices, pid_1, vsock_port};
use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

uvm_bench_guest::in_the_agents_place!();

/// There is a thread for each connection.
const STACK: usize = 64 * 1024;

fn main() {
    pid_1(|| {
        load_boot_modules()?;
        mount_devices()?;
        load_modules("vsock")?;
        let sink = thread::spawn(|| serve(vsock_port::SINK, sink));
        let source = thread::spawn(|| serve(vsock_port::SOURCE, source));
        let exec = thread::spawn(|| serve(vsock_port::EXEC, exec));
        serve(vsock_port::ECHO, echo)?;
        for thread in [sink, source, exec] {
            thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
        }
        Ok(())
    });
}

fn serve(port: u32, each: fn(VsockStream) -> io::Result<()>) -> io::Result<()> {
    let listener = VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, port))?;
    loop {
        let (stream, _) = listener.accept()?;
        thread::Builder::new().stack_size(STACK).spawn(move || {
            // The host ends it in the midst of a read.
            let _ = each(stream);
        })?;
    }
}

fn echo(mut stream: VsockStream) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

fn sink(mut stream: VsockStream) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        for _ in 0..blocks(&mut stream)? {
            stream.read_exact(&mut block)?;
        }
        stream.write_all(&[0])?;
    }
}

fn source(mut stream: VsockStream) -> io::Result<()> {
    let block = vec![0; BLOCK];
    loop {
        for _ in 0..blocks(&mut stream)? {
            stream.write_all(&block)?;
        }
    }
}

fn exec(mut control: VsockStream) -> io::Result<()> {
    let dial = |port| -> io::Result<Stdio> {
        let stream = VsockStream::connect(&VsockAddr::new(VMADDR_CID_HOST, port))?;
        Ok(stream.as_fd().try_clone_to_owned()?.into())
    };
    let mut request = [0];
    while control.read(&mut request)? > 0 {
        let mut command = Command::new(TRUE);
        command.stdin(Stdio::null()).stdout(dial(vsock_port::OUTPUT)?).stderr(dial(vsock_port::ERRORS)?);
        let code = command.status()?.code().unwrap_or(255);
        // The command holds them, too; their ends are to be those of the process.
        drop(command);
        control.write_all(&[code.try_into().unwrap_or(255)])?;
    }
    Ok(())
}

fn blocks(stream: &mut VsockStream) -> io::Result<u64> {
    let mut number = [0; 8];
    stream.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}
