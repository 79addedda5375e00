//! The command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::hcs_document::HcsDocumentArgs;
use crate::paths::{self, Disk, OfferedSocket, SharedPath};
use crate::report;

/// Light virtual machines for single commands and containers.
#[derive(Debug, Parser)]
#[command(name = "uvm", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Say more on standard error: -v also the guest's own log, -vv details.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Box<RunArgs>),
    Doctor(DoctorArgs),
    HcsDocument(HcsDocumentArgs),
    /// Make, list and remove what guests boot from.
    #[command(subcommand)]
    Image(ImageCommand),
    /// List the VMs that run, with their owners.
    Ps(ReportArgs),
    Gc(GcArgs),
    /// Print a completion script for a shell.
    #[command(hide = true)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a directory.
    #[command(hide = true)]
    Man {
        /// The directory.
        directory: PathBuf,
    },
}

/// Run a command in a VM of its own, which is gone afterwards.
///
/// Standard input, output and error are those of the command, and so is the exit code; 128+N if signal N killed it. 125:
/// the options are wrong, or the VM could not be had; 126: the command cannot be run; 127: there is no such command; 124: the
/// time is up.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct RunArgs {
    /// Guest memory: a number of MiB, or with a unit (512M, 2G).
    #[arg(short, long, value_name = "SIZE", default_value = "1024", value_parser = memory)]
    pub(crate) memory: uvm::MemoryMib,
    /// Guest processors, at most as many as the host has [default: 2, or 1 on a host with one].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cpus: Option<u32>,
    /// The VM's name [default: a random GUID].
    #[arg(long, value_name = "ID")]
    pub(crate) name: Option<uvm::UvmId>,
    #[command(flatten)]
    pub(crate) boot: BootArgs,
    /// The command that the guest's init runs, which is to be an agent
    /// [default: /bin/gcs -v4 -log-format json -loglevel LEVEL].
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) agent_cmdline: Option<String>,
    /// Add a word to the kernel's command line. May be repeated.
    #[arg(long = "kernel-arg", value_name = "WORD", allow_hyphen_values = true)]
    pub(crate) kernel_args: Vec<String>,
    /// End the VM after this time (90, 90s, 5m, 1h) and exit with 124.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Connect standard input; the default.
    #[arg(short, long, overrides_with = "no_stdin")]
    pub(crate) interactive: bool,
    /// Do not connect standard input: the command finds it closed.
    #[arg(short = 'n', long)]
    pub(crate) no_stdin: bool,
    /// Give the command a terminal; the default where standard input and output are one.
    #[arg(short, long, overrides_with = "no_tty")]
    pub(crate) tty: bool,
    /// Give the command no terminal.
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,
    /// Set a variable for the command, or pass one on: NAME=VALUE, NAME. May be repeated.
    #[arg(short, long = "env", value_name = "VAR", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Where the command starts, in the guest; where there is no such directory, the exit code is 125.
    #[arg(short = 'w', long, value_name = "DIR", default_value = "/")]
    pub(crate) cwd: String,
    /// What runs the guest's instructions.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// Also write the guest's serial console to this file; `-` is standard error.
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// Let programs in the guest dial this port of the host (context id 2) by a virtual socket, each connection relayed to
    /// this Unix socket of the host. May be repeated.
    #[arg(long = "vsock", value_name = "PORT:SOCKET", value_parser = virtual_socket)]
    pub(crate) virtual_sockets: Vec<VirtualSocket>,
    /// Share a directory or a file of the host; the guest sees it at GUEST [default: the same path]. `:ro` keeps the guest
    /// from writing. May be repeated. A file that is to be seen in a shared directory stands there as an empty one, on the
    /// host, too, unless one of its name is there.
    #[arg(long = "share", value_name = "PATH[:GUEST][:ro]", value_parser = paths::share)]
    pub(crate) shares: Vec<SharedPath>,
    /// How directories are shared; single files always go by 9P.
    #[arg(long, value_enum, value_name = "WAY", default_value_t = ShareBy::Auto)]
    pub(crate) share_by: ShareBy,
    /// Attach a disk of the host, an image (raw, or as its name says: .qcow2, .vhd, .vhdx) or a block device, and mount it
    /// at GUEST if that is given; `:ro` keeps the guest from writing. May be repeated: the first is /dev/sda.
    #[arg(long = "disk", value_name = "PATH[:GUEST][:ro]", value_parser = paths::disk)]
    pub(crate) disks: Vec<Disk>,
    /// Offer a Unix socket of the host in the guest, at GUEST [default: at the same path]; each connection is one to the
    /// socket. May be repeated.
    #[arg(long = "socket", value_name = "SOCKET[:GUEST]", value_parser = paths::socket)]
    pub(crate) sockets: Vec<OfferedSocket>,
    /// Put the image of a file system (ext4, erofs, squashfs; raw, or as its name says) over those of earlier --layer
    /// options: the first is at the bottom. The command has all of them together for its root, with /proc, /sys and /dev of
    /// the guest, and shares and disks where GUEST says. What it writes is in the guest's memory, and is gone with it: the
    /// images are not changed. May be repeated.
    #[arg(long = "layer", value_name = "IMAGE")]
    pub(crate) layers: Vec<PathBuf>,
    /// The command and its arguments [default: sh].
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// What the guest boots from.
#[derive(Debug, Clone, Args)]
pub(crate) struct BootArgs {
    /// A directory with kernel and initramfs [default: made in the user's data directory].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kernel"])]
    pub(crate) boot_files: Option<PathBuf>,
    /// The kernel: distribution, trimmed, installed, the name of one in `uvm image ls`, or a file.
    #[arg(long, value_name = "KERNEL")]
    pub(crate) kernel: Option<String>,
    /// The initramfs to boot with [default: made for the kernel].
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
}

/// Check whether this machine can run VMs, by running one, and say what to do if not.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) boot: BootArgs,
    /// What runs the guest's instructions.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make boot files, or find that they are there.
    Build {
        /// The kernel: distribution, trimmed, installed, the name of one in `uvm image ls`, or a file.
        #[arg(long, value_name = "KERNEL", default_value = "distribution")]
        kernel: String,
        /// Look for a newer kernel package.
        #[arg(long)]
        newest: bool,
        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build the trimmed guest kernel from the distribution's source. Takes 20 minutes of processor time.
    Kernel {
        /// Compilers at a time [default: one for each processor].
        #[arg(short, long, value_name = "N")]
        jobs: Option<std::num::NonZeroUsize>,
        /// Look for a newer source package.
        #[arg(long)]
        newest: bool,
    },
    /// List boot files and kernels.
    Ls(ReportArgs),
    /// Remove boot files or kernels that no VM uses.
    Rm {
        /// Their keys or names, or the beginning of one.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
    /// Remove boot files that no VM uses and that are not the newest of their kernel. They are made anew if they are needed.
    Prune {
        /// Only tell.
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare all boot files with their recorded hashes.
    Verify,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Remove what VMs left whose owner was killed. Every command that starts a VM does so, too.
#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    /// Only tell.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A port of virtual sockets, and where its connections go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VirtualSocket {
    pub(crate) port: u32,
    pub(crate) socket: PathBuf,
}

/// A way of sharing directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShareBy {
    /// virtio-fs where host and guest have it, else 9P.
    Auto,
    /// virtio-fs, or not at all: a process of its own for each share; faster.
    #[value(name = "virtio-fs")]
    VirtioFs,
    /// 9P: a server in this process, over the guest's transport.
    #[value(name = "9p")]
    Plan9,
}

/// An accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// KVM where it works, else TCG.
    Auto,
    /// The Linux kernel's hypervisor.
    Kvm,
    /// QEMU's translator: works everywhere, slowly.
    Tcg,
}

/// The command line, with what its parts alone do not tell checked, too.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(words)?;
    let Command::Run(args) = &cli.command else { return Ok(cli) };
    let conflict = |why: String| Err(conflict_of_run(why));
    if let Some(port) = twice(args.virtual_sockets.iter().map(|socket| socket.port)) {
        return conflict(format!("port {port} is given twice by '--vsock': one socket for each port is allowed"));
    }
    if let Some(layer) = twice(&args.layers) {
        return conflict(format!("'--layer {}' is given twice: each image is one layer", layer.display()));
    }
    let shares = args.shares.iter().map(|share| &share.guest_path);
    let disks = args.disks.iter().filter_map(|disk| disk.guest_path.as_ref());
    let sockets = args.sockets.iter().map(|socket| &socket.guest_path);
    let in_guest: Vec<_> = shares.chain(disks).chain(sockets).collect();
    if !args.layers.is_empty()
        && let Some((path, own)) = in_guest.iter().find_map(|path| Some((path, paths::hidden_by(path)?)))
    {
        return conflict(format!(
            "{path} in the guest is hidden with '--layer': {own} is the layers' or the guest's own there; a share, disk or \
             socket may be anywhere but at / and in /proc, /sys and /dev"
        ));
    }
    // As paths, "/in" and "/in/" are the same.
    if let Some(path) = twice(in_guest.into_iter().map(Path::new)) {
        let path = path.display();
        return conflict(format!(
            "{path} in the guest is given twice: one share, disk or socket for each path is allowed"
        ));
    }
    Ok(cli)
}

/// With the usage of `uvm run`, not of the whole program.
fn conflict_of_run(why: String) -> clap::Error {
    let mut program = Cli::command();
    program.build();
    let kind = clap::error::ErrorKind::ArgumentConflict;
    match program.find_subcommand_mut("run") {
        Some(run) => run.error(kind, why),
        None => program.error(kind, why),
    }
}

fn twice<T: Ord + Copy>(all: impl IntoIterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    all.into_iter().find(|one| !seen.insert(*one))
}

/// Tells what is wrong with the command line, or the help that was asked for; gives the exit code. `uvm run` gives
/// [`report::FAILED`] for what is wrong, as a command may give any other code; the rest 2.
pub(crate) fn refused(error: &clap::Error) -> i32 {
    if !error.use_stderr() {
        let (plain, styled) = (error.render().to_string(), error.render().ansi().to_string());
        let text = if std::io::stdout().is_terminal() { styled } else { plain };
        return report::exit_code(report::output(text.as_bytes()));
    }
    // There is nobody else to tell.
    let _ = error.print();
    exit_code_of_refusal(std::env::args_os().skip(1))
}

fn exit_code_of_refusal(arguments: impl IntoIterator<Item = OsString>) -> i32 {
    // No option before the subcommand has a value.
    let subcommand = arguments.into_iter().find(|word| !word.as_encoded_bytes().starts_with(b"-"));
    if subcommand.is_some_and(|word| word == "run") { report::FAILED } else { 2 }
}

fn memory(text: &str) -> Result<uvm::MemoryMib, String> {
    let (digits, factor) = match (text.strip_suffix(['M', 'm']), text.strip_suffix(['G', 'g'])) {
        (Some(digits), _) => (digits, 1),
        (_, Some(digits)) => (digits, 1024),
        (None, None) => (text, 1),
    };
    let number: u64 =
        digits.parse().map_err(|_| "a number of MiB, or with a unit (512M, 2G), is allowed".to_owned())?;
    let mib = number.checked_mul(factor).ok_or("more than any machine has")?;
    uvm::MemoryMib::new(mib).map_err(|e| e.to_string())
}

fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err("NAME=VALUE, or the NAME of one to pass on, is allowed".into());
    }
    Ok(text.to_owned())
}

fn virtual_socket(text: &str) -> Result<VirtualSocket, String> {
    let Some((port, socket)) = text.split_once(':') else {
        return Err("PORT:SOCKET is allowed, as 5000:/run/service.sock".into());
    };
    let port = match port.parse() {
        // The last one means any port.
        Ok(port) if port != u32::MAX => port,
        _ => return Err(format!("port {port:?}: a number from 0 to {} is allowed", u32::MAX - 1)),
    };
    if socket.is_empty() {
        return Err("the socket's path is empty: PORT:SOCKET is allowed, as 5000:/run/service.sock".into());
    }
    Ok(VirtualSocket { port, socket: socket.into() })
}

fn duration(text: &str) -> Result<Duration, String> {
    let (digits, factor) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "a time as 90, 90s, 5m or 1h is allowed".to_owned())?;
    match number.checked_mul(factor) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err("a time from 1s on is allowed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_have_units() {
        let mib = |text: &str| memory(text).map(uvm::MemoryMib::get);
        assert_eq!((mib("512"), mib("512M"), mib("2G")), (Ok(512), Ok(512), Ok(2048)));
        for bad in ["", "G", "1.5G", "7", "-2", "99999999999999999999", "18446744073709551615G"] {
            assert!(memory(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "0", "1d", "-1", "18446744073709551615h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_guest_has_a_processor_and_a_variable_a_name() {
        let given = |option: &str, value: &str| parse(["uvm", "run", option, value].map(Into::into));
        for good in ["A=b=c", "A=", "A"] {
            assert!(given("--env", good).is_ok(), "{good}");
        }
        for (option, bad, allowed) in
            [("--cpus", "0", "1.."), ("--env", "=b", "NAME=VALUE"), ("--env", "", "NAME=VALUE")]
        {
            let error = given(option, bad).expect_err(bad).to_string();
            assert!(error.contains(option) && error.contains(allowed), "{error}");
        }
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let cli = Cli::try_parse_from(["uvm", "run", "--cpus", "1", "--", "ls", "-l", "--all"]).expect("valid");
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!((run.cpus, run.command), (Some(1), vec!["ls".into(), "-l".into(), "--all".into()]));
        let cli = Cli::try_parse_from(["uvm", "run", "ls", "-l"]).expect("valid");
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!(run.command, ["ls", "-l"]);
        let cli = Cli::try_parse_from(["uvm", "run", "-n", "ls", "--color", "--", "-x"]).expect("valid");
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!((run.no_stdin, run.command), (true, vec!["ls".into(), "--color".into(), "--".into(), "-x".into()]));
        let cli = Cli::try_parse_from(["uvm", "run", "--", "-x"]).expect("valid");
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!(run.command, ["-x"]);
    }

    #[test]
    fn virtual_sockets_are_ports_and_paths() {
        let good = |port, socket: &str| Ok(VirtualSocket { port, socket: socket.into() });
        assert_eq!(virtual_socket("5000:/run/a:b"), good(5000, "/run/a:b"));
        assert_eq!(virtual_socket("0:a"), good(0, "a"));
        assert_eq!(virtual_socket("4294967294:a"), good(4_294_967_294, "a"));
        for (bad, named, allowed) in [
            ("4294967295:a", "\"4294967295\"", "4294967294"),
            (":a", "\"\"", "0 to"),
            ("x:a", "\"x\"", "0 to"),
            ("5000:", "path is empty", "PORT:SOCKET"),
            ("5000", "PORT:SOCKET", "is allowed"),
        ] {
            let error = parse(["uvm", "run", "--vsock", bad].map(Into::into)).expect_err(bad).to_string();
            assert!(error.contains(bad) && error.contains(named) && error.contains(allowed), "{bad}: {error}");
        }
    }

    #[test]
    fn a_port_has_one_socket() {
        let words = |second| ["uvm", "run", "--vsock", "7:/a", "--vsock", second, "ls"].map(Into::into);
        let Command::Run(run) = parse(words("8:/a")).expect("valid").command else { panic!("run") };
        assert_eq!(run.virtual_sockets.len(), 2);
        let error = parse(words("7:/b")).expect_err("twice").to_string();
        assert!(error.contains("port 7 is given twice") && error.contains("Usage: uvm run "), "{error}");
    }

    #[test]
    fn a_layer_is_one_layer() {
        let words = |second| ["uvm", "run", "--layer", "a.img", "--layer", second, "ls"].map(Into::into);
        let Command::Run(run) = parse(words("b.img")).expect("valid").command else { panic!("run") };
        assert_eq!(run.layers, ["a.img", "b.img"].map(PathBuf::from));
        let error = parse(words("a.img")).expect_err("twice").to_string();
        assert!(error.contains("'--layer a.img' is given twice"), "{error}");
    }

    #[test]
    fn a_path_in_the_guest_is_for_one_thing() {
        let words = |second| ["uvm", "run", "--share", ".:/a", second, "b:/a/", "ls"].map(Into::into);
        for option in ["--share", "--disk", "--socket"] {
            let error = parse(words(option)).expect_err("twice").to_string();
            assert!(error.contains("/a/ in the guest is given twice"), "{option}: {error}");
        }
        let unmounted =
            ["uvm", "run", "--disk", "a", "--disk", "b", "--share", ".:/a", "--share", ".:/b"].map(Into::into);
        assert!(parse(unmounted).is_ok());
    }

    #[test]
    fn what_layers_would_hide_is_refused() {
        for (option, value, own) in
            [("--share", ".:/proc", "/proc"), ("--disk", "a:/:ro", "/"), ("--socket", "a:/dev/log", "/dev")]
        {
            let words = ["uvm", "run", option, value, "ls"].map(Into::into);
            assert!(parse(words.clone()).is_ok(), "{value} without layers");
            let layers = ["--layer", "a.img"].map(Into::into);
            let words = words[..2].iter().cloned().chain(layers).chain(words[2..].iter().cloned());
            let error = parse(words).expect_err("hidden").to_string();
            assert!(error.contains("is hidden with '--layer'") && error.contains(own), "{error}");
        }
    }

    #[test]
    fn an_unknown_option_is_no_command() {
        for words in
            [&["uvm", "run", "--nope"][..], &["uvm", "run", "-n", "-x", "ls"], &["uvm", "run", "--nope=1", "ls"]]
        {
            let error = Cli::try_parse_from(words).expect_err("no such option");
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{words:?}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_run_has_a_code_of_its_own() {
        let code = |words: &[&str]| exit_code_of_refusal(words.iter().map(Into::into));
        assert_eq!(code(&["run", "--nope"]), 125);
        assert_eq!(code(&["-v", "run", "--memory", "x"]), 125);
        for others in [&["gc", "run"][..], &["--nope", "ps"], &[], &["--nope"]] {
            assert_eq!(code(others), 2, "{others:?}");
        }
    }
}
