//! What the reference guests share, and what they and the host's program agree on.
//!
//! A reference guest is what a VM's agent is compared with: a program that stands in the agent's place (`/init` of the same
//! initramfs, on the same QEMU and kernel line) and does only what the measurement needs.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::MountFlags;

/// Where the measured guests have a static program that does nothing.
pub const TRUE: &str = "/bin/bench-true";
/// Where they have a program that writes as many blocks of [`BLOCK`] bytes as its argument says.
pub const WRITE: &str = "/bin/bench-write";
/// Where they have a program that reads or writes a file and prints how fast.
pub const FILE: &str = "/bin/bench-file";
/// Bytes of one write of bulk: what the guest's kernel takes at once.
pub const BLOCK: usize = 32 * 1024;

/// Ports of the guest that starts processes on demand: requests and answers, the processes' output, their errors.
pub const EXEC_PORTS: [&str; 3] = ["bench.control", "bench.stdout", "bench.stderr"];
/// What that guest sends when it is ready.
pub const READY: u8 = b'r';

/// The port of a guest that carries out orders, each a line.
pub const CONTROL_PORT: &str = "bench.control";

/// The port that carries the multiplexer.
pub const MUX_PORT: &str = "uvm.mux";
/// The stream on which a guest reads a number of blocks (8 bytes, little endian) and writes them.
pub const SOURCE: u32 = 1;
/// The stream on which it reads a number of blocks, then the blocks, and writes a byte.
pub const SINK: u32 = 2;

/// Ports of the guest that serves virtual sockets, each connection by itself until its end.
pub mod vsock_port {
    /// Sends back messages of [`MESSAGE`](super::MESSAGE) bytes.
    pub const ECHO: u32 = 1;
    /// Reads a number of blocks (8 bytes, little endian), reads them, sends one byte; and again.
    pub const SINK: u32 = 2;
    /// Reads a number of blocks and writes them; and again.
    pub const SOURCE: u32 = 3;
    /// At each byte dials [`OUTPUT`] and [`ERRORS`] of the host, starts [`TRUE`](super::TRUE) with them, and sends its
    /// exit code.
    pub const EXEC: u32 = 4;
    /// Of the host: a process's standard output.
    pub const OUTPUT: u32 = 5;
    /// Of the host: a process's standard error.
    pub const ERRORS: u32 = 6;
}
/// Bytes of a message whose round trip is measured.
pub const MESSAGE: usize = 64;

/// Makes a program one that may stand in the agent's place: whoever makes an initramfs looks for a version in it.
#[macro_export]
macro_rules! in_the_agents_place {
    () => {
        #[used]
        static VERSION: &str = concat!("uvm-agent-version:", env!("CARGO_PKG_VERSION"), "\0");
    };
}

/// Runs `guest` as PID 1 and powers off. What goes wrong is said on the console.
pub fn pid_1(guest: impl FnOnce() -> io::Result<()>) {
    if let Err(e) = guest() {
        println!("reference guest: {e}");
    }
    if let Err(e) = rustix::system::reboot(rustix::system::RebootCommand::PowerOff) {
        println!("reference guest: cannot power off: {e}");
    }
}

/// Loads the modules that the agent loads first, in its order.
pub fn load_boot_modules() -> io::Result<()> {
    load_modules("boot")
}

/// Loads the modules of a group.
pub fn load_modules(group: &str) -> io::Result<()> {
    let index = fs::read_to_string("/lib/modules/uvm.index")?;
    let value = |key: &str| index.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim();
    let root = Path::new("/lib/modules").join(value("release:"));
    for word in value(&format!("group {group}:")).split_whitespace() {
        // A processor that cannot use an optional one is fine without it.
        let (module, is_optional) = word.strip_prefix('?').map_or((word, false), |module| (module, true));
        let file = File::open(root.join(module))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(_) if is_optional => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Mounts what [`open_port`] needs.
pub fn mount_devices() -> io::Result<()> {
    for (kind, target) in [("devtmpfs", "/dev"), ("sysfs", "/sys")] {
        match rustix::mount::mount(kind, target, kind, MountFlags::empty(), None) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Opens the virtio-serial port of that name, once it is there.
pub fn open_port(name: &str) -> io::Result<File> {
    let began = Instant::now();
    loop {
        if let Some(path) = find_port(name) {
            return OpenOptions::new().read(true).write(true).open(path);
        }
        if began.elapsed() > APPEARS_WITHIN {
            return Err(io::Error::other(format!("no port {name} within {APPEARS_WITHIN:?}")));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

const APPEARS_WITHIN: Duration = Duration::from_secs(30);

fn find_port(name: &str) -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    let named = |port: &fs::DirEntry| fs::read_to_string(port.path().join("name")).is_ok_and(|n| n.trim_end() == name);
    let port = ports.flatten().find(named)?;
    Some(Path::new("/dev").join(port.file_name())).filter(|path| path.exists())
}
