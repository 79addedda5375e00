//! A machine with a fake apt, a package archive, and a data directory of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use uvm_image::{BootFiles, BootFilesOptions, DataDir, ImageStore, Progress, ProgressSink, Sha256};

use crate::builders::{ElfBuilder, TarBuilder, bzimage, compress, deb};

/// The release of the fake kernel.
pub(crate) const RELEASE: &str = "6.1.0-9-amd64";

/// A machine; all of it is below one directory.
pub(crate) struct Machine {
    root: PathBuf,
    /// Removes the directory at the end; a child process works in its parent's.
    _dir: Option<tempfile::TempDir>,
}

impl Machine {
    /// A machine whose archive has a kernel and a busybox.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let machine = Self { root: dir.path().to_owned(), _dir: Some(dir) };
        for dir in ["bin", "archive"] {
            fs::create_dir(machine.path(dir)).unwrap();
        }
        machine.script("apt-cache", &APT_CACHE.replace("ARCHIVE", machine.path("archive").to_str().unwrap()));
        machine.script("apt-get", &APT_GET.replace("ARCHIVE", machine.path("archive").to_str().unwrap()));
        machine.put_agent("1.0");
        machine.put_kernel(RELEASE, "6.1.9-1");
        let busybox = TarBuilder::default().mode(0o755).file("./bin/busybox", &busybox()).build();
        machine.put_package("busybox-static", "1:1.35.0-4", "", &deb(&busybox, ".xz"));
        machine
    }

    /// The machine that another process made.
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), _dir: None }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn data_dir(&self) -> DataDir {
        DataDir::at(self.path("data")).unwrap()
    }

    pub(crate) fn store(&self) -> ImageStore {
        ImageStore::new(self.data_dir()).with_search_path(self.path("bin"))
    }

    /// The default boot files, with the agent of [`put_agent`](Self::put_agent).
    pub(crate) fn options(&self) -> BootFilesOptions {
        BootFilesOptions::new(self.store()).with_agent(self.path("agent"))
    }

    pub(crate) fn ensure(&self) -> BootFiles {
        BootFiles::ensure(&self.options()).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    pub(crate) fn put_agent(&self, version: &str) {
        let text = format!("\0uvm-agent-version:{version}\0");
        fs::write(self.path("agent"), ElfBuilder::program(text.as_bytes())).unwrap();
    }

    /// Puts a kernel into the archive and makes it the newest.
    pub(crate) fn put_kernel(&self, release: &str, version: &str) {
        self.put_kernel_package(release, version, &kernel_tar(release).build());
    }

    pub(crate) fn put_kernel_package(&self, release: &str, version: &str, tar: &[u8]) {
        let name = format!("linux-image-{release}");
        self.put_package(&name, version, "", &deb(tar, ".xz"));
        let depends = format!("Depends: {name} (= {version})\n");
        self.put_package("linux-image-amd64", version, &depends, &deb(&TarBuilder::default().build(), ""));
    }

    /// Puts a package into the archive.
    pub(crate) fn put_package(&self, name: &str, version: &str, fields: &str, package: &[u8]) {
        let record = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\n{fields}Size: {}\nSHA256: {}\n",
            package.len(),
            Sha256::of(package)
        );
        fs::write(self.path("archive").join(name), record).unwrap();
        fs::write(self.path("archive").join(format!("{name}={version}.deb")), package).unwrap();
    }

    /// Puts a program onto the machine.
    pub(crate) fn script(&self, name: &str, text: &str) {
        script(&self.path("bin").join(name), text);
    }

    /// What was asked of apt so far, one line each.
    pub(crate) fn apt_calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("archive/log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// How often apt was asked for something that needs a network.
    pub(crate) fn downloads(&self) -> usize {
        self.apt_calls().iter().filter(|call| call.starts_with("apt-get")).count()
    }

    /// What unfinished work left behind.
    pub(crate) fn junk(&self) -> Vec<PathBuf> {
        files_in(&self.data_dir().path().join("tmp"))
    }
}

/// Writes an executable script.
pub(crate) fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Keeps what an operation reports.
pub(crate) fn recorder() -> (ProgressSink, Arc<Mutex<Vec<Progress>>>) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = ProgressSink::new({
        let events = Arc::clone(&events);
        move |event| events.lock().unwrap().push(event)
    });
    (sink, events)
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Everything in a directory, by path, sorted.
pub(crate) fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The only thing in a directory.
pub(crate) fn only(dir: &Path) -> PathBuf {
    let paths = files_in(dir);
    assert_eq!(paths.len(), 1, "{paths:?}");
    paths.into_iter().next().unwrap()
}

pub(crate) fn busybox() -> Vec<u8> {
    ElfBuilder::program(b"\0[\0env\0ip\0ls\0sh\0not-an-applet\0")
}

pub(crate) fn kernel_image(release: &str) -> Vec<u8> {
    let elf = ElfBuilder::pvh_kernel(&format!("Linux version {release} (x@y)"));
    bzimage(&compress(&elf, ".xz"), release)
}

/// A kernel package like Debian's, in small.
pub(crate) fn kernel_tar(release: &str) -> TarBuilder {
    let modules = format!("./lib/modules/{release}");
    let vermagic = format!("vermagic={release} SMP");
    let module = |depends: &str, more: &str| ElfBuilder::module(&[depends, more, &vermagic]);
    TarBuilder::default()
        .directory("./boot/")
        .file(&format!("./boot/vmlinuz-{release}"), &kernel_image(release))
        .file(&format!("./boot/config-{release}"), b"CONFIG_HZ=250\nCONFIG_PVH=y\n")
        .file(&format!("{modules}/modules.builtin"), b"kernel/net/packet/af_packet.ko\n")
        .file(&format!("{modules}/kernel/virtio.ko"), &module("depends=", ""))
        .file(&format!("{modules}/kernel/virtio_pci.ko"), &module("depends=virtio", ""))
        .file(&format!("{modules}/kernel/virtio_console.ko.xz"), &compress(&module("depends=virtio", ""), ".xz"))
        .file(&format!("{modules}/kernel/ext4.ko.zst"), &compress(&module("depends=", "softdep=pre: crc"), ".zst"))
        .file(&format!("{modules}/kernel/crc32c.ko"), &module("depends=", "alias=crc"))
        .file(&format!("{modules}/kernel/sound.ko"), &module("depends=", ""))
        .file(&format!("{modules}/kernel/broken.ko"), b"no ELF file")
}

const APT_CACHE: &str = r#"
echo "apt-cache $*" >> ARCHIVE/log
for wanted; do :; done
name=${wanted%%=*}
[ -e "ARCHIVE/no-lists" ] && { echo "E: No packages found" >&2; exit 100; }
[ -e "ARCHIVE/$name" ] || { echo "E: No packages found" >&2; exit 100; }
/bin/cat "ARCHIVE/$name"
"#;

const APT_GET: &str = r#"
echo "apt-get $*" >> ARCHIVE/log
for wanted; do :; done
[ "$wanted" = update ] && { /bin/rm -f ARCHIVE/no-lists ARCHIVE/stale; exit 0; }
[ -e ARCHIVE/stale ] && { echo "E: 404 Not Found" >&2; exit 100; }
/bin/cp "ARCHIVE/$wanted.deb" "./${wanted%%=*}_amd64.deb"
"#;
