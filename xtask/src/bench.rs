//! Measurements, each against a reference in the same run: set-up here, the measuring itself in `benches`.

use anyhow::bail;

use crate::setup;
use crate::shell::Cmd;

const MEASUREMENTS: [(&str, &str); 14] = [
    ("boot", "spawn to the first exec's exit code, against a bare QEMU"),
    ("run", "`uvm run -- uname -a`, against `vng` of virtme-ng"),
    ("exec", "500 times a static `true`, against a guest that does only that"),
    ("stdout", "1 GiB of a process's output, against a raw stream"),
    ("mux", "round trips and throughput of streams, against the plain port"),
    ("vsock", "round trips, throughput and idle virtual sockets, against vhost-device-vsock"),
    ("vsock-exec", "processes of an agent by virtual sockets, against a small program over one connection"),
    ("size", "binary, initramfs, memory of agent and owner"),
    ("parallel", "1 to 16 starts at once, against as many bare QEMUs"),
    ("disks", "disks added and removed, one at a time and 64 at once, against the same by hand"),
    ("plan9", "a file of a 9P share read and written, against a raw stream"),
    ("shares", "files of a virtio-fs share, against virtiofsd and QEMU's virtio-9p"),
    ("share-plug", "virtio-fs shares added and removed, against virtiofsd by hand"),
    ("layers", "memory of 50 VMs (or as many as rounds) with one layer, against a copy for each"),
];

const USAGE: &str = "\
usage: cargo xtask bench [--rounds N] [--keep] [NAME...]

Measures all, or what is named. The samples are written to docs/benchmarks, and the tables of docs/benchmarks.md anew
from all that are there. With --rounds it is a short form: written to target/bench only, unless --keep is given.
";

/// What the guests run, besides the agent.
const GUESTS: [&str; 9] = [
    "bench-true",
    "bench-write",
    "bench-file",
    "bench-guest-boot",
    "bench-guest-orders",
    "bench-guest-exec",
    "bench-guest-stream",
    "bench-guest-vsock",
    "bench-mux-guest",
];

/// What virtme-ng needs, and the Debian package that has it. Without udev its guests find no port for their output.
const VNG_PROGRAMS: [(&str, &str); 4] =
    [("python3", "python3 python3-venv"), ("udevadm", "udev"), ("depmod", "kmod"), ("busybox", "busybox-static")];

#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    names: Vec<String>,
    rounds: Option<String>,
    keep: bool,
}

/// Runs those that are named, or all.
pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    if arguments.first().is_some_and(|first| ["list", "-h", "--help"].contains(&first.as_str())) {
        print!("{USAGE}");
        for (name, about) in MEASUREMENTS {
            println!("  {name:<10} {about}");
        }
        return Ok(());
    }
    let request = Request::parse(arguments)?;
    setup::all()?;
    if request.wants("run") {
        setup::packages(&VNG_PROGRAMS)?;
    }
    if request.wants("disks") {
        setup::packages(&[("mkfs.ext4", "e2fsprogs")])?;
    }
    if request.wants("shares") || request.wants("share-plug") {
        // What virtiofsd is built with, besides what uvm-fs is.
        setup::packages(&[("seccomp.h", "libseccomp-dev")])?;
    }
    let mut guests = setup::guest_build().args(["-p", "uvm-bench-guest", "-p", "uvm-bench-mux"]);
    for guest in GUESTS {
        guests = guests.args(["--bin", guest]);
    }
    guests.run()?;
    let host = ["build", "--quiet", "--release", "-p", "uvm-bench-vm", "-p", "uvm-bench-mux"];
    Cmd::cargo().args(host).args(["--bin", "bench-vm", "--bin", "bench-mux"]).run()?;

    let mut bench = Cmd::new("target/release/bench-vm").args(&request.names);
    if let Some(rounds) = &request.rounds {
        bench = bench.args(["--rounds", rounds]);
    }
    if request.keep {
        bench = bench.args(["--out", "docs/benchmarks", "--page", "docs/benchmarks.md"]);
    }
    bench.run()
}

impl Request {
    fn parse(arguments: &[String]) -> anyhow::Result<Self> {
        let mut request = Self::default();
        let mut keep = false;
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--keep" => keep = true,
                "--rounds" => match words.next().map(|value| (value, value.parse())) {
                    Some((value, Ok(1..=u32::MAX))) => request.rounds = Some(value.into()),
                    _ => bail!("--rounds needs a number\n\n{USAGE}"),
                },
                name if MEASUREMENTS.iter().any(|(known, _)| *known == name) => request.names.push(name.into()),
                other => bail!("no measurement is called {other:?}; `bench list` names all"),
            }
        }
        request.keep = keep || request.rounds.is_none();
        Ok(request)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> anyhow::Result<Request> {
        Request::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_short_form_is_kept_only_on_request() {
        let all = parse(&[]).expect("valid");
        assert!(all.keep && all.wants("boot") && all.rounds.is_none());
        let short = parse(&["boot", "--rounds", "2", "mux"]).expect("valid");
        assert_eq!((short.names.as_slice(), short.rounds.as_deref()), (&["boot".into(), "mux".into()][..], Some("2")));
        assert!(!short.keep && !short.wants("run"));
        assert!(parse(&["--rounds", "2", "--keep"]).expect("valid").keep);
        for bad in [&["nothing"][..], &["--rounds"], &["--rounds", "0"], &["--rounds", "many"]] {
            parse(bad).expect_err("not valid");
        }
    }
}
