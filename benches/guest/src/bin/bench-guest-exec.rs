//! A guest that starts a process at each byte it is sent, and answers with a byte when the process has ended.
//!
//! Nothing but what an exec needs at least: one blocking read, a start that borrows the parent's memory as vfork does (the
//! standard library uses `posix_spawn` here), one wait, one write. The output ports are its own standard output and error,
//! so that each process simply inherits them.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use uvm_bench_guest::{EXEC_PORTS, READY, TRUE, load_boot_modules, mount_devices, open_port, pid_1};

uvm_bench_guest::in_the_agents_place!();

fn main() {
    pid_1(serve);
}

fn serve() -> io::Result<()> {
    load_boot_modules()?;
    mount_devices()?;
    let [control, stdout, stderr] = EXEC_PORTS.map(open_port);
    let mut control = control?;
    rustix::stdio::dup2_stdout(OwnedFd::from(stdout?).as_fd())?;
    rustix::stdio::dup2_stderr(OwnedFd::from(stderr?).as_fd())?;
    control.write_all(&[READY])?;
    let mut request = [0];
    // At the end of file the host's end is closed.
    while control.read(&mut request)? > 0 {
        let code = Command::new(TRUE).status()?.code().unwrap_or(255);
        control.write_all(&[code.try_into().unwrap_or(255)])?;
    }
    Ok(())
}
