//! The serial port that carries the multiplexer: found by its name, which the host chose.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The name of the port.
pub(crate) const NAME: &str = "uvm.mux";
/// How long the device may take to show up once its driver is loaded.
const APPEARS_WITHIN: Duration = Duration::from_secs(30);
/// The kernel announces a port and its name in two steps; there is no event after the second.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Waits for the port and opens it.
///
/// # Errors
/// It does not show up, or cannot be opened.
pub(crate) async fn open() -> io::Result<File> {
    let never = |_| {
        let message = format!("no virtio serial port named {NAME} within {APPEARS_WITHIN:?}");
        io::Error::new(io::ErrorKind::NotFound, message)
    };
    let path = tokio::time::timeout(APPEARS_WITHIN, appear()).await.map_err(never)??;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

async fn appear() -> io::Result<PathBuf> {
    loop {
        match find(Path::new("/sys/class/virtio-ports"), NAME)? {
            Some(port) => return Ok(Path::new("/dev").join(port)),
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// The device name of the port called `name`.
fn find(class: &Path, name: &str) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(class) {
        Ok(entries) => entries,
        // The driver has not made its class yet.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let text = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if text.trim_end() == name {
            return Ok(entry.file_name().into_string().ok());
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_found_by_its_name() {
        let class = tempfile::tempdir().expect("a directory");
        let find = || find(class.path(), NAME).expect("readable");
        assert_eq!(find(), None);
        for (port, name) in [("vport1p1", "other\n"), ("vport1p2", "uvm.mux\n"), ("vport1p3", "")] {
            fs::create_dir(class.path().join(port)).expect("made");
            fs::write(class.path().join(port).join("name"), name).expect("written");
        }
        fs::create_dir(class.path().join("vport1p0")).expect("made");
        assert_eq!(find(), Some("vport1p2".into()));
        assert_eq!(super::find(Path::new("/nonexistent"), NAME).expect("not yet"), None);
    }
}
