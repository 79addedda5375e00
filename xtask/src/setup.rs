//! What a fresh machine needs. Each step says what it does, and does nothing the second time.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::shell::Cmd;
use crate::wine;

/// The command, once it is built.
pub(crate) const UVM: &str = "target/release/uvm";
/// The target of the agent: it runs in guests that have nothing else.
const AGENT_TARGET: &str = "x86_64-unknown-linux-musl";
/// What a VM takes to be built.
const TO_RUN: [&str; 1] = [AGENT_TARGET];
/// What checks take: the target for Windows keeps what is for every system compiling there.
const TO_CHECK: [&str; 2] = [AGENT_TARGET, wine::TARGET];

/// A program that is needed, or the header of a library, and the Debian package that has it.
const PROGRAMS: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("cc", "gcc libc6-dev"), ("cap-ng.h", "libcap-ng-dev")];
/// What makes the disks of tests.
const FOR_TESTS: [(&str, &str); 5] = [
    ("qemu-img", "qemu-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("mkfs.erofs", "erofs-utils"),
    ("mksquashfs", "squashfs-tools"),
];
/// What works in shares, in a campaign.
const FOR_SHARES: [(&str, &str); 3] = [("fio", "fio"), ("stress-ng", "stress-ng"), ("git", "git")];
/// What builds the trimmed kernel, in a campaign; the command names what is missing of all it takes.
const FOR_KERNEL: [(&str, &str); 6] =
    [("make", "make"), ("flex", "flex"), ("bison", "bison"), ("bc", "bc"), ("perl", "perl"), ("gelf.h", "libelf-dev")];
/// What links programs for Windows, and what runs them.
const FOR_WINDOWS: [(&str, &str); 2] = [("x86_64-w64-mingw32-gcc", "gcc-mingw-w64-x86-64-win32"), ("wine64", "wine64")];
/// Where Debian has programs that it keeps off the path: wine off everybody's, others off that of users. And headers.
const OFF_PATH: [&str; 4] = ["/usr/lib/wine", "/usr/sbin", "/sbin", "/usr/include"];

/// What has to be there before anything is built.
pub(crate) fn prerequisites() -> anyhow::Result<()> {
    packages(&PROGRAMS)?;
    rust_targets(&TO_RUN)
}

/// What all that CI runs needs: package lists are fetched once.
pub(crate) fn for_ci() -> anyhow::Result<()> {
    packages(&[&PROGRAMS[..], &FOR_TESTS, &FOR_WINDOWS].concat())?;
    rust_targets(&TO_CHECK)
}

/// What the campaign of shares needs besides.
pub(crate) fn for_shares() -> anyhow::Result<()> {
    packages(&FOR_SHARES)
}

/// What the campaign of the trimmed kernel needs besides.
pub(crate) fn for_kernel() -> anyhow::Result<()> {
    packages(&FOR_KERNEL)
}

/// What the tests for Windows need.
pub(crate) fn for_windows() -> anyhow::Result<()> {
    packages(&FOR_WINDOWS)?;
    rust_targets(&TO_CHECK)
}

/// Everything up to boot files.
pub(crate) fn all() -> anyhow::Result<()> {
    prerequisites()?;
    build_agent()?;
    build_command()?;
    boot_files()
}

fn say(text: &str) {
    eprintln!("[setup] {text}");
}

/// Installs the packages of those programs that are missing.
pub(crate) fn packages(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .flat_map(|(_, packages)| packages.split(' '))
        .collect();
    if missing.is_empty() {
        say("packages: all there");
        return Ok(());
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    if find("apt-get").is_none() {
        bail!("missing, and this is no Debian: {}; install what has these programs", missing.join(", "));
    }
    let root = Cmd::new("id").arg("-u").output()?.trim() == "0";
    let sudo = !root && find("sudo").is_some();
    if !root && !sudo {
        bail!("root is needed to install packages; as root: {by_hand}");
    }
    say(&format!("installing {}", missing.join(" ")));
    let apt = |args: &[&str]| {
        let cmd = if sudo { Cmd::new("sudo").arg("apt-get") } else { Cmd::new("apt-get") };
        cmd.args(args).env("DEBIAN_FRONTEND", "noninteractive").run()
    };
    apt(&["update", "-q"]).context("package lists cannot be had; is there a network?")?;
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(missing);
    apt(&args).with_context(|| format!("by hand: {by_hand}"))
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(OFF_PATH.map(Into::into));
    places.map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn rust_targets(targets: &[&str]) -> anyhow::Result<()> {
    for target in targets {
        let library = Cmd::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
        // The directory is told whether or not it is there.
        if library.is_ok_and(|directory| Path::new(directory.trim()).is_dir()) {
            say(&format!("Rust target {target}: there"));
        } else {
            say(&format!("adding the Rust target {target}"));
            let by_hand = format!("without rustup, install what this toolchain calls rust-std for {target}");
            Cmd::new("rustup").args(["target", "add", target]).run().context(by_hand)?;
        }
    }
    Ok(())
}

/// The program that compares public interfaces. It reads what rustdoc says, which each version of Rust says in another way:
/// it moves on with the toolchain.
const SEMVER_CHECKS: (&str, &str) = ("cargo-semver-checks", "0.51.0");

/// Builds that program, which takes some minutes, unless it is there; with the targets that it compares interfaces on.
pub(crate) fn semver_checks() -> anyhow::Result<()> {
    rust_targets(&TO_CHECK)?;
    let (program, version) = SEMVER_CHECKS;
    let there = Cmd::cargo().args(["semver-checks", "--version"]).output_or_none();
    if there.is_some_and(|there| there.trim() == format!("{program} {version}")) {
        say(&format!("{program} {version}: there"));
        return Ok(());
    }
    say(&format!("building {program} {version}, which takes some minutes"));
    let by_hand = format!("cargo install {program} --version {version} --locked --force");
    Cmd::cargo()
        .args(["install", program, "--version", version, "--locked", "--force", "--quiet"])
        // It runs for seconds: a smaller part of the time it takes to make it fast.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .run()
        .with_context(|| format!("by hand: {by_hand}"))
}

/// Builds the guest agent.
pub(crate) fn build_agent() -> anyhow::Result<()> {
    say("building the guest agent");
    guest_build().args(["-p", "uvm-agent"]).run()
}

/// Builds what tests run in guests.
pub(crate) fn build_test_guest() -> anyhow::Result<()> {
    guest_build().args(["-p", "uvm-test-guest"]).run()
}

/// Begins a build of what runs in guests; the packages are still to be named.
pub(crate) fn guest_build() -> Cmd {
    Cmd::cargo().args(["build", "--quiet", "--profile", "agent", "--target", AGENT_TARGET])
}

/// Builds the command.
pub(crate) fn build_command() -> anyhow::Result<()> {
    say("building the command uvm, and uvm-fs, which serves its shares");
    Cmd::cargo().args(["build", "--quiet", "--release", "-p", "uvm-cli", "-p", "uvm-fs"]).run()
}

/// Downloads, unpacks and makes what guests boot from.
pub(crate) fn boot_files() -> anyhow::Result<()> {
    say("making boot files (the distribution's kernel is downloaded once)");
    Cmd::new(UVM).args(["image", "build"]).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// rustup adds what that file names before any of this runs.
    #[test]
    fn only_checks_take_the_target_for_windows() {
        let toolchain = include_str!("../../rust-toolchain.toml");
        for target in TO_CHECK {
            assert_eq!(toolchain.contains(target), TO_RUN.contains(&target), "{target}");
        }
    }
}
