//! The command line: its commands and their options.

mod refusal;
mod rules;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use refusal::refused;
pub(crate) use rules::parse;
pub(crate) use values::{Accel, ShareBy, VirtualSocket};

use crate::hcs_document::HcsDocumentArgs;
use crate::paths::{self, Disk, OfferedSocket, SharedPath};

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
    #[arg(short, long, value_name = "SIZE", default_value = "1024", value_parser = values::memory)]
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
    /// End the VM after this time (90, 90s, 5m, 1h) and exit with 124. Where it has disks, the command is killed then, and what
    /// it wrote is brought to them, if that takes no more than 10 s.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
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
    #[arg(short, long = "env", value_name = "VAR", value_parser = values::variable)]
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
    #[arg(long = "vsock", value_name = "PORT:SOCKET", value_parser = values::virtual_socket)]
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
    /// at GUEST if that is given; `:ro` keeps the guest from writing. May be repeated: the first is /dev/sda, and one whose
    /// GUEST lies in that of another comes after it.
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
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
    fn an_unknown_option_is_no_command() {
        for words in
            [&["uvm", "run", "--nope"][..], &["uvm", "run", "-n", "-x", "ls"], &["uvm", "run", "--nope=1", "ls"]]
        {
            let error = Cli::try_parse_from(words).expect_err("no such option");
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{words:?}: {error}");
        }
    }
}
