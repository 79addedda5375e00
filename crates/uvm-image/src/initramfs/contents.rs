//! What is in the guest's root file system.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::cpio::CpioError;
use super::tree::{Contents, Node, Tree};
use crate::agent::Agent;
use crate::busybox::Busybox;
use crate::digest::Sha256;
use crate::error::{ImageError, Intent, IoContext};
use crate::kernel::Kernel;
use crate::modules::index::monolithic_index;

/// A file of the user's that goes into the initramfs as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    /// Without the leading slash.
    guest_path: String,
    source: PathBuf,
}

impl ExtraFile {
    /// The file `source`, to be found at `guest_path` in the guest with the same permission bits and owned by root.
    /// It replaces what is there otherwise; only the agent and the lists of modules cannot be replaced.
    ///
    /// # Errors
    /// [`ImageError::BadInput`] if `guest_path` is not an absolute path in its plainest form.
    pub fn new(guest_path: impl Into<String>, source: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let guest_path = guest_path.into();
        let bad = |why| ImageError::BadInput { what: "guest path", value: guest_path.clone(), why };
        let Some(relative) = guest_path.strip_prefix('/') else { return Err(bad("it must begin with a slash")) };
        if relative.len() > 1024
            || relative.split('/').any(|part| matches!(part, "" | "." | ".."))
            || relative.contains('\0')
        {
            return Err(bad("it must name a file, without . and .. and doubled slashes"));
        }
        if relative == INIT || relative.starts_with("lib/modules/") {
            return Err(bad("the agent and the kernel's modules cannot be replaced"));
        }
        Ok(Self { guest_path: relative.to_owned(), source: source.into() })
    }

    /// Where it will be in the guest.
    pub fn guest_path(&self) -> &Path {
        Path::new(&self.guest_path)
    }

    /// The file on the host.
    pub fn source(&self) -> &Path {
        &self.source
    }

    fn add_to(&self, tree: &mut Tree) -> Result<(), ImageError> {
        let path = &self.source;
        let file = File::open(path).at(Intent::Read, path)?;
        let metadata = file.metadata().at(Intent::Read, path)?;
        if !metadata.is_file() {
            let why = "it is no regular file";
            return Err(ImageError::BadInput { what: "extra file", value: path.display().to_string(), why });
        }
        let (sha256, size) = Sha256::of_reader(&file).at(Intent::Read, path)?;
        let mode = metadata.permissions().mode() & 0o777;
        let contents = Contents::File { path: path.clone(), size, sha256 };
        tree.replace(&self.guest_path, mode, contents)
            .map_err(|source| ImageError::Initramfs { path: path.clone(), source })
    }
}

/// What a guest's root file system is made from.
pub(crate) struct GuestRoot<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) busybox: Option<&'a Busybox>,
    pub(crate) kernel: &'a Kernel,
    pub(crate) extra_files: &'a [ExtraFile],
}

impl GuestRoot<'_> {
    /// The whole tree. No file larger than the agent is read for it.
    pub(crate) fn tree(&self) -> Result<Tree, ImageError> {
        let mut tree =
            self.base().map_err(|source| ImageError::Initramfs { path: self.kernel.dir().to_owned(), source })?;
        for file in self.extra_files {
            file.add_to(&mut tree)?;
        }
        Ok(tree)
    }

    fn base(&self) -> Result<Tree, CpioError> {
        let mut tree = Tree::default();
        for (path, mode) in DIRECTORIES {
            tree.directory(path, *mode)?;
        }
        // Without them PID 1 starts with no standard output, and its first words are lost.
        tree.device("dev/console", 0o600, 5, 1)?;
        tree.device("dev/null", 0o666, 1, 3)?;
        tree.symlink("var/run", "../run")?;
        tree.symlink("var/lock", "../run/lock")?;
        for (path, text) in TEXTS {
            tree.text(path, *text)?;
        }
        tree.text("etc/uvm-release", self.release_text())?;

        tree.file(INIT, 0o755, Contents::Bytes(self.agent.program.bytes.clone()))?;
        for name in AGENT_NAMES {
            tree.symlink(name, "../init")?;
        }
        if let Some(busybox) = self.busybox {
            let (path, size, sha256) = (busybox.path.clone(), busybox.size, busybox.sha256);
            tree.file("bin/busybox", 0o755, Contents::File { path, size, sha256 })?;
            for link in &busybox.links {
                tree.symlink(link, busybox_target(link))?;
            }
            tree.file("etc/udhcpc/default.script", 0o755, Contents::Bytes(DHCP_SCRIPT.into()))?;
        }

        let modules = format!("lib/modules/{}", self.kernel.release());
        tree.directory(&modules, 0o755)?;
        for (name, path, size, sha256) in self.kernel.module_files() {
            tree.file(&format!("{modules}/{name}"), 0o644, Contents::File { path, size, sha256 })?;
        }
        let index = match self.kernel.index_file() {
            Some((path, size, sha256)) => Contents::File { path, size, sha256 },
            None => Contents::Bytes(monolithic_index(self.kernel.release()).into_bytes()),
        };
        tree.file("lib/modules/uvm.index", 0o644, index)?;
        Ok(tree)
    }

    fn release_text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "UVM_AGENT_VERSION={}", self.agent.version);
        let _ = writeln!(text, "UVM_AGENT_SHA256={}", self.agent.program.sha256);
        let _ = writeln!(text, "UVM_KERNEL_RELEASE={}", self.kernel.release());
        let _ = writeln!(text, "UVM_KERNEL_NAME={}", self.kernel.name());
        let _ = writeln!(
            text,
            "UVM_BUSYBOX_SHA256={}",
            self.busybox.map_or_else(String::new, |busybox| busybox.sha256.to_string())
        );
        text
    }
}

impl Tree {
    /// A hash over everything in the tree, without reading the larger files: theirs are on record.
    pub(crate) fn digest(&self) -> Sha256 {
        let mut text = String::new();
        for (path, node) in self.iter() {
            let _ = match node {
                Node::Directory { mode } => writeln!(text, "dir {mode:o} {path}"),
                Node::File { mode, contents } => writeln!(text, "file {mode:o} {path} {}", contents.sha256()),
                Node::Symlink { target } => writeln!(text, "link {path} {target}"),
                Node::CharDevice { mode, major, minor } => writeln!(text, "char {mode:o} {path} {major} {minor}"),
            };
        }
        Sha256::of(text.as_bytes())
    }
}

/// How a link at `path` leads to `bin/busybox`.
fn busybox_target(path: &str) -> String {
    match path.strip_prefix("bin/") {
        Some(name) if !name.contains('/') => "busybox".into(),
        _ => format!("{}bin/busybox", "../".repeat(path.matches('/').count())),
    }
}

/// The agent's place.
const INIT: &str = "init";
/// Other names of the agent, under which the original's command lines start it.
const AGENT_NAMES: &[&str] = &["bin/gcs", "bin/vsockexec", "bin/uvm-enter"];

const DIRECTORIES: &[(&str, u32)] = &[
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("lib/modules", 0o755),
    ("mnt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/bin", 0o755),
    ("usr/sbin", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
];

const TEXTS: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/shells", "/bin/sh\n"),
    (
        "etc/profile",
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nexport PS1='\\h:\\w\\$ '\n",
    ),
];

/// What busybox's DHCP client calls, so that `udhcpc` works for whoever looks around in the guest.
const DHCP_SCRIPT: &str = r#"#!/bin/sh
case "$1" in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in $router; do
        ip route add default via "$gateway" dev "$interface"
    done
    for server in $dns; do
        echo "nameserver $server"
    done > /etc/resolv.conf
    ;;
esac
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_paths_are_plain_and_leave_agent_and_modules_alone() {
        let guest_path = |path| ExtraFile::new(path, "/x").map(|file| file.guest_path().to_owned());
        assert_eq!(guest_path("/etc/motd").unwrap(), Path::new("etc/motd"));
        for bad in ["etc/motd", "/", "", "/a/../b", "/a//b", "/./a", "/init", "/lib/modules/uvm.index", "/a\0b", "/a/"]
        {
            assert!(matches!(guest_path(bad), Err(ImageError::BadInput { .. })), "{bad:?}");
        }
    }

    #[test]
    fn links_lead_to_busybox_from_everywhere() {
        assert_eq!(busybox_target("bin/sh"), "busybox");
        assert_eq!(busybox_target("sbin/ip"), "../bin/busybox");
        assert_eq!(busybox_target("usr/bin/env"), "../../bin/busybox");
    }

    #[test]
    fn the_digest_sees_every_difference() {
        let tree = |change: &dyn Fn(&mut Tree)| {
            let mut tree = Tree::default();
            tree.text("a", "1").unwrap();
            change(&mut tree);
            tree.digest()
        };
        let digests = [
            tree(&|_| ()),
            tree(&|tree| tree.replace("a", 0o644, Contents::Bytes(b"2".to_vec())).unwrap()),
            tree(&|tree| tree.replace("a", 0o755, Contents::Bytes(b"1".to_vec())).unwrap()),
            tree(&|tree| tree.directory("d", 0o755).unwrap()),
            tree(&|tree| tree.directory("d", 0o700).unwrap()),
            tree(&|tree| tree.symlink("d", "a").unwrap()),
            tree(&|tree| tree.device("d", 0o600, 5, 1).unwrap()),
        ];
        let unique: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(unique.len(), digests.len());
        assert_eq!(tree(&|_| ()), digests[0]);
    }
}
