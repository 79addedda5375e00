//! Stands in for the guest agent in the tests that boot a real guest: PID 1 that loads modules by the index, says on
//! the console what it found, and powers off. Compiled by the test with plain `rustc`, for the musl target, so it has
//! nothing but the standard library; system calls are busybox's.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

#[used]
static VERSION: &str = concat!("uvm-agent-version:", "0.0.0-stand-in", "\0");

fn main() {
    println!("agent: started as {} {}", std::process::id(), &VERSION[..VERSION.len() - 1]);
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        busybox(&["mount", "-t", kind, kind, target]);
    }
    for line in fs::read_to_string("/etc/uvm-release").unwrap_or_default().lines() {
        println!("agent: {line}");
    }
    println!("agent: running {}", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim());
    println!("agent: gcs is {:?}", fs::canonicalize("/bin/gcs"));

    let index = fs::read_to_string("/lib/modules/uvm.index").unwrap_or_default();
    let lines: BTreeMap<&str, &str> = index.lines().filter_map(|line| line.split_once(':')).collect();
    println!("agent: index format{} modular{}", lines["format"], lines["modular"]);
    let root = format!("/lib/modules/{}", lines["release"].trim());
    load(&root, "group boot", lines["group boot"]);
    let drivers = fs::read_dir("/sys/bus/virtio/drivers").map(|list| list.count()).unwrap_or_default();
    println!("agent: {drivers} virtio drivers after boot group");
    for (name, loads) in lines.iter().filter(|(name, _)| name.starts_with("group ")) {
        load(&root, name, loads);
    }
    for (name, modules) in lines.iter().filter(|(name, _)| name.starts_with("absent ")) {
        println!("agent: {name}:{modules}");
    }
    if lines["modular"].trim() == "yes" {
        // By alias, as the kernel itself would ask.
        println!("agent: modprobe fs-xfs {}", busybox(&["modprobe", "fs-xfs"]));
        println!("agent: modprobe nft-chain-2-nat {}", busybox(&["modprobe", "nft-chain-2-nat"]));
    }
    let systems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for wanted in ["9p", "virtiofs", "overlay", "ext4", "xfs", "erofs", "squashfs", "iso9660"] {
        let there = systems.lines().any(|line| line.split_whitespace().last() == Some(wanted));
        println!("agent: file system {wanted} {}", if there { "there" } else { "missing" });
    }
    let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
    let ports: Vec<_> = ports.map(|port| port.file_name()).collect();
    println!("agent: ports {ports:?}");
    println!("agent: sh says {}", shell("echo $((6 * 7)) && ls /usr/bin/env"));
    println!("agent: done");
    busybox(&["poweroff", "-f"]);
    loop {
        std::thread::park();
    }
}

/// Loads modules in the order given. A path with `?` in front may fail.
fn load(root: &str, what: &str, loads: &str) {
    let (mut loaded, mut failed) = (0, Vec::new());
    for path in loads.split_ascii_whitespace() {
        let (optional, path) = path.strip_prefix('?').map_or((false, path), |path| (true, path));
        let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".ko").replace('-', "_");
        if fs::metadata(format!("/sys/module/{name}")).is_ok() || busybox(&["insmod", &format!("{root}/{path}")]) {
            loaded += 1;
        } else if !optional {
            failed.push(path);
        }
    }
    println!("agent: {what}: {loaded} loaded, failed {failed:?}");
}

fn busybox(arguments: &[&str]) -> bool {
    Command::new("/bin/busybox").args(arguments).status().is_ok_and(|status| status.success())
}

fn shell(script: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", script]).output();
    output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).replace('\n', " "))
}
