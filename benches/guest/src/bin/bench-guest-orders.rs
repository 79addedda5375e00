//! A guest that finds disks and mounts them, unmounts them and lets go of them, mounts shares and runs programs, as it is
//! told, and nothing else.
//!
//! An order is a line: `ID add CONTROLLER LUN PATH`, `ID remove CONTROLLER LUN PATH`, `ID mount KIND TAG OPTIONS PATH`,
//! `ID unmount PATH` or `ID run PROGRAM ARGUMENT...`; its answer is `ID ok`, with a program's output behind it, or `ID` and
//! what went wrong. Each order is carried out by a thread of its own.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use uvm_bench_guest::{CONTROL_PORT, load_boot_modules, load_modules, mount_devices, open_port, pid_1};

uvm_bench_guest::in_the_agents_place!();

/// How long a disk may take to show up.
const SHOWS_UP_WITHIN: Duration = Duration::from_secs(60);
/// There is a thread for each order.
const STACK: usize = 64 * 1024;

fn main() {
    pid_1(serve);
}

fn serve() -> io::Result<()> {
    load_boot_modules()?;
    mount_devices()?;
    // What the agent has loaded by then; with the balloon, memory that is free goes back to the host and costs more when it is
    // used again.
    for group in ["vsock", "pvpanic", "balloon", "rng", "scsi", "power", "ext4"] {
        load_modules(group)?;
    }
    mount("proc", "/proc", "proc", MountFlags::empty(), None)?;
    let host = adapter()?;
    let port = open_port(CONTROL_PORT)?;
    let answers = Arc::new(Mutex::new(port.try_clone()?));
    answer(&answers, "ready ok")?;
    for line in BufReader::new(port).lines() {
        let (line, answers) = (line?, Arc::clone(&answers));
        thread::Builder::new().stack_size(STACK).spawn(move || {
            let (id, order) = line.split_once(' ').unwrap_or((&line, ""));
            let outcome = carry_out(host, order).map_or_else(|e| e.to_string(), |said| format!("ok {said}"));
            // The host's end is closed when it has what it wants.
            let _ = answer(&answers, &format!("{id} {outcome}"));
        })?;
    }
    Ok(())
}

fn answer(port: &Mutex<File>, line: &str) -> io::Result<()> {
    port.lock().unwrap_or_else(PoisonError::into_inner).write_all(format!("{line}\n").as_bytes())
}

fn adapter() -> io::Result<u32> {
    let began = Instant::now();
    loop {
        let hosts = fs::read_dir("/sys/class/scsi_host").into_iter().flatten().flatten();
        let numbers = hosts.filter_map(|host| host.file_name().to_str()?.strip_prefix("host")?.parse().ok());
        match numbers.min() {
            Some(number) => return Ok(number),
            None if began.elapsed() < SHOWS_UP_WITHIN => thread::sleep(Duration::from_millis(1)),
            None => return Err(io::Error::other("there is no SCSI adapter")),
        }
    }
}

/// What there is to say of an order that was carried out.
fn carry_out(host: u32, order: &str) -> io::Result<String> {
    let place = |controller, lun| PathBuf::from(format!("/sys/bus/scsi/devices/{host}:0:{controller}:{lun}"));
    match *order.split(' ').collect::<Vec<_>>() {
        ["add", controller, lun, path] => {
            fs::write(format!("/sys/class/scsi_host/host{host}/scan"), format!("0 {controller} {lun}"))?;
            fs::create_dir_all(path)?;
            mount_disk(&place(controller, lun), path)?;
        }
        ["remove", controller, lun, path] => {
            unmount(path, UnmountFlags::empty())?;
            fs::write(place(controller, lun).join("delete"), "1")?;
        }
        ["mount", kind, tag, options, path] => {
            load_modules(kind)?;
            fs::create_dir_all(path)?;
            let options = CString::new(options).map_err(io::Error::other)?;
            mount_share(tag, path, kind, &options)?;
        }
        ["unmount", path] => unmount(path, UnmountFlags::empty())?,
        ["run", program, ref arguments @ ..] => {
            let output = Command::new(program).args(arguments).output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
                return Err(io::Error::other(format!("{}: {said}", output.status)));
            }
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        _ => return Err(io::Error::other(format!("{order:?} is no order"))),
    }
    Ok(String::new())
}

/// Once the kernel has found the device, which may have come just now.
fn mount_share(tag: &str, path: &str, kind: &str, options: &CString) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match mount(tag, path, kind, MountFlags::empty(), Some(options.as_c_str())) {
            Err(rustix::io::Errno::INVAL) if began.elapsed() < SHOWS_UP_WITHIN => {
                thread::sleep(Duration::from_millis(1));
            }
            mounted => return Ok(mounted?),
        }
    }
}

/// Once the kernel lists it and lets it be opened.
fn mount_disk(place: &Path, path: &str) -> io::Result<()> {
    let (began, mut pause) = (Instant::now(), Duration::from_millis(1));
    loop {
        if let Some(entry) = fs::read_dir(place.join("block")).ok().and_then(|mut names| names.next()) {
            let entry = entry?;
            // A disk that is mounted before it is ready has the kernel look for a module.
            if entry.path().join("bdi").exists() {
                let node = Path::new("/dev").join(entry.file_name());
                match mount(&node, path, "ext4", MountFlags::empty(), None) {
                    Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO) => {}
                    mounted => return Ok(mounted?),
                }
            }
        }
        if began.elapsed() > SHOWS_UP_WITHIN {
            return Err(io::Error::other(format!("{}: no disk shows up", place.display())));
        }
        // Many that look all the time would keep the kernel from finding them.
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
