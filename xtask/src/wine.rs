//! Programs for Windows, run by wine in a prefix of the project's own: `target/wine`. Nothing of the user's is read or
//! written, and nothing that a program or wine starts outlives the run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::bounded::run_bounded;
use crate::setup;
use crate::shell::{Cmd, root};

/// What these programs are built for.
pub(crate) const TARGET: &str = "x86_64-pc-windows-gnu";

/// wine and what it keeps, in the hands of one process at a time.
pub(crate) struct Wine {
    program: PathBuf,
    directory: PathBuf,
    _lock: File,
}

impl Wine {
    /// Finds wine, waits until nobody else uses the prefix, and makes it if it is not there.
    pub(crate) fn open() -> anyhow::Result<Self> {
        let program = setup::find("wine64").context("wine64 is missing; `cargo xtask windows` installs it")?;
        let directory = root().join("target/wine");
        fs::create_dir_all(directory.join("home"))?;
        let lock = lock(&directory.join("lock"))?;
        let wine = Self { program, directory, _lock: lock };
        wine.make_prefix().context("cannot make a prefix for wine; `rm -r target/wine` begins anew")?;
        Ok(wine)
    }

    /// Puts a library that was built into the system's directory, where programs look for Windows' own.
    fn add_library(&self, profile: &str, library: &str) -> anyhow::Result<()> {
        let built = built(profile).join(library);
        let place = self.prefix().join("drive_c/windows/system32").join(library);
        fs::copy(&built, place).with_context(|| built.display().to_string())?;
        Ok(())
    }

    fn prefix(&self) -> PathBuf {
        self.directory.join("prefix")
    }

    fn make_prefix(&self) -> anyhow::Result<()> {
        // Written last: a prefix without it was not finished.
        let made = self.directory.join("made");
        if made.exists() {
            return Ok(());
        }
        eprintln!("[wine] making a prefix in {}", self.directory.display());
        if self.prefix().exists() {
            fs::remove_dir_all(self.prefix())?;
        }
        let mut boot = self.command("wineboot");
        // It complains of what it has not, as programs of 32 bits, and nothing is wrong.
        let log = self.directory.join("boot.log");
        boot.arg("--init").stdout(Stdio::null()).stderr(File::create(&log)?);
        // The server writes the prefix's files when it ends.
        let status = run_bounded(boot, BOOT, BOOT).with_context(|| format!("see {}", log.display()))?;
        ensure!(status.success(), "wineboot: {status}; see {}", log.display());
        self.add_what_wine_lacks()?;
        File::create(made)?;
        Ok(())
    }

    fn add_what_wine_lacks(&self) -> anyhow::Result<()> {
        Cmd::cargo().args(["build", "--quiet", "--profile", "agent", "--target", TARGET, "-p", "uvm-wine"]).run()?;
        self.add_library("agent", "bcryptprimitives.dll")
    }

    /// Runs a program; gives its exit status. Whatever it leaves running is ended.
    pub(crate) fn run(&self, program: &str, arguments: &[String], deadline: Duration) -> anyhow::Result<ExitStatus> {
        let once = || {
            let mut command = self.command(program);
            command.args(arguments);
            run_bounded(command, deadline, Duration::ZERO).with_context(|| program.to_owned())
        };
        let status = once()?;
        if status.code() != Some(NO_SERVER) {
            return Ok(status);
        }
        eprintln!("[wine] {program} ended with {NO_SERVER}, as wine does whose server has not come up: once more");
        once()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(program).stdin(Stdio::null());
        for name in ["DISPLAY", "WAYLAND_DISPLAY", "WINEARCH", "WINELOADER", "WINESERVER", "WINEDLLPATH"] {
            command.env_remove(name);
        }
        // The user's directories are found by the first, and linked into a prefix.
        command.env("HOME", self.directory.join("home")).env("WINEPREFIX", self.prefix());
        // Without the two libraries it wants to download what they need, and the program makes menu entries.
        command.env("WINEDEBUG", "-all").env("WINEDLLOVERRIDES", "mscoree,mshtml,winemenubuilder.exe=");
        command
    }
}

/// What wine ends with, without a word, where its server ends before it is up, which is seen in one of hundreds of runs. Tests
/// that fail end with 101.
const NO_SERVER: i32 = 1;

/// `cargo xtask wine PROGRAM [ARGUMENT...]`, by which cargo also runs what it has built. Gives the program's exit code.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<u8> {
    let (program, arguments) = arguments.split_first().context("a program is needed")?;
    let status = Wine::open()?.run(program, arguments, RUN)?;
    let code = status.code().with_context(|| format!("{program}: {status}"))?;
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Builds everything that is for Windows, and runs its tests. One of them runs the library's example as it is: with the
/// stand-in in the place of the system's compute core library.
pub(crate) fn test(packages: &[&str]) -> anyhow::Result<()> {
    let build = || Cmd::cargo().args(["build", "--quiet", "--target", TARGET]);
    build().args(["-p", "uvm-hcs-stand-in", "-p", "uvm-cli"]).run()?;
    build().args(["-p", "uvm", "--example", "hello"]).run()?;
    let wine = Wine::open()?;
    // The prefix may have been made by an older tree.
    wine.add_what_wine_lacks()?;
    wine.add_library("debug", "computecore.dll")?;
    // Tests are run by processes that take it in turn.
    drop(wine);
    let runner = cargo_runner()?;
    let test = || Cmd::cargo().args(["--config", &runner, "test", "--quiet", "--target", TARGET]);
    let named = packages.iter().flat_map(|package| ["-p", *package]);
    test().args(named).run()?;
    test()
        .args(["-p", "uvm", "--test", "windows", "--", "--ignored"])
        .env("UVM_EXAMPLE_HELLO", built("debug").join("examples/hello.exe"))
        .run()
}

/// Where cargo puts what it builds with a profile.
fn built(profile: &str) -> PathBuf {
    root().join("target").join(TARGET).join(profile)
}

/// What tells cargo to run programs for Windows by this one.
fn cargo_runner() -> anyhow::Result<String> {
    let this = std::env::current_exe()?;
    let this =
        this.to_str().filter(|path| !path.contains('\'')).context("this program's path cannot be written down")?;
    Ok(format!("target.{TARGET}.runner=['{this}', 'wine']"))
}

/// Takes the lock, as soon as whoever has it lets it go.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path)?;
    let began = Instant::now();
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::Error(error) => return Err(error).with_context(|| path.display().to_string()),
            TryLockError::WouldBlock => {
                ensure!(began.elapsed() < BOOT + RUN, "{} is locked by another run", path.display());
                thread::sleep(TICK);
            }
        }
    }
    Ok(file)
}

/// How long a program may run.
const RUN: Duration = Duration::from_secs(300);
/// How long making a prefix may take.
const BOOT: Duration = Duration::from_secs(180);
/// How often something is looked at.
const TICK: Duration = Duration::from_millis(20);
