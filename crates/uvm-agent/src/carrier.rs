//! Which transport carries the bridge: the serial port of this project's host, or virtual sockets, as with any other host.
//!
//! The device tells them apart. A VM with the named serial port has the bridge on it; if it has virtual sockets as well,
//! these are for programs in the guest. A host whose devices are no PCI functions has no such port; what its virtual sockets
//! are made of is its own affair: that they lead to a host is all there is to know.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::flags::Level;
use crate::log::Log;
use crate::modules::{ModuleError, Modules};
use crate::port::{self, Port};
use crate::sys;

/// What carries the bridge.
pub(crate) enum Carrier {
    /// The named port.
    Serial(Port),
    /// Virtual sockets; their modules are loaded.
    VirtualSockets,
}

/// Nothing reaches the host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCarrier {
    #[error("this VM has neither a virtio serial port nor virtual sockets: nothing carries the bridge")]
    NoDevice(#[source] io::Error),
    #[error("the serial port to the host")]
    Port(#[source] io::Error),
    #[error("this VM has no serial port for the bridge, and its virtual sockets cannot be used")]
    VirtualSockets(#[source] ModuleError),
}

/// Finds what carries the bridge, and loads what virtual sockets need, whoever uses them.
pub(crate) async fn find(modules: &Modules, log: &Log) -> Result<Carrier, NoCarrier> {
    let functions = std::fs::read_to_string("/proc/bus/pci/devices").unwrap_or_default();
    let devices = Devices::among(&functions);
    if devices == (Devices { serial: false, virtual_sockets: false }) {
        return on_another_bus(modules).await;
    }
    let sockets = devices.virtual_sockets.then(|| modules.load("vsock"));
    let sockets_only = |sockets: Option<Result<(), ModuleError>>| match sockets {
        Some(Err(e)) => Err(NoCarrier::VirtualSockets(e)),
        Some(Ok(())) | None => Ok(Carrier::VirtualSockets),
    };
    let Some(patience) = devices.patience() else { return sockets_only(sockets) };
    match port::open(patience).await {
        Ok(port) => {
            if let Some(Err(e)) = sockets {
                log.error("virtual sockets cannot be used", &crate::failure::with_causes(&e));
            }
            Ok(Carrier::Serial(port))
        }
        Err(e) if sockets.is_some() => {
            log.add(Level::Info, "the serial ports are not for the bridge", &[("error", &e)]);
            sockets_only(sockets)
        }
        Err(e) => Err(NoCarrier::Port(e)),
    }
}

/// Virtual sockets of a device that is no PCI function, such as those of Hyper-V.
async fn on_another_bus(modules: &Modules) -> Result<Carrier, NoCarrier> {
    for group in ["other-buses", "vsock"] {
        modules.load(group).map_err(NoCarrier::VirtualSockets)?;
    }
    lead_to_a_host(sys::begin_vsock_to_host).await.map_err(NoCarrier::NoDevice)?;
    Ok(Carrier::VirtualSockets)
}

/// Waits until dialling finds a device. The sockets themselves are there without one; dialling fails at once then, and else
/// is on its way, whether anybody listens or not.
async fn lead_to_a_host(begin: impl Fn(u32) -> io::Result<OwnedFd>) -> io::Result<()> {
    let give_up = tokio::time::Instant::now() + ANOTHER_BUS;
    loop {
        match begin(NOBODYS_PORT) {
            Ok(_) => return Ok(()),
            Err(e) if tokio::time::Instant::now() >= give_up => return Err(e),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// A port of the host that means nothing to anybody.
const NOBODYS_PORT: u32 = 0xffff_fff0;
/// Devices of other buses may be found after their driver was loaded, within this time.
const ANOTHER_BUS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Which of the devices that could carry the bridge are there.
#[derive(Debug, PartialEq, Eq)]
struct Devices {
    serial: bool,
    virtual_sockets: bool,
}

/// Vendor and device of PCI functions, of virtio 1 and older. Virtio 1.2, sections 4.1.2.1 and 5; the older number of
/// virtual sockets is that of the one host that has them.
const SERIAL: [&str; 2] = ["1af41043", "1af41003"];
const VIRTUAL_SOCKETS: [&str; 2] = ["1af41053", "1af41012"];

impl Devices {
    /// Those among the PCI functions, which are listed as the kernel does it: a line for each, the second word of which is
    /// vendor and device.
    fn among(functions: &str) -> Self {
        let has = |wanted: [&str; 2]| {
            functions.lines().filter_map(|line| line.split_whitespace().nth(1)).any(|word| wanted.contains(&word))
        };
        Self { serial: has(SERIAL), virtual_sockets: has(VIRTUAL_SOCKETS) }
    }

    /// How long the named serial port may take to show up; `None`: there can be none.
    fn patience(&self) -> Option<Duration> {
        self.serial.then_some(if self.virtual_sockets { BEFORE_SOCKETS } else { WITHOUT_CHOICE })
    }
}

/// A serial device may be there for something else; then virtual sockets are taken. A port that shows up after that, on a
/// host that was slow, is served as well.
const BEFORE_SOCKETS: Duration = Duration::from_secs(5);
/// With nothing else to take, the slowest device may come.
const WITHOUT_CHOICE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn devices_are_told_by_vendor_and_device() {
        const HOST_BRIDGE: &str = "0000\t808629c0\t0\t               0\t               0";
        for (second, serial, virtual_sockets, patience) in [
            ("0018\t1af41043\tb\t               0", true, false, Some(30)),
            ("0018\t1af41003\tb\t               0", true, false, Some(30)),
            ("0018\t1af41053\tb\t               0", false, true, None),
            ("0018\t1af41012\tb\t               0", false, true, None),
            ("0018\t1af41043\tb\n0020\t1af41053\tb", true, true, Some(5)),
            // A disk; another vendor; a number that stands elsewhere.
            ("0018\t1af41048\tb\t        1af41053", false, false, None),
            ("0018\t80861053\tb\t               0", false, false, None),
        ] {
            let devices = Devices::among(&format!("{HOST_BRIDGE}\n{second}\n"));
            assert_eq!(devices, Devices { serial, virtual_sockets }, "{second}");
            assert_eq!(devices.patience(), patience.map(Duration::from_secs), "{second}");
        }
        assert_eq!(Devices::among(""), Devices { serial: false, virtual_sockets: false });
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pci_function_dialling_tells_whether_there_is_a_device() {
        let descriptor = || std::fs::File::open("/dev/null").map(OwnedFd::from);
        lead_to_a_host(|_| descriptor()).await.expect("there from the beginning");
        let dialled = Cell::new(0);
        let late = |_| {
            dialled.set(dialled.get() + 1);
            if dialled.get() < 100 { Err(rustix::io::Errno::NODEV.into()) } else { descriptor() }
        };
        lead_to_a_host(late).await.expect("there in the end");
        let error = lead_to_a_host(|_| Err(rustix::io::Errno::AFNOSUPPORT.into())).await.expect_err("nothing is there");
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()));
        let fatal = crate::failure::with_causes(&NoCarrier::NoDevice(error));
        assert!(fatal.contains("nor virtual sockets") && fatal.contains("not supported"), "{fatal}");
    }
}
