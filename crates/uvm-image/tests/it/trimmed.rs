//! Building the trimmed kernel, with a compiler and a kernel source that are small fakes.

use std::fs;

use uvm_image::{BootFiles, ImageError, ImageErrorKind, Kernel, KernelKind, KernelSource, TrimmedKernelOptions};

use crate::builders::{ElfBuilder, TarBuilder, compress, deb};
use crate::machine::{Machine, chain, files_in, recorder};

const FRAGMENT: &str = "CONFIG_HZ=100\nCONFIG_KEPT=y\n# CONFIG_OFF is not set\n";

/// A machine with build tools and a kernel source. The "compiler" copies `result` of the source.
fn machine(version: &str) -> Machine {
    let machine = Machine::new();
    let log = machine.path("make.log").display().to_string();
    for name in ["ld", "flex", "bison", "bc", "perl", "gzip", "awk", "cmp", "find", "gcc"] {
        machine.script(name, "exit 0\n");
    }
    machine.script("make", &MAKE.replace("LOG", &log));
    machine.script("strip", "/bin/cp \"$4\" \"$3\"\n");
    machine.script("sh", "exec /bin/sh \"$@\"\n");
    let kernel = ElfBuilder::pvh_kernel(&format!("Linux version {version} (uvm@uvm)"));
    let source = TarBuilder::default()
        .file("linux-source-6.12/Kbuild", b"")
        .file("linux-source-6.12/result", &kernel)
        .mode(0o755)
        .file("linux-source-6.12/scripts/kconfig/merge_config.sh", b"#!/bin/sh\n/bin/cat \"$3\" >> .config\n")
        .build();
    let package = TarBuilder::default().file("./usr/src/linux-source-6.12.tar.xz", &compress(&source, ".xz")).build();
    machine.put_package("linux-source-6.12", "6.12.7-1", "", &deb(&package, ".xz"));
    machine
}

fn options(machine: &Machine) -> TrimmedKernelOptions {
    TrimmedKernelOptions::new(machine.store()).with_config_fragment(FRAGMENT)
}

fn made(machine: &Machine) -> Vec<String> {
    fs::read_to_string(machine.path("make.log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn it_is_built_once_registered_and_booted_from() {
    let machine = machine("6.12.7");
    let kernel = Kernel::build_trimmed(&options(&machine)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!((kernel.kind(), kernel.release(), kernel.hz()), (KernelKind::Trimmed, "6.12.7", Some(100)));
    assert!(kernel.name().starts_with("trimmed-6.12.7-"), "{}", kernel.name());
    assert!(files_in(&machine.data_dir().path().join("build")).is_empty(), "the build directory is gone");
    let made_first = made(&machine);
    assert_eq!(
        made_first.iter().map(|line| line.split(' ').next_back().unwrap()).collect::<Vec<_>>(),
        ["tinyconfig", "olddefconfig", "vmlinux"]
    );
    let calls = machine.apt_calls();
    let again = Kernel::build_trimmed(&options(&machine)).unwrap();
    assert_eq!(again.name(), kernel.name());
    assert_eq!((made(&machine), machine.apt_calls()), (made_first, calls), "nothing was done again");
    let files = BootFiles::ensure(&machine.options().with_kernel(KernelSource::Trimmed)).unwrap();
    assert_eq!(files.manifest().kernel.name, kernel.name());
    assert!(machine.junk().is_empty());
}

#[test]
fn nothing_of_this_machine_reaches_the_compiler() {
    let machine = machine("6.12.7");
    Kernel::build_trimmed(&options(&machine)).unwrap();
    let env = fs::read_to_string(machine.path("make.log.env")).unwrap();
    let names: Vec<_> = env.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    for name in names {
        let known = ["HOME", "TMPDIR", "PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name)
            || name.starts_with("KBUILD_BUILD_");
        assert!(known, "{name} was passed on");
    }
    assert!(env.contains("KBUILD_BUILD_USER=uvm\n"), "{env}");
}

#[test]
fn symbols_that_are_lost_are_listed() {
    let machine = machine("6.12.7");
    machine.script(
        "make",
        &MAKE
            .replace("LOG", "/dev/null")
            .replace("# lose", "/bin/sed -i -e /KEPT/d -e 's/# CONFIG_OFF is not set/CONFIG_OFF=y/' .config"),
    );
    let error = Kernel::build_trimmed(&options(&machine)).unwrap_err();
    let ImageError::ConfigNotKept { symbols, config } = &error else { panic!("{}", chain(&error)) };
    assert_eq!(symbols, &["CONFIG_KEPT=y (became n)", "CONFIG_OFF=n (became y)"]);
    assert!(config.exists());
}

#[test]
fn a_failed_build_quotes_its_log_and_the_next_goes_on_from_there() {
    let machine = machine("6.12.7");
    let log = machine.path("make.log").display().to_string();
    machine.script(
        "make",
        &MAKE.replace("LOG", &log).replace("# compile", "echo 'fork.c:1: error: no such thing' >&2; exit 2"),
    );
    let error = Kernel::build_trimmed(&options(&machine)).unwrap_err();
    assert_eq!(error.kind(), ImageErrorKind::Tool);
    let text = chain(&error);
    for part in ["build.log", "vmlinux` failed (exit status: 2)", "fork.c:1: error: no such thing"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(Kernel::list(&machine.data_dir()).unwrap().is_empty());

    machine.script("make", &MAKE.replace("LOG", &log));
    let (progress, events) = recorder();
    let mut options = options(&machine);
    options.store = options.store.with_progress(progress);
    Kernel::build_trimmed(&options).unwrap();
    let unpacked = events.lock().unwrap().iter().filter(|event| format!("{event:?}").contains("Unpacking")).count();
    assert_eq!(unpacked, 2, "begun and finished once: taking the result in, not the source");
}

#[test]
fn another_configuration_is_another_kernel_and_given_up_builds_are_removed() {
    let machine = machine("6.12.7");
    let log = machine.path("make.log").display().to_string();
    machine.script("make", "exit 2\n");
    Kernel::build_trimmed(&options(&machine)).unwrap_err();
    assert_eq!(files_in(&machine.data_dir().path().join("build")).len(), 1);
    machine.script("make", &MAKE.replace("LOG", &log));
    let other = Kernel::build_trimmed(&options(&machine).with_config_fragment("CONFIG_HZ=250\n")).unwrap();
    assert_eq!(other.hz(), Some(250));
    assert!(files_in(&machine.data_dir().path().join("build")).is_empty());
    let first = Kernel::build_trimmed(&options(&machine)).unwrap();
    assert_ne!(first.name(), other.name());
}

#[test]
fn a_damaged_one_is_not_booted_but_built_again_when_asked_for() {
    let machine = machine("6.12.7");
    let kernel = Kernel::build_trimmed(&options(&machine)).unwrap();
    fs::remove_file(kernel.image_path()).unwrap();
    let boot = || BootFiles::ensure(&machine.options().with_kernel(KernelSource::Trimmed));
    let error = boot().unwrap_err();
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    assert!(error.to_string().ends_with("build it again with `uvm image kernel`"), "{error}");
    assert_eq!(Kernel::build_trimmed(&options(&machine)).unwrap().name(), kernel.name());
    boot().unwrap().verify().unwrap();
}

#[test]
fn cleaning_takes_what_can_be_had_again() {
    let machine = machine("6.12.7");
    let good = fs::read_to_string(machine.path("bin/make")).unwrap();
    machine.script("make", "exit 2\n");
    Kernel::build_trimmed(&options(&machine)).unwrap_err();
    fs::write(machine.path("bin/make"), good).unwrap();
    let kernel = Kernel::build_trimmed(&options(&machine).with_config_fragment("CONFIG_HZ=250\n")).unwrap();
    let files = machine.ensure();
    fs::create_dir_all(machine.data_dir().path().join("tmp/junk")).unwrap();
    assert!(machine.store().clean().unwrap() > 1000);
    let left: Vec<_> =
        files_in(machine.data_dir().path()).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, ["boot", "busybox", "kernels", "locks", "tmp"]);
    assert!(machine.junk().is_empty());
    kernel.verify().unwrap();
    assert_eq!(machine.ensure().dir(), files.dir());
}

#[test]
fn missing_tools_are_named_before_anything_is_downloaded() {
    let machine = machine("6.12.7");
    fs::remove_file(machine.path("bin/bison")).unwrap();
    let error = Kernel::build_trimmed(&options(&machine)).unwrap_err();
    assert!(error.to_string().contains("apt-get install --no-install-recommends bison"), "{error}");
    assert_eq!(machine.apt_calls(), [""; 0]);
}

const MAKE: &str = r#"
echo "make $*" >> LOG
/usr/bin/env > LOG.env
for goal; do :; done
case "$goal" in
tinyconfig) echo '# CONFIG_TINY is not set' > .config ;;
olddefconfig)
    # lose
    ;;
vmlinux)
    # compile
    /bin/cp result vmlinux
    ;;
esac
exit 0
"#;
