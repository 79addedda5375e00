//! virtme-ng, the reference of `uvm run`: installed from its package index into a cache directory, and given the same kernel.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use uvm::image::{Kernel, KernelKind};

use crate::bare::ready_within;

/// What is installed.
pub(crate) const VERSION: &str = "1.42";

/// virtme-ng and a kernel as its package has it.
pub(crate) struct Vng {
    programs: PathBuf,
    kernel: PathBuf,
    pub(crate) release: String,
    /// For what it leaves in the directory of temporary files.
    temporary: tempfile::TempDir,
}

impl Vng {
    /// Finds what it needs, or gets it.
    pub(crate) fn ensure() -> anyhow::Result<Self> {
        let cache = cache_directory()?;
        let environment = cache.join(format!("virtme-ng-{VERSION}"));
        once(&environment, |directory| {
            run(Command::new("python3").args(["-m", "venv"]).arg(directory))?;
            let pip = directory.join("bin/pip");
            run(Command::new(pip).args(["install", "--quiet", &format!("virtme-ng=={VERSION}")]))
        })
        .context("install virtme-ng from PyPI")?;
        let store = uvm::image::ImageStore::from_env()?;
        let kernels = Kernel::list(&store.data_dir)?;
        let kernel = kernels.iter().find(|kernel| kernel.kind() == KernelKind::Distribution);
        let release = kernel.context("the distribution's kernel is not there")?.release().to_owned();
        let package = package(&store.data_dir.downloads(), &release)?;
        let unpacked = cache.join(format!("linux-image-{release}"));
        once(&unpacked, |directory| run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(directory)))
            .context("unpack the distribution's kernel for virtme-ng")?;
        Ok(Self {
            programs: environment.join("bin"),
            kernel: unpacked.join(format!("boot/vmlinuz-{release}")),
            release,
            temporary: tempfile::Builder::new().prefix("uvm-bench-vng-").tempdir()?,
        })
    }

    /// Runs `command` in a VM, as its user would, and gives the time and the output.
    pub(crate) fn run(&self, processors: u32, memory_mib: u64, command: &[&str]) -> anyhow::Result<(Duration, String)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(self.programs.clone()).chain(std::env::split_paths(&path)))?;
        let mut vng = Command::new(self.programs.join("vng"));
        vng.arg("-r").arg(&self.kernel).args(["--disable-kvm", "--cpus", &processors.to_string()]);
        vng.args(["--memory", &format!("{memory_mib}M"), "--"]).args(command);
        vng.env("PATH", path).env("TMPDIR", self.temporary.path());
        timed(&mut vng)
    }
}

/// Runs a command to its end. The time, and its standard output.
pub(crate) fn timed(command: &mut Command) -> anyhow::Result<(Duration, String)> {
    let began = Instant::now();
    // A group of its own: what it started can be ended with it.
    let command = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group(command.spawn().with_context(|| format!("start {}", command.get_program().display()))?);
    let pidfd = pidfd_open(Pid::from_child(&group.0), PidfdFlags::empty())?;
    ensure!(
        ready_within(pidfd.as_fd(), PATIENCE)?,
        "{} takes longer than {PATIENCE:?}",
        command.get_program().display()
    );
    let took = began.elapsed();
    let (mut output, mut errors) = (String::new(), String::new());
    group.0.stdout.take().context("no output")?.read_to_string(&mut output)?;
    group.0.stderr.take().context("no errors")?.read_to_string(&mut errors)?;
    let status = group.0.wait()?;
    if !status.success() {
        bail!("{}: {status}: {errors}", command.get_program().display());
    }
    Ok((took, output))
}

const PATIENCE: Duration = Duration::from_secs(300);

/// A process that leads a group of its own.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // Not reaped yet, so the group is still this one.
            let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// The package that the kernel of that release came from.
fn package(downloads: &Path, release: &str) -> anyhow::Result<PathBuf> {
    let prefix = format!("linux-image-{release}_");
    let found = fs::read_dir(downloads)?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&prefix) && path.extension().is_some_and(|extension| extension == "deb")
    });
    found.with_context(|| format!("{} has no {prefix}*.deb: `uvm image build --newest` gets it", downloads.display()))
}

/// Makes a directory by `make`, unless it has been made before to its end.
pub(crate) fn once(directory: &Path, make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let complete = directory.join(".complete");
    if complete.exists() {
        return Ok(());
    }
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    make(directory)?;
    File::create(complete)?;
    Ok(())
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("start {}", command.get_program().display()))?;
    ensure!(status.success(), "{}: {status}", command.get_program().display());
    Ok(())
}

pub(crate) fn cache_directory() -> anyhow::Result<PathBuf> {
    let given = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    Ok(given.or_else(home).context("neither XDG_CACHE_HOME nor HOME is set")?.join("uvm-bench"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_to_its_end_is_not_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = dir.path().join("made");
        once(&made, |directory| Ok(fs::write(directory.join("half"), "")?)).expect("made");
        once(&made, |_| bail!("again")).expect("there");
        fs::remove_file(made.join(".complete")).expect("removed");
        once(&made, |_| bail!("the disk is full")).expect_err("fails");
        assert!(!made.join("half").exists() && !made.join(".complete").exists());
    }

    #[test]
    fn a_packages_name_begins_with_the_whole_release() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["linux-image-6.1.0-5-amd64_1_amd64.deb", "linux-image-6.1.0-56-amd64_2_amd64.deb"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let name = |release| package(dir.path(), release).map(|path| path.file_name().expect("a name").to_owned());
        assert_eq!(name("6.1.0-5-amd64").expect("found"), "linux-image-6.1.0-5-amd64_1_amd64.deb");
        assert!(name("6.1.0-56").is_err());
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_words() {
        let (took, output) = timed(Command::new("sh").args(["-c", "sleep 0.1; echo hello"])).expect("success");
        assert!(took >= Duration::from_millis(100));
        assert_eq!(output, "hello\n");
        let error = timed(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("failure").to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }
}
