//! Shares that are virtio-fs devices: mounted by their tags, when the kernel has found them.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::time::Instant;
use uvm_wire::modify::MappedDirectory;

use super::{Storage, StorageError};
use crate::log;

/// How long between looks for a device that the kernel has not found yet. It tells nobody in all versions that have to do.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits for the device and mounts it.
pub(super) async fn add(storage: &Storage, share: MappedDirectory) -> Result<(), StorageError> {
    let (request, path) = storage.begin_at(Vec::new(), &share.mount_path).await?;
    let (modules, until) = (storage.modules.clone(), request.steps_until());
    let (points, late, late_path) = (storage.mount_points.clone(), storage.mount_points.clone(), path.clone());
    let task = format!("mounting share {:?} at {:?}, which the host has to answer for,", share.tag, share.mount_path);
    let undo = move || late.clear(&late_path);
    let work = move || {
        modules.load("virtiofs").map_err(StorageError::because)?;
        points.mount_at(&path, || mount(&share, &path, until))
    };
    request.run(&task, work, || (), undo).await
}

/// Unmounts a share. That it is not mounted is success.
pub(super) async fn remove(storage: &Storage, share: MappedDirectory) -> Result<(), StorageError> {
    let (request, path) = storage.begin_at(Vec::new(), &share.mount_path).await?;
    let task =
        format!("unmounting share {:?} from {:?}, which the host has to answer for,", share.tag, share.mount_path);
    let points = storage.mount_points.clone();
    let work =
        move || points.clear_if(&path, |mounted| mounted.filesystem == "virtiofs" && mounted.source == share.tag);
    request.run(&task, work, || (), || Ok(())).await
}

fn mount(share: &MappedDirectory, path: &Path, until: Instant) -> Result<(), StorageError> {
    let flags = if share.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    let attempt = || rustix::mount::mount(share.tag.as_str(), path, "virtiofs", flags, None);
    once_found(share, until, attempt)?;
    prepare(share, path)
}

/// Mounts by `attempt`, once there is a device of this tag.
fn once_found(
    share: &MappedDirectory,
    until: Instant,
    attempt: impl Fn() -> Result<(), Errno>,
) -> Result<(), StorageError> {
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            // There is none yet.
            Err(Errno::INVAL) if Instant::now() < until => thread::sleep(LOOK_AGAIN),
            Err(Errno::INVAL) => {
                return Err(StorageError::Late(format!("no device with the tag {:?} has come to be", share.tag)));
            }
            Err(e) => {
                return Err(StorageError::at(format!("mount share {:?} at {:?}", share.tag, share.mount_path))(
                    e.into(),
                ));
            }
        }
    }
}

/// Waits until the share's server and the kernel have agreed on how they speak, which mounting does not wait for, and has
/// files that are read from their beginning to their end be read by larger pieces.
fn prepare(share: &MappedDirectory, path: &Path) -> Result<(), StorageError> {
    let about = rustix::fs::stat(path).map_err(|e| {
        // Nobody has it yet.
        let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
        StorageError::at(format!("ask the host for share {:?}, mounted at {},", share.tag, path.display()))(e.into())
    })?;
    let (major, minor) = (rustix::fs::major(about.st_dev), rustix::fs::minor(about.st_dev));
    // The kernel's default (`VM_READAHEAD_PAGES`) costs a round trip for each 128 KiB. Without this, files are read slower.
    if let Err(e) = fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB.to_string()) {
        log::console(format_args!("share {:?} is read by small pieces: {e}", share.tag));
    }
    Ok(())
}

/// The most that the kernel asks such a server for at once (`FUSE_MAX_MAX_PAGES` of 4 KiB).
const READ_AHEAD_KIB: u32 = 1024;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use uvm_wire::Hresult;

    use super::*;

    #[test]
    fn a_device_is_waited_for_and_named_if_it_does_not_come() {
        let share = MappedDirectory { tag: "share-0".into(), ..MappedDirectory::default() };
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let (result, message) = once_found(&share, now, || Err(Errno::INVAL)).expect_err("none").told();
        assert_eq!(result, Hresult::TIMEOUT);
        assert!(message.ends_with("no device with the tag \"share-0\" has come to be"), "{message}");
        let missing = Cell::new(3);
        let comes = || missing.replace(missing.get() - 1).eq(&0).then_some(()).ok_or(Errno::INVAL);
        once_found(&share, later, comes).expect("it comes");
        let (result, message) = once_found(&share, later, || Err(Errno::PERM)).expect_err("refused").told();
        assert_eq!(result, Hresult::FAIL, "{message}");
    }

    #[tokio::test]
    async fn what_is_no_share_is_not_unmounted_as_one() {
        let storage = Storage::new(Arc::default());
        let share = |path: &str| MappedDirectory {
            mount_path: path.into(),
            tag: "share-0".into(),
            ..MappedDirectory::default()
        };
        let error = remove(&storage, share("/proc")).await.expect_err("it is no share").to_string();
        assert!(error.ends_with("(proc) is mounted at /proc, not what is to be removed"), "{error}");
        remove(&storage, share("/run/nothing-is-here")).await.expect("it is not mounted");
    }
}
