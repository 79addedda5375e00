//! The program that serves virtio-fs shares: where it is, and how it is started for one share.

use std::env;
use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use uvm_platform::requests::{ShareOwners, VirtioFsExport};
use uvm_platform::{Feature, PlatformError};

use crate::ring::Ring;
use crate::spawn::{ChildExit, ChildProcess, ChildSpec, RunAs};

/// The program's name.
const PROGRAM: &str = "uvm-fs";
/// What names another one.
const VARIABLE: &str = "UVM_FS";
/// Lines of its output in an error.
const QUOTED_LINES: usize = 6;

/// Finds the program: `given`, else what the environment names, else beside the running program or, where that is one of
/// cargo's tests or examples, beside their directory. An error says where it was looked for.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf, String> {
    let named = env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let exe = env::current_exe().ok();
    search(given.map(Path::to_owned).or(named), exe.as_deref())
}

fn search(named: Option<PathBuf>, exe: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = named {
        return match runs(&path) {
            Ok(()) => Ok(path),
            Err(why) => Err(format!("{}: {why}", path.display())),
        };
    }
    let beside = exe.and_then(Path::parent);
    let above = beside.filter(|dir| dir.ends_with("deps") || dir.ends_with("examples")).and_then(Path::parent);
    let mut looked = Vec::new();
    for path in [beside, above].into_iter().flatten().map(|dir| dir.join(PROGRAM)) {
        match runs(&path) {
            Ok(()) => return Ok(path),
            Err(why) => looked.push(format!("{}: {why}", path.display())),
        }
    }
    Err(format!("the program {PROGRAM} is not there (${VARIABLE}: not set; {})", looked.join("; ")))
}

fn runs(path: &Path) -> Result<(), String> {
    let meta = path.metadata().map_err(|e| e.to_string())?;
    if meta.is_file() && meta.permissions().mode() & 0o111 != 0 { Ok(()) } else { Err("it is no program".into()) }
}

/// A directory to serve, and whom to serve it as.
pub(crate) struct Directory {
    fd: OwnedFd,
    run_as: Option<RunAs>,
}

impl Directory {
    /// Opens it. As root, its helper is its owner; another user has no choice. Blocking.
    pub(crate) fn open(export: &VirtioFsExport) -> Result<Self, PlatformError> {
        let root = rustix::process::geteuid().is_root();
        if export.owners == ShareOwners::Passthrough && !root {
            return Err(PlatformError::Unsupported {
                feature: Feature::VirtioFsShares,
                platform: "qemu",
                why: "owners of files are passed through by root only".into(),
            });
        }
        let bad = |e: rustix::io::Errno| PlatformError::BadInput {
            what: "share",
            value: export.path.display().to_string(),
            why: e.to_string(),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&export.path, flags, Mode::empty()).map_err(bad)?;
        let owner = rustix::fs::fstat(&fd).map_err(bad)?;
        let others = root && owner.st_uid != 0 && export.owners == ShareOwners::Directory;
        let run_as = others.then(|| RunAs { uid: owner.st_uid, gid: owner.st_gid, groups: Vec::new() });
        Ok(Self { fd, run_as })
    }
}

/// What a helper is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Serves the share.
    Serves,
    /// Answers the guest in the place of one that has ended.
    TakesOver,
}

/// What a helper has of its VM.
pub(crate) struct Place<'a> {
    pub(crate) program: &'a Path,
    pub(crate) vm: &'a str,
    /// What those who clean up know it by.
    pub(crate) token: &'a str,
    pub(crate) cgroups: Vec<OwnedFd>,
}

/// One share's process.
pub(crate) struct Helper {
    pub(crate) process: ChildProcess,
    output: Ring,
    /// It left somebody without an answer, and is to end; the kernel may be late with that.
    has_stalled: watch::Sender<bool>,
}

impl Helper {
    /// Starts it on a listening socket.
    pub(crate) async fn start(
        place: Place<'_>,
        export: &VirtioFsExport,
        directory: &Directory,
        socket: OwnedFd,
        role: Role,
    ) -> Result<Self, PlatformError> {
        let intent = || format!("start {} for share {}", place.program.display(), export.path.display());
        let failed = |e: std::io::Error| PlatformError::host(intent(), e);
        // By its descriptor: who owns the directory may not get at where the program is.
        let program = rustix::fs::open(place.program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let program = program.map_err(|e| failed(e.into()))?;
        let (output, output_end) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        let output = pipe::Receiver::from_owned_fd(output).map_err(failed)?;
        let fd = directory.fd.try_clone().map_err(failed)?;
        let mut arguments = arguments(&place, export, &fd, &socket);
        if role == Role::TakesOver {
            arguments.push("--gone".into());
        }
        let spec = ChildSpec {
            program: format!("/proc/self/fd/{}", program.as_raw_fd()).into(),
            called: Some(PROGRAM.into()),
            arguments,
            inherit: vec![fd, socket],
            output: output_end,
            run_as: directory.run_as.clone(),
            cgroups: place.cgroups,
        };
        let process = ChildProcess::spawn(spec, || ()).await.map_err(failed)?;
        drop(program);
        let ring = Ring::default();
        tokio::spawn(crate::create::collect(output, ring.clone()));
        Ok(Self { process, output: ring, has_stalled: watch::Sender::new(false) })
    }

    /// Ends one that has left QEMU without an answer.
    pub(super) fn end_stalled(&self) {
        // Failing means that it has ended. One that waits for a disk ends only when that answers, and does nothing more.
        let _ = self.process.kill();
        self.has_stalled.send_replace(true);
    }

    /// Waits until it serves no more.
    pub(super) async fn gone(&self) {
        let (mut exit, mut stalled) = (self.process.exit(), self.has_stalled.subscribe());
        tokio::select! {
            _ = exit.wait_for(Option::is_some) => {}
            _ = stalled.wait_for(|stalled| *stalled) => {}
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        *self.has_stalled.borrow() || self.process.exit().borrow().is_some()
    }

    /// How it came to serve no more, for people to read.
    pub(super) fn describe_end(&self) -> String {
        let how = match *self.process.exit().borrow() {
            _ if *self.has_stalled.borrow() => "did not answer QEMU, and was ended".into(),
            Some(ChildExit::Code(code)) => format!("ended with code {code}"),
            Some(ChildExit::Signal(signal)) => format!("was ended by signal {signal}"),
            None => "is still there".into(),
        };
        let words = self.output.last_lines(QUOTED_LINES);
        let said = if words.is_empty() { String::new() } else { format!(", its last words: {}", words.join(" | ")) };
        format!("its helper (pid {}) {how}{said}", self.process.id())
    }
}

fn arguments(place: &Place<'_>, export: &VirtioFsExport, directory: &OwnedFd, socket: &OwnedFd) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![
        "--vm".into(),
        place.vm.into(),
        "--token".into(),
        place.token.into(),
        "--directory".into(),
        directory.as_raw_fd().to_string().into(),
        "--socket".into(),
        socket.as_raw_fd().to_string().into(),
    ];
    if export.read_only {
        arguments.push("--read-only".into());
    }
    if export.owners == ShareOwners::Passthrough {
        arguments.push("--passthrough".into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn program(dir: &Path) -> PathBuf {
        let path = dir.join(PROGRAM);
        std::fs::write(&path, "").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("changed");
        path
    }

    #[test]
    fn it_is_found_beside_the_program_or_beside_tests() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = program(dir.path());
        assert_eq!(search(None, Some(&dir.path().join("uvm"))), Ok(path.clone()));
        assert_eq!(search(None, Some(&dir.path().join("deps/test-1"))), Ok(path));
        let error = search(None, Some(&dir.path().join("other/uvm"))).expect_err("not there");
        assert!(error.contains("other/uvm-fs: No such file") && error.contains("$UVM_FS: not set"), "{error}");
    }

    #[test]
    fn what_is_named_is_taken_or_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        program(dir.path());
        let exe = dir.path().join("uvm");
        let error = search(Some("/nonexistent/uvm-fs".into()), Some(&exe)).expect_err("not there");
        assert!(error.starts_with("/nonexistent/uvm-fs: No such file"), "{error}");
        let error = search(Some("/etc/passwd".into()), Some(&exe)).expect_err("no program");
        assert_eq!(error, "/etc/passwd: it is no program");
    }

    #[test]
    fn a_directory_is_served_as_its_owner() {
        let dir = tempfile::tempdir().expect("a directory");
        let export =
            |owners| VirtioFsExport { tag: "share-0".into(), path: dir.path().to_owned(), read_only: false, owners };
        let opened = Directory::open(&export(ShareOwners::Directory)).expect("it is there");
        assert_eq!(opened.run_as, None, "the owner is this user");
        let passed = Directory::open(&export(ShareOwners::Passthrough));
        if !rustix::process::geteuid().is_root() {
            assert!(passed.is_err());
            return;
        }
        assert_eq!(passed.expect("root may").run_as, None);
        std::os::unix::fs::chown(dir.path(), Some(4711), Some(4712)).expect("changed");
        let opened = Directory::open(&export(ShareOwners::Directory)).expect("it is there");
        assert_eq!(opened.run_as, Some(RunAs { uid: 4711, gid: 4712, groups: Vec::new() }));
        assert_eq!(Directory::open(&export(ShareOwners::Passthrough)).expect("root may").run_as, None);
        assert_eq!(dir.path().metadata().expect("there").uid(), 4711);
        let mut missing = export(ShareOwners::Directory);
        missing.path = dir.path().join("missing");
        assert!(Directory::open(&missing).map(drop).expect_err("missing").to_string().contains("missing"));
    }
}
