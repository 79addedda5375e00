//! Memory-backed disks: found by where they are on the PCI bus, or by number, and mounted without copies in this guest.
//!
//! Their numbers follow the order in which the kernel takes them, and are given anew; so our hosts also say where the device
//! is. Such a one is let go of when it is removed: the host may keep it in its place, and the kernel takes it again when it
//! is to be mounted again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use uvm_wire::modify::VpmemDevice;

use super::arrivals::Arrivals;
use super::block::BlockDevice;
use super::filesystem::{self, Mounting};
use super::turns::Place;
use super::{Storage, StorageError, mount_point};
use crate::log;

/// How long the kernel may take to find a device: much longer than it does on a busy machine with emulated processors.
const FOUND_WITHIN: Duration = Duration::from_secs(20);
/// The most buses on the way to a device: more than any host has.
const BUSES: usize = 8;

/// Memory-backed disks, by the kernel's books.
#[derive(Clone, Debug)]
pub(super) struct PmemBus {
    /// `/sys`, but in tests.
    sys: PathBuf,
    /// `/dev`, likewise.
    dev: PathBuf,
    arrivals: Arrivals,
}

/// Which device is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    /// `/dev/pmem<number>`.
    Number(u32),
    /// Slot and function on each bus from the root on, as the kernel writes them: `12.0`, `03.0`.
    Pci(Vec<String>),
}

impl Which {
    fn of(device: &VpmemDevice) -> Result<Self, StorageError> {
        let path = device.pci_path.as_str();
        if path.is_empty() {
            return Ok(Self::Number(device.device_number));
        }
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let is_step = |step: &str| matches!(step.as_bytes(), [a, b, b'.', b'0'..=b'7'] if is_hex(*a) && is_hex(*b));
        let steps: Vec<_> = path.split('/').map(str::to_owned).collect();
        if steps.len() > BUSES || !steps.iter().all(|step| is_step(step)) {
            return Err(StorageError::Bad(format!(
                "PCI path {path:?}: one to {BUSES} slots and functions are allowed, as 12.0/03.0"
            )));
        }
        Ok(Self::Pci(steps))
    }

    /// What a request about it is about.
    fn place(&self) -> Place {
        Place::Memory(self.name())
    }

    fn name(&self) -> String {
        match self {
            Self::Number(number) => format!("pmem{number}"),
            Self::Pci(steps) => format!("at PCI {}", steps.join("/")),
        }
    }
}

/// Waits for a device, and mounts it read-only.
pub(super) async fn add(storage: &Storage, device: VpmemDevice) -> Result<(), StorageError> {
    if device.mapping_info.is_some() {
        return Err(StorageError::NotYet { what: "mounting a part of a memory-backed disk" });
    }
    let which = Which::of(&device)?;
    let (request, at) = storage.begin_at(vec![which.place()], &device.mount_path).await?;
    let until = request.steps_until().into_std();
    let task = format!("mounting the memory-backed disk {}", which.name());
    let (late, late_path, late_which) = (storage.clone(), at.clone(), which.clone());
    let undo = move || clear_and_let_go(&late, &late_path, &late_which);
    let storage = storage.clone();
    // The kernel cannot be told to stop.
    request.run(&task, move || find_and_mount(&storage, &at, &which, until), || (), undo).await
}

fn find_and_mount(storage: &Storage, path: &Path, which: &Which, until: Instant) -> Result<(), StorageError> {
    storage.modules.load("pmem").map_err(StorageError::because)?;
    let within = FOUND_WITHIN.min(until.saturating_duration_since(Instant::now()));
    let found = storage.pmem.find(which, within).map_err(|late| mount_point::taken_or(path, late));
    let mounted = found.and_then(|device| mount(storage, &device, which, path));
    if mounted.is_err()
        && let Err(e) = storage.pmem.let_go(which)
    {
        log::console(format_args!("a memory-backed disk that could not be mounted stays: {e}"));
    }
    mounted
}

/// The guest does not see that the device is read-only: what it wrote would vanish.
fn mount(storage: &Storage, device: &BlockDevice, which: &Which, path: &Path) -> Result<(), StorageError> {
    let mounting = Mounting { read_only: true, filesystem: "", options: &[], direct_access: true };
    filesystem::mount(storage, device, path, &mounting)?;
    storage.mount_points.note(path, which.place(), device.names());
    Ok(())
}

/// Unmounts a device, and lets go of it. That nothing is there is success.
pub(super) async fn remove(storage: &Storage, device: VpmemDevice) -> Result<(), StorageError> {
    let which = Which::of(&device)?;
    let (request, path) = storage.begin_at(vec![which.place()], &device.mount_path).await?;
    let task = format!("unmounting the memory-backed disk {}", which.name());
    let storage = storage.clone();
    request.run(&task, move || clear_and_let_go(&storage, &path, &which), || (), || Ok(())).await
}

fn clear_and_let_go(storage: &Storage, path: &Path, which: &Which) -> Result<(), StorageError> {
    let device = storage.pmem.there(which);
    let names = device.as_ref().map(BlockDevice::names).unwrap_or_default();
    let check = || storage.combined.check_unused(path);
    let was_mounted = storage.mount_points.clear_of(path, &which.place(), names, check)?;
    if let Which::Pci(_) = which
        && let Some(device) = device.filter(BlockDevice::is_claimed)
    {
        // It is mounted elsewhere, too: a file system whose device goes is lost.
        let at = path.display();
        let step = format!("let go of the disk of {at}, which is in use by another mount");
        let again = if was_mounted { mount(storage, &device, which, path) } else { Ok(()) };
        return Err(match again {
            Ok(()) => StorageError::at(step)(Errno::BUSY.into()),
            Err(e) => StorageError::Bad(format!("{step}; and it cannot be mounted at {at} again: {e}")),
        });
    }
    storage.pmem.let_go(which)?;
    storage.mount_points.forget(&which.place());
    Ok(())
}

impl PmemBus {
    /// Whose devices are told of by `arrivals`.
    pub(super) fn of_this_system(arrivals: Arrivals) -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), arrivals }
    }

    /// Waits for a device. One that was let go of is taken again.
    fn find(&self, which: &Which, within: Duration) -> Result<BlockDevice, StorageError> {
        let began = Instant::now();
        let arrival = self.arrivals.expect("/block/pmem".into());
        loop {
            let found = match which {
                Which::Number(number) => self.numbered(*number),
                Which::Pci(steps) => self.virtio_of(steps).and_then(|virtio| {
                    self.block_of(&virtio).or_else(|| {
                        if !virtio.join("driver").exists() {
                            // The kernel may just be taking it by itself.
                            let _ = self.tell_driver("bind", &virtio);
                        }
                        None
                    })
                }),
            };
            if let Some(device) = found.filter(BlockDevice::can_be_opened) {
                return Ok(device);
            }
            if began.elapsed() >= within {
                let name = which.name();
                return Err(StorageError::Late(format!(
                    "no memory-backed disk {name} has shown up within {within:.0?}"
                )));
            }
            arrival.wait();
        }
    }

    /// The device, if the kernel has it.
    fn there(&self, which: &Which) -> Option<BlockDevice> {
        match which {
            Which::Number(number) => self.numbered(*number),
            Which::Pci(steps) => self.virtio_of(steps).and_then(|virtio| self.block_of(&virtio)),
        }
    }

    /// The kernel lets go of a device that it can take again.
    fn let_go(&self, which: &Which) -> Result<(), StorageError> {
        let Which::Pci(steps) = which else { return Ok(()) };
        let Some(virtio) = self.virtio_of(steps) else { return Ok(()) };
        match self.tell_driver("unbind", &virtio) {
            // It has let go of it before, or has no driver for it.
            Err(e) if e.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            told => told.map_err(StorageError::at(format!("let go of the memory-backed disk {}", which.name()))),
        }
    }

    fn tell_driver(&self, verb: &str, virtio: &Path) -> io::Result<()> {
        let name = virtio.file_name().unwrap_or_default();
        fs::write(self.sys.join("bus/virtio/drivers/virtio_pmem").join(verb), name.as_encoded_bytes())
    }

    /// The directory of the virtio device at a place.
    fn virtio_of(&self, steps: &[String]) -> Option<PathBuf> {
        let root = self.sys.join("devices/pci0000:00");
        // 0000:01:03.0, whatever number its bus has.
        let device = steps.iter().try_fold(root, |bus, step| {
            child(&bus, |name| name.len() == "0000:00:00.0".len() && name.get(8..) == Some(step))
        })?;
        child(&device, |name| is_one(name, "virtio"))
    }

    fn numbered(&self, number: u32) -> Option<BlockDevice> {
        let name = format!("pmem{number}");
        self.sys.join("block").join(&name).exists().then(|| BlockDevice::new(&self.sys, &self.dev, &name))
    }

    /// The disk that a device is, below the regions and name spaces that the kernel makes of its memory.
    fn block_of(&self, virtio: &Path) -> Option<BlockDevice> {
        let below = ["ndbus", "region", "namespace"];
        let namespace = below.iter().try_fold(virtio.to_owned(), |at, kind| child(&at, |name| is_one(name, kind)))?;
        let disk = child(&namespace.join("block"), |name| is_one(name, "pmem"))?;
        Some(BlockDevice::new(&self.sys, &self.dev, disk.file_name()?.to_str()?))
    }
}

/// Whether it is the name of such a thing: with a number. Attributes have names like theirs.
fn is_one(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|number| number.starts_with(|c: char| c.is_ascii_digit()))
}

/// The first in a directory whose name is such.
fn child(directory: &Path, is_such: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    entries.filter_map(Result::ok).find(|entry| entry.file_name().to_str().is_some_and(&is_such)).map(|e| e.path())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use uvm_wire::Hresult;

    use super::*;

    /// A tree like the kernel's, with one device.
    fn bus() -> (tempfile::TempDir, PmemBus, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let device = dir.path().join("devices/pci0000:00/0000:00:12.0/0000:02:03.0/virtio5");
        fs::create_dir_all(&device).expect("made");
        // What a bridge has besides.
        fs::create_dir_all(dir.path().join("devices/pci0000:00/0000:00:12.0/pci_bus")).expect("made");
        fs::create_dir_all(dir.path().join("bus/virtio/drivers/virtio_pmem")).expect("made");
        let bus = PmemBus { sys: dir.path().to_owned(), dev: dir.path().join("dev"), arrivals: Arrivals::silent() };
        fs::create_dir(&bus.dev).expect("made");
        (dir, bus, device)
    }

    fn at(path: &str) -> Result<Which, StorageError> {
        Which::of(&VpmemDevice { pci_path: path.into(), device_number: 3, ..VpmemDevice::default() })
    }

    #[test]
    fn a_place_is_slots_and_functions_and_nothing_else() {
        assert_eq!(at("").expect("a number"), Which::Number(3));
        assert_eq!(at("12.0/03.7").expect("a place"), Which::Pci(vec!["12.0".into(), "03.7".into()]));
        let deep = ["01.0"; 9].join("/");
        for bad in ["..", "12.0/..", "/", "12.0/", "12.8", "1.0", "12.0//03.0", "12,0", "AB.0", "12.0\0", &deep] {
            let error = at(bad).expect_err(bad).to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("as 12.0/03.0"), "{error}");
        }
    }

    #[test]
    fn a_device_is_taken_and_its_disk_is_waited_for() {
        let (dir, bus, device) = bus();
        let which = at("12.0/03.0").expect("a place");
        let bound = dir.path().join("bus/virtio/drivers/virtio_pmem/bind");
        // Attributes of the kernel's, which may come first.
        fs::create_dir_all(device.join("ndbus0/region0")).expect("made");
        fs::write(device.join("ndbus0/region0/namespace_seed"), "").expect("written");
        let later = thread::spawn({
            let (device, bound, node) = (device.clone(), bound.clone(), bus.dev.join("pmem7"));
            let ready = dir.path().join("block/pmem7/bdi");
            move || {
                while !bound.exists() {
                    thread::sleep(Duration::from_millis(1));
                }
                fs::create_dir_all(device.join("ndbus0/region0/namespace0.0/block/pmem7")).expect("made");
                thread::sleep(Duration::from_millis(10));
                fs::write(node, "").expect("made");
                fs::create_dir_all(ready).expect("made");
            }
        });
        let found = bus.find(&which, Duration::from_secs(60)).expect("found");
        later.join().expect("joined");
        assert_eq!(found.node(), bus.dev.join("pmem7"));
        assert_eq!(fs::read_to_string(bound).expect("told"), "virtio5");
        bus.let_go(&which).expect("let go");
        let unbound = dir.path().join("bus/virtio/drivers/virtio_pmem/unbind");
        assert_eq!(fs::read_to_string(unbound).expect("told"), "virtio5");
    }

    #[tokio::test]
    async fn what_is_mounted_of_others_is_not_removed_with_a_device() {
        let (_dir, bus, device) = bus();
        let disk = device.join("ndbus0/region0/namespace0.0/block/pmem7");
        fs::create_dir_all(&disk).expect("made");
        fs::create_dir_all(bus.sys.join("block/pmem7")).expect("made");
        fs::write(bus.sys.join("block/pmem7/dev"), "259:7\n").expect("written");
        let unbound = bus.sys.join("bus/virtio/drivers/virtio_pmem/unbind");
        let storage = Storage { pmem: bus, ..Storage::new(std::sync::Arc::default()) };
        for pci_path in ["12.0/04.0", "12.0/03.0", ""] {
            let device = VpmemDevice {
                mount_path: "/proc".into(),
                device_number: 7,
                pci_path: pci_path.into(),
                ..VpmemDevice::default()
            };
            remove(&storage, device).await.expect("it is not mounted");
        }
        assert!(unbound.exists(), "it stays in the guest");
        assert!(super::super::mounts::Mounted::at(Path::new("/proc")).is_some());
    }

    #[test]
    fn a_device_that_is_not_there_is_named_and_let_go_of() {
        let (dir, bus, _device) = bus();
        for path in ["12.0/04.0", "13.0/03.0", "12.0", ""] {
            let which = at(path).expect("a place");
            let (result, message) = bus.find(&which, Duration::ZERO).expect_err("none").told();
            assert_eq!(result, Hresult::TIMEOUT);
            assert!(message.contains(&which.name()), "{message}");
            bus.let_go(&which).expect("nothing is there");
        }
        fs::remove_dir_all(dir.path().join("bus")).expect("removed");
        bus.let_go(&at("12.0/03.0").expect("a place")).expect("no driver has it");
        fs::create_dir_all(dir.path().join("block/pmem3/bdi")).expect("made");
        bus.find(&Which::Number(3), Duration::ZERO).expect_err("nobody can open it");
        fs::write(bus.dev.join("pmem3"), "").expect("made");
        assert_eq!(bus.find(&Which::Number(3), Duration::ZERO).expect("there").node(), bus.dev.join("pmem3"));
    }
}
