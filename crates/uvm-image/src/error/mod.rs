//! How making and finding boot files fails.

mod intent;
mod kind;
mod lists;
mod program;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use intent::Intent;
pub(crate) use intent::IoContext;
pub use kind::ImageErrorKind;
use lists::{Known, Lines, List};
pub use program::BadProgram;

use crate::deb::DebError;
use crate::exec::CommandOutput;
use crate::initramfs::CpioError;
use crate::kernel::KernelError;
use crate::modules::ModuleError;
use crate::sealed::Damage;

/// Why boot files could not be found, made or removed. Unless a variant says otherwise, nothing was changed and
/// nothing unfinished was left in the data directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Neither variable that names a data directory is set to an absolute path.
    #[error("no data directory: set UVM_DATA_DIR, XDG_DATA_HOME or HOME to an absolute path")]
    NoDataDir,
    /// The file system of `path` has no space (or quota, or file size limit) left.
    #[error("no space left for {path}: free some, or set UVM_DATA_DIR to a directory on a larger file system")]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A build that is known to need a lot of space was not begun.
    #[error(
        "{what} needs {needed_mib} MiB in {path}, which has {free_mib}: free some, or set UVM_DATA_DIR to a directory \
         on a larger file system"
    )]
    SpaceNeeded {
        /// What was asked for.
        what: &'static str,
        /// Where it would have been made.
        path: PathBuf,
        /// What it needs.
        needed_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// This user may not write there.
    #[error(
        "not allowed to {intent} {path}: make it writable for this user, or set UVM_DATA_DIR to a directory that is"
    )]
    NotWritable {
        /// What was tried.
        intent: Intent,
        /// Where.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A file could not be read or changed for any other reason.
    #[error("cannot {intent} {path}")]
    Io {
        /// What was tried.
        intent: Intent,
        /// Where.
        path: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// Someone else is making the same thing and did not finish in time. Theirs goes on.
    #[error(
        "waited {waited:?} for {what}, which {holder} (or a program it started) is making: wait for it, or end it, \
         then try again"
    )]
    LockTimeout {
        /// What is being made.
        what: String,
        /// Who makes it, as far as is known.
        holder: String,
        /// How long this call waited.
        waited: Duration,
    },
    /// The caller's [`CancelFlag`](crate::CancelFlag) was raised.
    #[error("cancelled")]
    Cancelled,

    /// A value that the caller gave cannot be used.
    #[error("{what} {value:?} cannot be used: {why}")]
    BadInput {
        /// What kind of thing it is: `guest path`.
        what: &'static str,
        /// The value given.
        value: String,
        /// What is wrong with it, and what is allowed.
        why: &'static str,
    },

    /// A program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program's path.
        program: PathBuf,
        /// The system's own words.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed ({status}){output}")]
    CommandFailed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: CommandOutput,
    },
    /// A program did not end in time. It was ended.
    #[error("`{command}` did not end within {waited:?}{output}")]
    CommandTimeout {
        /// The command line.
        command: String,
        /// How long it had.
        waited: Duration,
        /// The end of what it printed.
        output: CommandOutput,
    },

    /// This machine has no apt, so that no package can be had.
    #[error(
        "cannot get the package {package}: no {tool} in {searched}. Packages are had with apt only (Debian and its \
         kin); elsewhere give {alternative}"
    )]
    NoApt {
        /// The package wanted.
        package: String,
        /// The program that is missing.
        tool: &'static str,
        /// Where programs are looked for.
        searched: String,
        /// What to do instead.
        alternative: &'static str,
    },
    /// No package source of this machine has the package.
    #[error(
        "no package source of this machine has {package}{output}; check /etc/apt/sources.list and \
         /etc/apt/sources.list.d, or give {alternative}"
    )]
    NoPackage {
        /// The package wanted.
        package: String,
        /// What apt said about it.
        output: CommandOutput,
        /// What to do instead.
        alternative: &'static str,
    },
    /// apt's record of a package lacks a field, or a field holds what it must not.
    #[error("apt's record of package {package} cannot be used: {why}")]
    BadPackageRecord {
        /// The package.
        package: String,
        /// What is wrong.
        why: String,
    },
    /// A downloaded package is not the file that its signed index names. It was removed.
    #[error(
        "{path} has SHA-256 {found}, but the signed package index says {expected}: try again, or change the mirror"
    )]
    PackageMismatch {
        /// The file.
        path: PathBuf,
        /// What the index says.
        expected: crate::Sha256,
        /// What the file has.
        found: crate::Sha256,
    },
    /// A package cannot be unpacked.
    #[error("cannot unpack {path}")]
    BadPackage {
        /// The package file.
        path: PathBuf,
        /// What is wrong with it.
        source: DebError,
    },
    /// A package does not hold what it is wanted for.
    #[error("{path} holds no {what}")]
    PackageLacks {
        /// The package file.
        path: PathBuf,
        /// What was looked for.
        what: String,
    },

    /// A kernel image cannot be used.
    #[error("kernel {path} cannot be used")]
    BadKernel {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: KernelError,
    },
    /// A kernel cannot boot a utility VM.
    #[error("kernel {kernel} lacks {feature}, without which no utility VM boots; {hint}")]
    KernelLacks {
        /// The kernel.
        kernel: String,
        /// The missing driver.
        feature: String,
        /// What to do.
        hint: &'static str,
    },
    /// A kernel module cannot be read, or its dependencies cannot be resolved.
    #[error("kernel module {path} cannot be used")]
    BadModule {
        /// The module's file.
        path: PathBuf,
        /// What is wrong with it.
        source: ModuleError,
    },
    /// No kernel of that name is in the data directory.
    #[error("no kernel {name} in {dir}; there {}", Known(.known))]
    NoSuchKernel {
        /// The name asked for.
        name: String,
        /// Where kernels are kept.
        dir: PathBuf,
        /// The names there.
        known: Vec<String>,
    },
    /// The trimmed kernel was asked for but has not been built yet. It takes minutes, so nothing builds it by the
    /// way.
    #[error("the trimmed kernel is not in {dir}: build it with `uvm image kernel` (about 20 CPU minutes, once)")]
    TrimmedKernelMissing {
        /// Where kernels are kept.
        dir: PathBuf,
    },
    /// No installed kernel can be read.
    #[error(
        "no usable kernel is installed: looked for {looked}. Give a kernel by path (`--kernel PATH`), or make the \
         files readable for this user"
    )]
    NoInstalledKernel {
        /// The files that were looked for.
        looked: String,
    },

    /// Programs or headers that a kernel build needs are missing.
    #[error("the kernel cannot be built: {} missing. On Debian: {install}", List(.missing))]
    BuildToolsMissing {
        /// What is missing.
        missing: Vec<String>,
        /// The command that installs it.
        install: String,
    },
    /// The kernel's configuration tool did not keep everything the fragment asks for. The build directory stays.
    #[error(
        "the kernel source does not take {} of the configuration (see {config}): the fragment does not fit this \
         version",
        List(.symbols)
    )]
    ConfigNotKept {
        /// The symbols, each with what was wanted and what came out.
        symbols: Vec<String>,
        /// The resulting configuration.
        config: PathBuf,
    },
    /// A step of the kernel build failed. The build directory stays, and the next try goes on from there.
    #[error("the kernel build failed; its whole output is in {log}")]
    KernelBuild {
        /// The log file.
        log: PathBuf,
        /// Which command failed, with the end of the log.
        source: Box<ImageError>,
    },

    /// No agent was found.
    #[error(
        "no uvm-agent found; looked at:{}\nbuild one with `cargo build -p uvm-agent --profile agent --target \
         x86_64-unknown-linux-musl`, or set UVM_AGENT",
        Lines(.looked)
    )]
    AgentNotFound {
        /// The places, each with why it does not serve.
        looked: Vec<String>,
    },
    /// A program for the guest cannot run there.
    #[error("{path} cannot be the guest's {what}: {why}")]
    BadProgram {
        /// `agent` or `busybox`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: BadProgram,
    },
    /// The initramfs could not be written.
    #[error("cannot build the initramfs {path}")]
    Initramfs {
        /// Where it was being written.
        path: PathBuf,
        /// What is wrong.
        source: CpioError,
    },

    /// The directory is no directory of boot files.
    #[error("{dir} holds no boot files: there is no manifest.json in it")]
    NotBootFiles {
        /// The directory.
        dir: PathBuf,
    },
    /// Files are not what their manifest says. `ensure` makes them anew; a directory that was given must be replaced.
    #[error("{dir} is damaged: {damage}; {remedy}")]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        damage: Box<Damage>,
        /// What to do.
        remedy: &'static str,
    },
    /// Nothing of that name is there.
    #[error("no {what} {name} in {dir}; there {}", Known(.known))]
    NoSuchEntry {
        /// `boot files`, `kernel`.
        what: &'static str,
        /// The name asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// The names there.
        known: Vec<String>,
    },
    /// A shortened name fits more than one entry.
    #[error("{name} is short for more than one of the {what}: {}", List(.fits))]
    AmbiguousName {
        /// `boot files`, `kernel`.
        what: &'static str,
        /// The name given.
        name: String,
        /// The entries it fits.
        fits: Vec<String>,
    },
    /// A running VM uses these boot files. They are still there.
    #[error("boot files {name} are in use by a running VM: stop it first (`uvm ps` lists them)")]
    InUse {
        /// The boot files.
        name: String,
    },
}

impl ImageError {
    pub(crate) fn damaged(dir: impl Into<PathBuf>, damage: Damage, remedy: &'static str) -> Self {
        Self::Damaged { dir: dir.into(), damage: Box::new(damage), remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_list_what_there_is() {
        let none = ImageError::NoSuchKernel { name: "x".into(), dir: "/d".into(), known: vec![] };
        assert_eq!(none.to_string(), "no kernel x in /d; there is none");
        let two = ImageError::AgentNotFound { looked: vec!["a: not there".into(), "b: dynamic".into()] };
        assert!(two.to_string().contains("looked at:\n    a: not there\n    b: dynamic\nbuild one with"), "{two}");
    }
}
