//! The serial port that carries the multiplexer: found by its name, which the host chose.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys;

/// The name of the port.
pub(crate) const NAME: &str = "uvm.mux";
/// The kernel announces a port and its name in two steps; there is no event after the second.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Waits for the port to show up, once its driver is loaded, and opens it.
///
/// # Errors
/// It does not show up within `patience`, or cannot be opened.
pub(crate) async fn open(patience: Duration) -> io::Result<Port> {
    let never = |_| {
        let message = format!("no virtio serial port named {NAME} within {patience:?}");
        io::Error::new(io::ErrorKind::NotFound, message)
    };
    let name = tokio::time::timeout(patience, appear()).await.map_err(never)??;
    Ok(Port { file: open_device(&name)?, name })
}

/// A port that was opened, and its device's name.
pub(crate) struct Port {
    pub(crate) file: File,
    pub(crate) name: String,
}

fn open_device(name: &str) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(Path::new(DEVICES).join(name))
}

async fn appear() -> io::Result<String> {
    loop {
        match find(Path::new(CLASS), NAME)?.pop() {
            Some(port) => return Ok(port),
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Ports that show up later: each that is there and not in use is opened.
pub(crate) struct LaterPorts {
    /// Speaks when something is made in /dev.
    watch: AsyncFd<OwnedFd>,
}

impl LaterPorts {
    /// Begins to watch.
    pub(crate) fn watch() -> io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, DEVICES, inotify::WatchFlags::CREATE)?;
        Ok(Self { watch: sys::watch(watch, Interest::READABLE)? })
    }

    /// Waits for a port that is not among those `in_use`. `retry` is when to look again though nothing was made: a port
    /// that was lost may still be there.
    pub(crate) async fn next(&mut self, in_use: &HashSet<String>, retry: Option<Duration>) -> io::Result<Port> {
        let mut looks = if retry.is_some() { usize::MAX } else { 0 };
        let pause = retry.unwrap_or(LOOK_LATER);
        loop {
            let ports = find(Path::new(CLASS), NAME)?;
            if let Some(name) = ports.into_iter().find(|name| !in_use.contains(name))
                && let Ok(file) = open_device(&name)
            {
                return Ok(Port { file, name });
            }
            if looks == 0 {
                self.port_made().await?;
                looks = LOOKS;
            } else {
                // A port's name comes after the port.
                looks -= 1;
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Waits until a serial port is made. Cancel-safe: what was noticed is looked at before the next wait.
    async fn port_made(&self) -> io::Result<()> {
        loop {
            let mut ready = self.watch.readable().await?;
            let mut events = [0; 4096];
            let read = ready.try_io(|watch| Ok(rustix::io::read(watch, &mut events)?));
            let Ok(count) = read else { continue };
            // The names are in the events; other devices come and go.
            if events.get(..count?).is_some_and(|events| events.windows(PREFIX.len()).any(|name| name == PREFIX)) {
                return Ok(());
            }
        }
    }
}

const CLASS: &str = "/sys/class/virtio-ports";
const DEVICES: &str = "/dev";
/// What names of serial ports begin with.
const PREFIX: &[u8] = b"vport";
/// How often a port's name is looked for once a port was made, and how long apart.
const LOOKS: usize = 50;
const LOOK_LATER: Duration = Duration::from_millis(20);

/// The device names of the ports called `name`.
fn find(class: &Path, name: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(class) {
        Ok(entries) => entries,
        // The driver has not made its class yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let text = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if text.trim_end() == name {
            found.extend(entry.file_name().into_string().ok());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("a directory");
        let find = || find(class.path(), NAME).expect("readable");
        assert_eq!(find(), [""; 0]);
        for (port, name) in [("vport1p1", "other\n"), ("vport1p2", "uvm.mux\n"), ("vport1p3", "")] {
            fs::create_dir(class.path().join(port)).expect("made");
            fs::write(class.path().join(port).join("name"), name).expect("written");
        }
        fs::create_dir(class.path().join("vport1p0")).expect("made");
        assert_eq!(find(), ["vport1p2"]);
        assert_eq!(super::find(Path::new("/nonexistent"), NAME).expect("not yet"), [""; 0]);
    }
}
