//! The program itself: what it is confined to, seen from outside.
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the program may take to come up, or to end.
const SOON: Duration = Duration::from_secs(20);

/// Who is not root, on most systems `nobody`.
const NOBODY: u32 = 65_534;

struct Helper {
    child: Child,
    connection: UnixStream,
    /// It has no share.
    gone: bool,
    _dir: tempfile::TempDir,
}

impl Helper {
    /// Serves a new directory, with these flags, and waits until it is confined.
    fn start(flags: &[&str]) -> Self {
        Self::start_as(None, flags)
    }

    /// The same as another user, whose directory it is.
    fn start_as(user: Option<u32>, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = dir.path().join("shared");
        fs::create_dir(&shared).expect("made");
        let path = dir.path().join("socket");
        let listener = OwnedFd::from(UnixListener::bind(&path).expect("bound"));
        let connection = UnixStream::connect(&path).expect("connected");
        let directory = OwnedFd::from(fs::File::open(&shared).expect("opened"));
        // One that is not meant for it.
        let stray = OwnedFd::from(fs::File::open("/etc/passwd").expect("opened"));
        // By its descriptor: another user need not get at where it is.
        let program = OwnedFd::from(fs::File::open(env!("CARGO_BIN_EXE_uvm-fs")).expect("the program"));
        for fd in [&listener, &directory, &stray, &program] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).expect("inherited");
        }
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        if let Some(user) = user {
            std::os::unix::fs::chown(&shared, Some(user), Some(user)).expect("its directory");
            command.uid(user).gid(user);
        }
        command.args(["--directory", &directory.as_raw_fd().to_string()]);
        command.args(["--socket", &listener.as_raw_fd().to_string()]).args(flags);
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
        let helper = Self { child, connection, gone: flags.contains(&"--gone"), _dir: dir };
        let began = Instant::now();
        while helper.status("Seccomp:") != "2" {
            assert!(began.elapsed() < SOON, "it is not confined: {:?}", helper.end());
            std::thread::sleep(Duration::from_millis(5));
        }
        helper
    }

    fn proc(&self, name: &str) -> std::path::PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }

    fn status(&self, field: &str) -> String {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().trim().to_owned()
    }

    fn namespace(&self, kind: &str) -> Option<std::path::PathBuf> {
        fs::read_link(self.proc("ns").join(kind)).ok()
    }

    /// Closes the device; the exit code, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.connection);
        let mut said = String::new();
        self.child.stderr.take().expect("its errors").read_to_string(&mut said).expect("text");
        (self.child.wait().expect("it ends").code(), said)
    }
}

/// What the program says where a part of its confinement is missing: only landlock may be, where the kernel has none.
fn assert_confined(said: &str) {
    let others: Vec<&str> = said.lines().filter(|line| !line.contains("this kernel has no landlock")).collect();
    assert_eq!(others, [""; 0]);
}

/// No directory that it has leads on by `..`.
fn assert_no_way_up(helper: &Helper) {
    let mut directories = vec![helper.proc("cwd"), helper.proc("root")];
    for entry in fs::read_dir(helper.proc("fd")).expect("its descriptors") {
        let path = entry.expect("one").path();
        // One that has been closed meanwhile leads nowhere.
        if fs::metadata(&path).is_ok_and(|of| of.is_dir()) {
            directories.push(path);
        }
    }
    let numbers = |path: &Path| fs::metadata(path).map(|of| (of.dev(), of.ino())).expect("its numbers");
    // `/proc/self/fd` among them, which is what a share is served by.
    let mut of_processes = 0;
    for directory in directories {
        let (above, own) = (numbers(&directory.join("..")), numbers(&directory.join(".")));
        assert_eq!(above, own, "{}: {:?}", directory.display(), fs::read_link(&directory));
        of_processes += usize::from(own == numbers(&helper.proc("fd")));
    }
    assert!(helper.gone || of_processes > 0, "it has not got its own files");
}

#[test]
fn a_helper_of_somebody_else_has_no_way_up_either() {
    if !rustix::process::geteuid().is_root() {
        // There is no other user to be; that test is of this one's.
        return;
    }
    let helper = Helper::start_as(Some(NOBODY), &[]);
    assert_eq!(helper.status("CapPrm:"), "0000000000000000");
    let own = fs::read_link("/proc/self/ns/user").expect("ours");
    // Where users may not make namespaces, it says so, and is not what this test is about.
    let has_own = helper.namespace("user").expect("root may look") != own;
    if has_own {
        assert_no_way_up(&helper);
    }
    let (code, said) = helper.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(has_own || said.contains("make namespaces with a user namespace"), "{said}");
}

#[test]
fn a_helper_has_nothing_but_its_share() {
    for flags in [&[][..], &["--read-only"], &["--gone"]] {
        let helper = Helper::start(flags);
        let root = rustix::process::geteuid().is_root();
        for kind in ["mnt", "net", "ipc", "uts"].iter().chain((!root).then_some(&"user")) {
            let own = fs::read_link(Path::new("/proc/self/ns").join(kind)).expect("ours");
            // Others of this user may not even look at a process that is not dumpable.
            if let Some(its) = helper.namespace(kind) {
                assert_ne!(its, own, "{kind}");
            }
        }
        assert_eq!(helper.status("NoNewPrivs:"), "1");
        let kept = if root { "000000000000000b" } else { "0000000000000000" };
        for set in ["CapEff:", "CapPrm:"] {
            assert_eq!(helper.status(set), kept, "{set}");
        }
        if root {
            assert_eq!(helper.status("CapBnd:"), kept);
            let mounts = fs::read_to_string(helper.proc("mountinfo")).expect("its mounts");
            assert_eq!(mounts.lines().count(), 1, "{mounts}");
            let options = mounts.split(' ').nth(5).unwrap_or_default();
            for option in ["nosuid", "nodev", "noexec", if flags.contains(&"--read-only") { "ro" } else { "rw" }] {
                assert!(options.split(',').any(|has| has == option), "{option}: {options}");
            }
            let open = fs::read_dir(helper.proc("fd"))
                .expect("its descriptors")
                .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()?.to_str().map(str::to_owned));
            let strays: Vec<String> = open.filter(|path| path.contains("/etc/passwd")).collect();
            assert_eq!(strays, [""; 0]);
            assert_no_way_up(&helper);
        }
        let (code, said) = helper.end();
        assert_eq!(code, Some(0), "{said}");
        assert_confined(&said);
    }
}

#[test]
fn without_namespaces_the_rest_holds() {
    let helper = Helper::start(&["--no-namespaces"]);
    let own = fs::read_link("/proc/self/ns/mnt").expect("ours");
    assert!(helper.namespace("mnt").is_none_or(|its| its == own));
    assert_eq!((helper.status("NoNewPrivs:").as_str(), helper.status("Seccomp:").as_str()), ("1", "2"));
    let (code, said) = helper.end();
    assert_eq!(code, Some(0), "{said}");
    assert_confined(&said);
}

#[test]
fn what_is_no_command_line_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_uvm-fs")).arg("--help").output().expect("started");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: uvm-fs --directory FD"));
    let output = Command::new(env!("CARGO_BIN_EXE_uvm-fs")).args(["--directory", "1000", "--socket", "1001"]).output();
    let output = output.expect("started");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("take the descriptors: Bad file descriptor"));
}
