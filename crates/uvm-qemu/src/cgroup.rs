//! A control group of its own for each VM: to kill it whole, and to limit it.
//!
//! Hosts have version 2, version 1, or both with the controllers spread over them. The group is made below the owner's
//! own group, where an ordinary user may have been given the right to. What cannot be had is told by name.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uvm_platform::CgroupSupport;
use uvm_platform::spec::ProcessorSpec;

/// Where this process may make groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// The own group in the version 2 hierarchy.
    v2: Option<PathBuf>,
    /// The own group per controller of version 1.
    v1: BTreeMap<String, PathBuf>,
}

/// The controllers a VM's limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl Hierarchies {
    /// Reads the mounts and groups of this process.
    pub(crate) fn of_this_process() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    fn parse(mountinfo: &str, own: &str) -> Self {
        let mut found = Self::default();
        // A line of /proc/self/cgroup: number, controllers (none for version 2), path.
        let own_path = |controller: &str| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                controllers.split(',').any(|c| c == controller).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        for line in mountinfo.lines() {
            // ID PARENT MAJ:MIN ROOT MOUNTPOINT OPTIONS [TAGS] - TYPE SOURCE SUPEROPTIONS
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = head.split(' ').nth(4) else { continue };
            let mut tail = tail.split(' ');
            match (tail.next(), tail.nth(1)) {
                (Some("cgroup2"), _) => {
                    found.v2 = found.v2.or_else(|| Some(Path::new(mount_point).join(own_path("")?)));
                }
                (Some("cgroup"), Some(options)) => {
                    for controller in options.split(',').filter(|o| CONTROLLERS.contains(o)) {
                        if let Some(path) = own_path(controller) {
                            found.v1.insert(controller.to_owned(), Path::new(mount_point).join(path));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Whether, and how, each controller can be used.
    pub(crate) fn support(&self) -> BTreeMap<&'static str, CgroupSupport> {
        CONTROLLERS.into_iter().map(|controller| (controller, self.support_of(controller))).collect()
    }

    fn support_of(&self, controller: &str) -> CgroupSupport {
        if let Some(path) = &self.v2 {
            let available = fs::read_to_string(path.join("cgroup.subtree_control")).unwrap_or_default();
            if available.split_whitespace().any(|c| c == controller) && writable(path).is_ok() {
                return CgroupSupport::V2;
            }
        }
        match self.v1.get(controller).map(|path| (path, writable(path))) {
            Some((_, Ok(()))) => CgroupSupport::V1,
            Some((path, Err(e))) => CgroupSupport::Missing(format!("{}: {e}", path.display())),
            None => CgroupSupport::Missing("no hierarchy has it where this process may use it".into()),
        }
    }

    /// Why a VM cannot be killed whole, if it cannot.
    pub(crate) fn kill_obstacle(&self) -> Option<String> {
        match &self.v2 {
            None => Some("no version 2 control group hierarchy is mounted".into()),
            Some(path) => writable(path).err().map(|e| format!("control group {}: {e}", path.display())),
        }
    }

    /// The groups to make for a VM called `name`, in order: the one that kills, then those that limit.
    pub(crate) fn plan(&self, name: &str, processors: &ProcessorSpec) -> Vec<Group> {
        let mut groups = Vec::new();
        let cpu = self.support_of("cpu");
        if self.kill_obstacle().is_none()
            && let Some(path) = &self.v2
        {
            let settings = if cpu == CgroupSupport::V2 { cpu_v2(processors) } else { Vec::new() };
            groups.push(Group { path: path.join(name), settings });
        }
        if cpu == CgroupSupport::V1
            && let Some(path) = self.v1.get("cpu")
            && !cpu_v1(processors).is_empty()
        {
            groups.push(Group { path: path.join(name), settings: cpu_v1(processors) });
        }
        groups
    }
}

fn writable(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, rustix::fs::Access::WRITE_OK)?)
}

/// A group to make: its directory, and what to write into which of its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) path: PathBuf,
    settings: Vec<(&'static str, String)>,
}

impl Group {
    /// Makes the group; returns the file a process writes itself into.
    pub(crate) fn make(&self) -> io::Result<OwnedFd> {
        fs::create_dir(&self.path)?;
        for (file, value) in &self.settings {
            fs::write(self.path.join(file), value)
                .map_err(|e| io::Error::new(e.kind(), format!("writing {value} to {file}: {e}")))?;
        }
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs")).map(OwnedFd::from)
    }
}

/// The scheduler's period for quotas, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;

/// The quota for `limit` hundred-thousandths of `count` processors.
fn quota_us(processors: &ProcessorSpec) -> Option<u64> {
    let limit = processors.limit.filter(|&limit| limit < 100_000)?;
    Some((u64::from(limit) * u64::from(processors.count) * PERIOD_US / 100_000).max(1_000))
}

fn cpu_v2(processors: &ProcessorSpec) -> Vec<(&'static str, String)> {
    let quota = quota_us(processors).map(|quota| ("cpu.max", format!("{quota} {PERIOD_US}")));
    let weight = processors.weight.map(|weight| ("cpu.weight", weight.clamp(1, 10_000).to_string()));
    quota.into_iter().chain(weight).collect()
}

fn cpu_v1(processors: &ProcessorSpec) -> Vec<(&'static str, String)> {
    let quota = quota_us(processors).map(|quota| ("cpu.cfs_quota_us", quota.to_string()));
    // An average weight is 100 in version 2 and on Hyper-V, and 1024 in version 1.
    let weight = processors.weight.map(|weight| ("cpu.shares", (u64::from(weight) * 1024 / 100).max(2).to_string()));
    quota.into_iter().chain(weight).collect()
}

/// How long the processes of a killed group may take to leave it.
const EMPTY_DEADLINE: Duration = Duration::from_secs(5);

/// Kills every process in the group at `path` and removes it. Success if there is none.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() != Some(libc::EBUSY) || began.elapsed() > EMPTY_DEADLINE => return Err(e),
            Err(_) => kill_all(path)?,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn kill_all(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).open(path.join("cgroup.kill")) {
        Ok(file) => io::Write::write_all(&mut &file, b"1"),
        // Version 1 has no such file, nor has a group that is going away.
        Err(e) if e.kind() == io::ErrorKind::NotFound => kill_each(path),
        Err(e) => Err(e),
    }
}

fn kill_each(path: &Path) -> io::Result<()> {
    let mut text = String::new();
    match File::open(path.join("cgroup.procs")) {
        Ok(mut file) => io::Read::read_to_string(&mut file, &mut text)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for pid in text.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
33 25 0:29 / /tmp rw - tmpfs tmpfs rw
garbage";

    #[test]
    fn hybrid_hosts_are_understood() {
        let own = "4:memory:/a\n3:cpu,cpuacct:/\n0::/b/c\n";
        let found = Hierarchies::parse(HYBRID_MOUNTS, own);
        assert_eq!(found.v2, Some("/sys/fs/cgroup/unified/b/c".into()));
        assert_eq!(found.v1["cpu"], Path::new("/sys/fs/cgroup/cpu/"));
        assert_eq!(found.v1["memory"], Path::new("/sys/fs/cgroup/memory/a"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = Hierarchies::default();
        assert!(none.support().values().all(|s| matches!(s, CgroupSupport::Missing(why) if !why.is_empty())));
        assert!(none.kill_obstacle().expect("no hierarchy").contains("version 2"));
        let processors = ProcessorSpec { count: 2, limit: Some(50_000), weight: None };
        assert_eq!(none.plan("vm", &processors), []);
    }

    #[test]
    fn limits_and_weights_translate() {
        let processors = ProcessorSpec { count: 4, limit: Some(50_000), weight: Some(200) };
        assert_eq!(cpu_v2(&processors), [("cpu.max", "200000 100000".into()), ("cpu.weight", "200".into())]);
        assert_eq!(cpu_v1(&processors), [("cpu.cfs_quota_us", "200000".into()), ("cpu.shares", "2048".into())]);
        let free = ProcessorSpec { count: 4, limit: Some(100_000), weight: None };
        assert_eq!((cpu_v2(&free), cpu_v1(&free)), (vec![], vec![]));
    }

    #[test]
    fn removing_a_group_that_is_not_there_is_success() {
        remove(Path::new("/nonexistent/group")).expect("nothing to remove");
    }
}
