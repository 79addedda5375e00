//! The first steps of PID 1: mounts, the transport's modules, the rest of the world a program expects.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, mount};

use crate::flags::Level;
use crate::log::Log;

/// What is mounted, in order: source, target, type, flags, options.
const MOUNTS: [(&str, &str, &str, MountFlags, &str); 8] = [
    ("proc", "/proc", "proc", NO_PROGRAMS, ""),
    ("sysfs", "/sys", "sysfs", NO_PROGRAMS, ""),
    ("dev", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755"),
    ("devpts", "/dev/pts", "devpts", MountFlags::NOSUID.union(MountFlags::NOEXEC), "mode=0620,ptmxmode=0666,gid=5"),
    ("shm", "/dev/shm", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777"),
    ("run", "/run", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=0755"),
    ("tmp", "/tmp", "tmpfs", MountFlags::NOSUID.union(MountFlags::NODEV), "mode=1777"),
    ("cgroup", "/sys/fs/cgroup", "cgroup2", NO_PROGRAMS, ""),
];

const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// The kernel cannot give this guest what it needs.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {kind} on {target}")]
pub(crate) struct MountError {
    kind: &'static str,
    target: &'static str,
    source: io::Error,
}

/// Mounts what every program expects.
///
/// # Errors
/// /proc, /sys or /dev cannot be mounted; what else fails is logged.
pub(crate) fn mount_all(log: &Log) -> Result<(), MountError> {
    for (source, target, kind, flags, options) in MOUNTS {
        let options = std::ffi::CString::new(options).unwrap_or_default();
        let mounted =
            fs::create_dir_all(target).and_then(|()| Ok(mount(source, target, kind, flags, Some(options.as_c_str()))?));
        match mounted {
            Ok(()) => {}
            // The kernel may have mounted it already.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {}
            Err(source) if ["/proc", "/sys", "/dev"].contains(&target) => {
                return Err(MountError { kind, target, source });
            }
            Err(e) => log.add(Level::Warning, format_args!("cannot mount {kind} on {target}"), &[("error", &e)]),
        }
    }
    Ok(())
}

/// Names in /dev that are not devices.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Small things programs expect: names in /dev, a host name, a loopback interface.
pub(crate) fn furnish(log: &Log) {
    let warn = |what: &str, error: io::Error| log.add(Level::Warning, what, &[("error", &error)]);
    for (target, name) in LINKS {
        if !Path::new(name).exists()
            && let Err(e) = std::os::unix::fs::symlink(target, name)
        {
            warn("cannot make a link in /dev", e);
        }
    }
    if let Err(e) = rustix::system::sethostname(b"uvm") {
        warn("cannot set the host name", e.into());
    }
    if let Err(e) = crate::loopback::bring_up() {
        warn("cannot bring up the loopback interface", e);
    }
    if let Err(e) = raise_descriptor_limit() {
        warn("cannot raise the limit of open files", e);
    }
}

/// Streams, pipes and terminals of a thousand processes.
const DESCRIPTORS: u64 = 65_536;

fn raise_descriptor_limit() -> io::Result<()> {
    let limit = rustix::process::Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    Ok(rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?)
}
