//! SCSI disks: controller c and LUN l are target c of the one adapter, at `/sys/bus/scsi/devices/H:0:c:l`.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uvm_wire::modify::MappedVirtualDisk;

use super::arrivals::Arrivals;
use super::block::BlockDevice;
use super::filesystem::{self, Mounting};
use super::mounts::mounted_elsewhere;
use super::request::Request;
use super::turns::Place;
use super::{Storage, StorageError, mount_point, path};
use crate::log;

/// How long the kernel may take to find a disk: much longer than it does on a busy machine with emulated processors and many
/// disks.
const FOUND_WITHIN: Duration = Duration::from_secs(20);

/// How long a partition that was there just now may take to be found.
const MOUNTED_AGAIN_WITHIN: Duration = Duration::from_secs(1);

/// The adapter's disks, by the kernel's books.
#[derive(Clone, Debug)]
pub(super) struct ScsiBus {
    /// `/sys`, but in tests.
    sys: PathBuf,
    /// `/dev`, likewise.
    dev: PathBuf,
    /// What was added and not let go of since, by controller and LUN: as it was asked for last.
    added: Arc<Mutex<HashMap<(u8, u8), MappedVirtualDisk>>>,
    arrivals: Arrivals,
}

/// Waits for a disk, and mounts it where that is asked for.
pub(super) async fn add(storage: &Storage, disk: MappedVirtualDisk) -> Result<(), StorageError> {
    if disk.encrypted {
        return Err(StorageError::NotYet { what: "encryption of a disk" });
    }
    if disk.ensure_filesystem {
        filesystem::check_makeable(&disk.filesystem)?;
    }
    let (request, path) = begin(storage, &disk).await?;
    let until = request.steps_until().into_std();
    let task = format!("adding {}", place(disk.controller, disk.lun));
    let (late, late_path, slot) = (storage.clone(), path.clone(), (disk.controller, disk.lun));
    let is_first = !storage.scsi.added().contains_key(&slot);
    let undo = move || {
        if is_first {
            clear_and_unplug(&late, slot, late_path.as_deref())
        } else {
            clear(&late, slot, late_path.as_deref()).map(drop)
        }
    };
    let storage = storage.clone();
    // The kernel cannot be told to stop.
    request.run(&task, move || add_now(&storage, &disk, path.as_deref(), until), || (), undo).await
}

/// Waits for the turn of a request about a disk; tells what the kernel calls the path, if there is one.
async fn begin(storage: &Storage, disk: &MappedVirtualDisk) -> Result<(Request, Option<PathBuf>), StorageError> {
    let place = place(disk.controller, disk.lun);
    if disk.mount_path.is_empty() {
        return Ok((storage.begin(vec![place]).await?, None));
    }
    let (request, path) = storage.begin_at(vec![place], &disk.mount_path).await?;
    Ok((request, Some(path)))
}

/// A disk that could not be added is let go of, because the host takes it away again, and whoever comes to its place next is
/// not to be taken for it. Not if an earlier addition is there, whose disk it is.
fn add_now(
    storage: &Storage,
    disk: &MappedVirtualDisk,
    path: Option<&Path>,
    until: Instant,
) -> Result<(), StorageError> {
    let slot = (disk.controller, disk.lun);
    let added = find_and_mount(storage, disk, path, until);
    if added.is_ok() {
        storage.scsi.added().insert(slot, disk.clone());
    } else if !storage.scsi.added().contains_key(&slot)
        && let Err(e) = storage.scsi.unplug(disk.controller, disk.lun)
    {
        log::console(format_args!("a disk that could not be added stays: {e}"));
    }
    added
}

fn find_and_mount(
    storage: &Storage,
    disk: &MappedVirtualDisk,
    path: Option<&Path>,
    until: Instant,
) -> Result<(), StorageError> {
    storage.modules.load("scsi").map_err(StorageError::because)?;
    let within = FOUND_WITHIN.min(until.saturating_duration_since(Instant::now()));
    let found = storage.scsi.find(disk.controller, disk.lun, within);
    let Some(path) = path else { return found.map(drop) };
    let whole = found.map_err(|late| mount_point::taken_or(path, late))?;
    let device = if disk.partition == 0 { whole } else { whole.partition(disk.partition, until)? };
    let points = &storage.mount_points;
    if disk.block_dev {
        return points.link(path, place(disk.controller, disk.lun), &device);
    }
    if disk.ensure_filesystem {
        filesystem::ensure(&device)?;
    }
    let mounting = Mounting {
        read_only: disk.read_only,
        filesystem: &disk.filesystem,
        options: &disk.options,
        direct_access: false,
    };
    filesystem::mount(storage, &device, path, &mounting)?;
    points.note(path, place(disk.controller, disk.lun), device.names());
    Ok(())
}

/// Unmounts a disk, if it is mounted, and has the kernel let go of it, as agents of January 2021 do. Nothing of it there is
/// success: whoever asks again may not have had the first answer.
pub(super) async fn remove(storage: &Storage, disk: MappedVirtualDisk) -> Result<(), StorageError> {
    let (request, path) = begin(storage, &disk).await?;
    let task = format!("removing {}", place(disk.controller, disk.lun));
    let (storage, slot) = (storage.clone(), (disk.controller, disk.lun));
    request.run(&task, move || clear_and_unplug(&storage, slot, path.as_deref()), || (), || Ok(())).await
}

/// Has the kernel let go of a disk that is mounted nowhere.
pub(super) async fn unplug(storage: &Storage, controller: u8, lun: u8) -> Result<(), StorageError> {
    let place = place(controller, lun);
    let task = format!("letting go of {place}");
    let request = storage.begin(vec![place]).await?;
    let storage = storage.clone();
    request.run(&task, move || unplug_now(&storage, (controller, lun)), || (), || Ok(())).await
}

/// Unmounts a disk if it is mounted at the path, or removes the link to it. Whether it was mounted.
fn clear(storage: &Storage, (controller, lun): (u8, u8), path: Option<&Path>) -> Result<bool, StorageError> {
    let Some(path) = path else { return Ok(false) };
    let names = storage.scsi.there(controller, lun)?.map(|device| device.names()).unwrap_or_default();
    let check = || storage.combined.check_unused(path);
    storage.mount_points.clear_of(path, &place(controller, lun), names, check)
}

fn clear_and_unplug(storage: &Storage, slot: (u8, u8), path: Option<&Path>) -> Result<(), StorageError> {
    if let Some(device) = storage.scsi.there(slot.0, slot.1)? {
        // A file system whose disk goes is lost: one that somebody else has mounted keeps it, and leaves all as it is.
        if let Some(at) = mounted_elsewhere(&device.names().numbers, path) {
            let step = format!("let go of {}, which is mounted at {} as well", device.node().display(), at.display());
            return Err(StorageError::at(step)(rustix::io::Errno::BUSY.into()));
        }
        // A link to it claims nothing: who has it for himself would keep it, without the link.
        if path.is_some_and(Path::is_symlink) {
            must_be_free(&device)?;
        }
    }
    let was_mounted = clear(storage, slot, path)?;
    let Err(busy) = unplug_now(storage, slot) else { return Ok(()) };
    if was_mounted {
        mount_again(storage, slot, path)
            .map_err(|e| StorageError::Bad(format!("{busy}; and it cannot be mounted again where it was: {e}")))?;
    }
    Err(busy)
}

/// A disk that stays is to be where whoever has it believes it to be.
fn mount_again(storage: &Storage, slot: (u8, u8), path: Option<&Path>) -> Result<(), StorageError> {
    let was_there =
        |disk: &MappedVirtualDisk| path::resolved(Path::new(&disk.mount_path)).is_ok_and(|found| Some(&*found) == path);
    let asked_for = storage.scsi.added().get(&slot).filter(|disk| was_there(disk)).cloned();
    let asked_for = asked_for.ok_or_else(|| StorageError::Bad("it is not known how it was mounted".into()))?;
    find_and_mount(storage, &asked_for, path, Instant::now() + MOUNTED_AGAIN_WITHIN)
}

fn unplug_now(storage: &Storage, (controller, lun): (u8, u8)) -> Result<(), StorageError> {
    storage.scsi.unplug(controller, lun)?;
    storage.mount_points.forget(&place(controller, lun));
    Ok(())
}

/// Fails where something has the device for itself.
fn must_be_free(device: &BlockDevice) -> Result<(), StorageError> {
    if device.is_claimed() {
        let step = format!("let go of {}, which something in the guest has for itself", device.node().display());
        return Err(StorageError::at(step)(rustix::io::Errno::BUSY.into()));
    }
    Ok(())
}

fn place(controller: u8, lun: u8) -> Place {
    Place::Disk { controller, lun }
}

impl ScsiBus {
    /// Whose disks are told of by `arrivals`.
    pub(super) fn of_this_system(arrivals: Arrivals) -> Self {
        Self { sys: "/sys".into(), dev: "/dev".into(), added: Arc::default(), arrivals }
    }

    fn added(&self) -> MutexGuard<'_, HashMap<(u8, u8), MappedVirtualDisk>> {
        self.added.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel look at the place, and waits for a disk there.
    pub(super) fn find(&self, controller: u8, lun: u8, within: Duration) -> Result<BlockDevice, StorageError> {
        let began = Instant::now();
        let arrival = self.arrivals.expect(format!(":0:{controller}:{lun}/block/"));
        let mut asked = false;
        loop {
            // The driver may have been loaded just now.
            if let Some(host) = self.host()? {
                if let Some(device) = self.at(host, controller, lun)?.filter(BlockDevice::can_be_opened) {
                    return Ok(device);
                }
                if !asked {
                    self.ask(host, controller, lun)?;
                    asked = true;
                }
            }
            if began.elapsed() >= within {
                return Err(StorageError::Late(format!(
                    "no disk has shown up at controller {controller}, LUN {lun} within {within:.0?}"
                )));
            }
            arrival.wait();
        }
    }

    /// The kernel lets go of the disk, once what was written to it is on it.
    fn unplug(&self, controller: u8, lun: u8) -> Result<(), StorageError> {
        if let Some(device) = self.there(controller, lun)? {
            must_be_free(&device)?;
        }
        self.added().remove(&(controller, lun));
        let Some(host) = self.host()? else { return Ok(()) };
        let place = self.place(host, controller, lun);
        match fs::write(place.join("delete"), "1") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StorageError::at(format!("let go of the disk at controller {controller}, LUN {lun}"))(e))
            }
            _ => Ok(()),
        }
    }

    /// The disk at a place, if there is one.
    fn there(&self, controller: u8, lun: u8) -> Result<Option<BlockDevice>, StorageError> {
        self.host()?.map_or(Ok(None), |host| self.at(host, controller, lun))
    }

    /// The disk at a place of this adapter, if there is one.
    fn at(&self, host: u32, controller: u8, lun: u8) -> Result<Option<BlockDevice>, StorageError> {
        Ok(block_of(&self.place(host, controller, lun))?.map(|name| BlockDevice::new(&self.sys, &self.dev, &name)))
    }

    /// The adapter's number: the first of them, which every VM has only one of.
    fn host(&self) -> Result<Option<u32>, StorageError> {
        let hosts = self.sys.join("class/scsi_host");
        let numbers = names(&hosts).map_err(StorageError::at("look for SCSI adapters"))?;
        Ok(numbers.iter().filter_map(|name| name.strip_prefix("host")?.parse().ok()).min())
    }

    fn place(&self, host: u32, controller: u8, lun: u8) -> PathBuf {
        self.sys.join(format!("bus/scsi/devices/{host}:0:{controller}:{lun}"))
    }

    /// The adapter says nothing of disks that come and go (see the owner's command line): the kernel has to be asked.
    fn ask(&self, host: u32, controller: u8, lun: u8) -> Result<(), StorageError> {
        let scan = self.sys.join(format!("class/scsi_host/host{host}/scan"));
        fs::write(scan, format!("0 {controller} {lun}")).map_err(StorageError::at("look for new disks"))
    }
}

/// The name of the block device at a place, if there is one already.
fn block_of(place: &Path) -> Result<Option<String>, StorageError> {
    let blocks = names(&place.join("block")).map_err(StorageError::at(format!("look at {}", place.display())))?;
    Ok(blocks.into_iter().next())
}

/// What is in a directory; nothing if it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use uvm_wire::Hresult;

    use super::*;

    /// Trees like the kernel's, with one adapter, and the node of an empty disk.
    fn bus() -> (tempfile::TempDir, ScsiBus) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("class/scsi_host/host3")).expect("made");
        let dev = dir.path().join("dev");
        fs::create_dir(&dev).expect("made");
        fs::write(dev.join("sdq"), "").expect("made");
        fs::create_dir_all(dir.path().join("block/sdq/bdi")).expect("made");
        let arrivals = Arrivals::silent();
        let bus = ScsiBus { sys: dir.path().to_owned(), dev, added: Arc::default(), arrivals };
        (dir, bus)
    }

    #[test]
    fn a_disk_is_asked_for_and_waited_for() {
        let (dir, bus) = bus();
        let later = thread::spawn({
            let sys = dir.path().to_owned();
            move || {
                let scan = sys.join("class/scsi_host/host3/scan");
                while !scan.exists() {
                    thread::sleep(Duration::from_millis(1));
                }
                fs::create_dir_all(sys.join("bus/scsi/devices/3:0:2:0/block/sdq")).expect("made");
                fs::read_to_string(scan).expect("read")
            }
        });
        let device = bus.find(2, 0, Duration::from_secs(60)).expect("found");
        assert_eq!(device.node(), dir.path().join("dev/sdq"));
        assert_eq!(later.join().expect("joined"), "0 2 0");
    }

    #[test]
    fn a_disk_that_nobody_can_open_yet_is_waited_for() {
        let (dir, bus) = bus();
        fs::remove_file(dir.path().join("dev/sdq")).expect("removed");
        fs::create_dir_all(dir.path().join("bus/scsi/devices/3:0:2:0/block/sdq")).expect("made");
        bus.find(2, 0, Duration::ZERO).expect_err("listed, and no more");
        fs::write(dir.path().join("dev/sdq"), "").expect("made");
        fs::remove_dir(dir.path().join("block/sdq/bdi")).expect("removed");
        bus.find(2, 0, Duration::ZERO).expect_err("with a node, and not ready");
        fs::create_dir(dir.path().join("block/sdq/bdi")).expect("made");
        bus.find(2, 0, Duration::ZERO).expect("found");
    }

    #[test]
    fn a_disk_that_does_not_come_is_named() {
        let (dir, bus) = bus();
        let look = || bus.find(1, 7, Duration::ZERO).expect_err("there is none").told();
        let (result, message) = look();
        assert_eq!(result, Hresult::TIMEOUT);
        assert!(message.contains("controller 1, LUN 7"), "{message}");
        fs::remove_dir_all(dir.path().join("class")).expect("removed");
        assert_eq!(look(), (result, message), "not even an adapter");
    }

    #[test]
    fn a_disk_that_does_not_come_is_not_taken_back_from_a_path_that_is_taken() {
        let (_dir, bus) = bus();
        let storage = Storage { scsi: bus, ..Storage::new(Arc::default()) };
        let told = |path: &str| {
            let disk = MappedVirtualDisk { lun: 7, mount_path: path.into(), ..MappedVirtualDisk::default() };
            let path = Some(Path::new(path)).filter(|path| path.is_absolute());
            find_and_mount(&storage, &disk, path, Instant::now()).expect_err("there is none").told()
        };
        assert_eq!(told("").0, Hresult::TIMEOUT);
        assert_eq!(told("/nothing-is-mounted-here").0, Hresult::TIMEOUT);
        let (result, message) = told("/proc");
        assert_eq!(result, Hresult::FAIL);
        assert!(message.ends_with("is mounted at /proc already"), "{message}");
    }

    #[test]
    fn a_disk_is_let_go_of_once() {
        let (dir, bus) = bus();
        let place = dir.path().join("bus/scsi/devices/3:0:0:63");
        fs::create_dir_all(&place).expect("made");
        bus.unplug(0, 63).expect("there");
        assert_eq!(fs::read_to_string(place.join("delete")).expect("written"), "1");
        fs::remove_dir_all(&place).expect("removed");
        bus.unplug(0, 63).expect("gone already");
    }

    #[tokio::test]
    async fn what_is_mounted_of_others_is_not_removed_with_a_disk() {
        let (dir, bus) = bus();
        let storage = Storage { scsi: bus, ..Storage::new(Arc::default()) };
        let disk = MappedVirtualDisk { lun: 7, mount_path: "/proc".into(), ..MappedVirtualDisk::default() };
        remove(&storage, disk.clone()).await.expect("it is not there");
        let place = dir.path().join("bus/scsi/devices/3:0:0:7");
        fs::create_dir_all(place.join("block/sdq")).expect("made");
        fs::write(dir.path().join("block/sdq/dev"), "8:256\n").expect("written");
        add(&storage, disk.clone()).await.expect_err("something is mounted there");
        fs::remove_file(place.join("delete")).expect("it was let go of");
        remove(&storage, disk).await.expect("it is not mounted");
        assert!(place.join("delete").exists(), "it stays in the guest");
        assert!(super::super::mounts::Mounted::at(Path::new("/proc")).is_some());
    }

    #[tokio::test]
    async fn a_removal_waits_for_the_addition_before_it() {
        let (dir, bus) = bus();
        let storage = Storage { scsi: bus, ..Storage::new(Arc::default()) };
        let place = dir.path().join("bus/scsi/devices/3:0:1:5");
        fs::create_dir_all(&place).expect("made");
        let disk = MappedVirtualDisk { controller: 1, lun: 5, ..MappedVirtualDisk::default() };
        let added = tokio::spawn({
            let (storage, disk) = (storage.clone(), disk.clone());
            async move { add(&storage, disk).await }
        });
        let scan = dir.path().join("class/scsi_host/host3/scan");
        while !scan.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // It is looked for now.
        let mut removed = tokio::spawn(async move { remove(&storage, disk).await });
        let early = tokio::time::timeout(Duration::from_millis(100), &mut removed).await;
        assert!(early.is_err() && !place.join("delete").exists(), "the removal overtook the addition");
        fs::create_dir_all(place.join("block/sdq")).expect("made");
        added.await.expect("joined").expect("added");
        removed.await.expect("joined").expect("removed");
        assert!(place.join("delete").exists());
    }

    #[tokio::test]
    async fn a_disk_that_cannot_be_mounted_is_let_go_of_unless_it_was_added_before() {
        let (dir, bus) = bus();
        let storage = Storage { scsi: bus, ..Storage::new(Arc::default()) };
        let place = dir.path().join("bus/scsi/devices/3:0:1:5");
        fs::create_dir_all(place.join("block/sdq")).expect("made");
        let attached = MappedVirtualDisk { controller: 1, lun: 5, ..MappedVirtualDisk::default() };
        let mounted = MappedVirtualDisk { mount_path: "/run/no-file-system".into(), ..attached.clone() };
        add(&storage, attached.clone()).await.expect("attached");
        add(&storage, mounted.clone()).await.expect_err("it is empty");
        assert!(!place.join("delete").exists(), "it was attached before");
        remove(&storage, attached).await.expect("removed");
        fs::remove_file(place.join("delete")).expect("let go of");
        add(&storage, mounted).await.expect_err("it is empty");
        assert!(place.join("delete").exists(), "it stays in the guest");
    }
}
