//! Against this machine's own apt, its network, and QEMU: what users will do. Not run by default.
//!
//! ```text
//! cargo test -p uvm-image --test real -- --ignored --nocapture
//! ```
//!
//! Needs apt with a network, QEMU, and Rust's musl target; the trimmed kernel also a compiler and half an hour. The
//! kernel and the packages are kept in `$UVM_IMAGE_TEST_DATA_DIR`, if that is set, for the next run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use uvm_image::{
    BootFiles, BootFilesOptions, DataDir, ImageStore, Kernel, KernelSource, Progress, ProgressSink,
    TrimmedKernelOptions,
};

/// A data directory, and the stand-in agent, compiled for the guest.
struct Lab {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = std::env::var_os("UVM_IMAGE_TEST_DATA_DIR").map_or_else(|| dir.path().join("data"), PathBuf::from);
        let store = ImageStore::new(DataDir::at(data).unwrap()).with_progress(ProgressSink::new(print));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/stand_in_agent.rs");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args([
            "--edition",
            "2024",
            "--target",
            "x86_64-unknown-linux-musl",
            "-Copt-level=s",
            "-Cpanic=abort",
            "-Cstrip=symbols",
        ]);
        rustc.arg("-o").arg(dir.path().join("agent")).arg(source);
        assert!(
            rustc.status().unwrap().success(),
            "rustc cannot compile for the guest: `rustup target add x86_64-unknown-linux-musl`"
        );
        Self { dir, store }
    }

    fn options(&self) -> BootFilesOptions {
        BootFilesOptions::new(self.store.clone()).with_agent(self.dir.path().join("agent"))
    }

    /// Boots the files under emulation until the guest powers off, and returns what its console showed.
    fn boot(&self, files: &BootFiles) -> String {
        let console = self.dir.path().join("console");
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(QEMU.split_ascii_whitespace()).arg("-append").arg(APPEND);
        qemu.arg("-kernel").arg(files.kernel_path()).arg("-initrd").arg(files.initrd_path());
        let mut qemu = qemu.stdin(Stdio::null()).stdout(File::create(&console).unwrap()).spawn().unwrap();
        let began = Instant::now();
        let status = loop {
            match qemu.try_wait().unwrap() {
                Some(status) => break Some(status),
                None if began.elapsed() > Duration::from_secs(180) => {
                    qemu.kill().unwrap();
                    qemu.wait().unwrap();
                    break None;
                }
                None => sleep(Duration::from_millis(100)),
            }
        };
        let text = String::from_utf8_lossy(&fs::read(console).unwrap()).into_owned();
        println!("guest ended after {:.1} s: {status:?}\n{text}", began.elapsed().as_secs_f64());
        assert!(status.is_some_and(|status| status.success()), "the guest did not power off");
        text
    }
}

fn print(progress: Progress) {
    match progress {
        Progress::Started { step, detail } => println!("{step} {detail}"),
        Progress::Note { text } => println!("note: {text}"),
        _ => {}
    }
}

/// The console must hold each of these.
fn expect(console: &str, lines: &[&str]) {
    for line in lines {
        assert!(console.contains(line), "no {line:?} on the console");
    }
}

#[test]
#[ignore = "needs apt, a network and QEMU"]
fn the_distribution_kernel_boots_and_loads_what_the_index_says() {
    let lab = Lab::new();
    let files = BootFiles::ensure(&lab.options()).unwrap();
    files.verify().unwrap();
    let began = Instant::now();
    drop(BootFiles::ensure(&lab.options()).unwrap());
    println!("found again in {:?}", began.elapsed());
    let console = lab.boot(&files);
    let running = format!("agent: running {}", files.manifest().kernel.release);
    expect(&console, &["agent: started as 1", &running, "gcs is Ok(\"/init\")", "index format 1 modular yes"]);
    expect(
        &console,
        &[
            "agent: 2 virtio drivers after boot group",
            "modprobe fs-xfs true",
            "agent: sh says 42 /usr/bin/env",
            "agent: done",
        ],
    );
    assert!(!console.contains("missing"), "a file system is missing");
    assert_eq!(console.matches("failed [").count(), console.matches("failed []").count(), "a module does not load");
    expect(&console, &["ports [\"vport"]);
    if rustix::process::geteuid().is_root() {
        the_same_as_an_unprivileged_user(&lab, &files);
    }
}

/// Makes the boot files again as somebody who may write one directory only, and compares them byte for byte.
fn the_same_as_an_unprivileged_user(lab: &Lab, files: &BootFiles) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = lab.dir.path().join("home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    let program = lab.dir.path().join("boot_files");
    let example = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join("boot_files");
    fs::copy(&example, &program)
        .expect("the example is built with the tests: `cargo build -p uvm-image --example boot_files`");
    let mut child = Command::new("setpriv");
    child.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    child
        .env("HOME", &home)
        .env_remove("XDG_DATA_HOME")
        .env_remove("UVM_DATA_DIR")
        .env("UVM_AGENT", lab.dir.path().join("agent"));
    let output = child.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let (kernel, initrd) = text.trim().split_once('\n').unwrap();
    assert!(Path::new(kernel).starts_with(home.join(".local/share/uvm/boot")), "{kernel}");
    assert!(fs::read(kernel).unwrap() == fs::read(files.kernel_path()).unwrap());
    assert!(fs::read(initrd).unwrap() == fs::read(files.initrd_path()).unwrap());
}

#[test]
#[ignore = "needs apt, a network, QEMU and a compiler, and 20 CPU minutes unless the kernel is there"]
fn the_trimmed_kernel_is_built_and_boots() {
    let lab = Lab::new();
    let kernel = Kernel::build_trimmed(&TrimmedKernelOptions::new(lab.store.clone())).unwrap();
    assert_eq!(kernel.hz(), Some(100));
    let files = BootFiles::ensure(&lab.options().with_kernel(KernelSource::Trimmed)).unwrap();
    let console = lab.boot(&files);
    expect(
        &console,
        &["agent: started as 1", "agent: running 6.12.", "index format 1 modular no", "agent: done", "ports [\"vport"],
    );
    assert!(!console.contains("missing"), "a file system is missing");
}

const QEMU: &str = "-nodefaults -no-user-config -display none -no-reboot -serial stdio \
    -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny \
    -machine q35,accel=tcg,sata=off,smbus=off,vmport=off,graphics=off,usb=off -cpu qemu64 -smp 1 -m 512M \
    -device virtio-scsi-pci,id=scsi0,num_queues=1 -device pvpanic-pci \
    -device pcie-root-port,id=rp0,chassis=1,slot=1,bus=pcie.0,addr=0x1c.0 \
    -device virtio-balloon-pci,id=bal,free-page-reporting=on,deflate-on-oom=on \
    -object rng-builtin,id=rng0 -device virtio-rng-pci,rng=rng0 \
    -device virtio-serial-pci,id=vser -chardev null,id=mux -device virtserialport,bus=vser.0,chardev=mux,name=uvm.mux";

const APPEND: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nolapic_timer scsi_mod.scan=manual";
