//! PCI devices that are plugged into a port: waited for.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use uvm_wire::modify::VpciDevice;

use super::turns::Place;
use super::{Storage, StorageError};

/// How long the kernel may take to find a device: much longer than it does on a busy machine with emulated processors.
const FOUND_WITHIN: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Waits until a device is in the port.
pub(super) async fn add(storage: &Storage, device: VpciDevice) -> Result<(), StorageError> {
    let port = device.port;
    if port.is_empty() {
        return Err(StorageError::NotYet { what: "to find a VPCIDevice by its channel" });
    }
    let path = directory(Path::new("/sys"), &port)?;
    let request = storage.begin(vec![Place::Path(path.clone())]).await?;
    let until = request.steps_until().into_std();
    let task = format!("waiting for a PCI device in port {port}");
    request.run(&task, move || wait(&path, &port, until), || (), || Ok(())).await
}

/// What the kernel tells of a port.
fn directory(sys: &Path, port: &str) -> Result<PathBuf, StorageError> {
    if !is_address(port) {
        return Err(StorageError::Bad(format!("port {port:?} is no PCI address, as 0000:00:14.0")));
    }
    Ok(sys.join("bus/pci/devices").join(port))
}

fn wait(port: &Path, name: &str, until: Instant) -> Result<(), StorageError> {
    let until = until.min(Instant::now() + FOUND_WITHIN);
    loop {
        let entries = fs::read_dir(port).map_err(StorageError::at(format!("look at the PCI port {name}")))?;
        // What is behind a port has a directory of its own in it.
        if entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).any(|name| is_address(&name)) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(StorageError::Late(format!(
                "no PCI device has shown up in port {name} within {FOUND_WITHIN:.0?}"
            )));
        }
        thread::sleep(LOOK);
    }
}

/// Whether it is `DDDD:BB:SS.F`.
fn is_address(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() == 12
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b':',
            10 => *byte == b'.',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use uvm_wire::Hresult;

    use super::*;

    #[test]
    fn a_device_is_waited_for_and_named_if_it_does_not_come() {
        let sys = tempfile::tempdir().expect("a directory");
        let port = directory(sys.path(), "0000:00:14.0").expect("a port");
        let soon = || Instant::now();
        let (result, message) = wait(&port, "0000:00:14.0", soon()).expect_err("no port").told();
        assert_eq!(result, Hresult::FAIL);
        assert!(message.contains("PCI port 0000:00:14.0"), "{message}");
        fs::create_dir_all(port.join("power")).expect("made");
        let (result, message) = wait(&port, "0000:00:14.0", soon()).expect_err("no device").told();
        assert_eq!(result, Hresult::TIMEOUT);
        assert!(message.contains("no PCI device has shown up in port 0000:00:14.0"), "{message}");
        let later = thread::spawn({
            let port = port.clone();
            move || fs::create_dir(port.join("0000:02:00.0"))
        });
        wait(&port, "0000:00:14.0", Instant::now() + Duration::from_secs(60)).expect("it comes");
        later.join().expect("joined").expect("made");
    }

    #[test]
    fn a_port_is_an_address_and_no_path() {
        for bad in ["", "..", "0000:00:14", "../../../etc", "0000:00:14.0/x", "0000-00-14.0"] {
            assert!(directory(Path::new("/sys"), bad).is_err(), "{bad}");
        }
    }
}
