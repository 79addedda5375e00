//! `uvm run`: one command in a VM of its own.

mod connection;
mod disks;
mod end;
mod guest_script;
mod layers;
mod outside;
mod pipes;
mod plugged;
mod settle;
mod shares;
mod signals;
mod sockets;
mod stdio;
mod terminal;

use std::convert::Infallible;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uvm::qemu::{AcceleratorChoice, QemuHost, QemuOptions};
use uvm::{Console, ErrorKind, LcowOptions, Process, ProcessSpec, UtilityVm, UvmError};

use crate::args::{Accel, RunArgs};
use crate::boot::Boot;
use crate::paths;
use crate::progress::Line;
use crate::report;
use end::End;
use layers::Layers;
use outside::{Outside, Passing};
use plugged::Plugged;
use signals::Signals;
use sockets::Sockets;
use stdio::Settled;
use terminal::RawTerminal;

/// Runs it; gives the exit code.
pub(crate) fn run(args: &RunArgs) -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            report::error(&e);
            return report::FAILED;
        }
    };
    let code = runtime.block_on(run_async(args)).code();
    // What still waits for standard input is not waited for.
    runtime.shutdown_background();
    code
}

async fn run_async(args: &RunArgs) -> End {
    let signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(e) => return End::failed(&e),
    };
    let mut outside = Outside::new(signals, args.timeout.map(|timeout| Instant::now() + timeout));
    let passing = Passing::default();
    // Nothing of a VM is there yet; this may take minutes the first time, and can simply be given up.
    let prepared = tokio::select! {
        prepared = prepare(args) => prepared,
        end = outside.ends(&passing) => return end,
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return End::failed(e.as_ref()),
    };
    let line = Line::new(format!("starting a VM ({})", prepared.host.accelerator().accelerator));
    let (vm, early) = match create(prepared, &mut outside, &passing).await {
        Ok(made) => made,
        Err(end) => return end,
    };
    // What the VM is given outlives the run's end, however that comes: in a VM that ends nothing is unplugged.
    let mut given = Given::default();
    // Whatever happens meanwhile, what was made is closed in order.
    let end = if let Some(end) = early {
        drop(line);
        end
    } else {
        tokio::select! {
            // What tells this program to end comes before what there is to do.
            biased;
            end = outside.ends(&passing) => {
                passing.end();
                if given.plugged.has_disks() && args.disks.iter().any(|disk| !disk.read_only) {
                    give_up_in_order(&vm, given.command.as_ref(), &mut outside, &passing).await;
                }
                end
            }
            end = start_and_use(&vm, line, args, &passing, &mut given) => end,
        }
    };
    if let Err(e) = vm.close().await {
        report::error(&e);
    }
    end
}

/// Creates the VM. If the run is to end meanwhile, what comes to exist is to be closed still, unless it takes too long:
/// then the next command removes what is left.
async fn create(prepared: Prepared, outside: &mut Outside, passing: &Passing) -> Result<(UtilityVm, Option<End>), End> {
    let Prepared { host, options, _boot } = prepared;
    let created = UtilityVm::create_lcow_on(Arc::new(host), &options);
    tokio::pin!(created);
    let end = tokio::select! {
        vm = &mut created => return vm.map(|vm| (vm, None)).map_err(|e| End::failed(&e)),
        end = outside.ends(passing) => end,
    };
    match tokio::time::timeout(CREATE_SETTLES, created).await {
        Ok(Ok(vm)) => Ok((vm, Some(end))),
        Ok(Err(_)) | Err(_) => Err(end),
    }
}

/// How long a VM that nobody wants any more may take to come to exist.
const CREATE_SETTLES: Duration = Duration::from_secs(5);

async fn start_and_use(vm: &UtilityVm, line: Line, args: &RunArgs, passing: &Passing, given: &mut Given) -> End {
    let started = vm.start().await;
    drop(line);
    match started {
        Ok(()) => in_vm(vm, args, passing, given).await,
        Err(e) => End::failed(&e),
    }
}

/// What the VM is given, and does.
#[derive(Default)]
struct Given {
    command: Option<Process>,
    plugged: Plugged,
    // What else is mounted may lie in them.
    layers: Layers,
}

/// The run ends before its command: what that has written is brought to the disks still, unless that takes too long or this
/// program is told to end once more.
async fn give_up_in_order(vm: &UtilityVm, command: Option<&Process>, outside: &mut Outside, passing: &Passing) {
    let shut_down = async {
        // It may take no notice of being asked, and the guest would wait for it. If this fails, that is what it does.
        if let Some(command) = command {
            let killed = tokio::time::timeout(KILLED_WITHIN, command.kill()).await;
            tracing::debug!(?killed, "the command is ended");
        }
        vm.shutdown().await
    };
    tokio::select! {
        biased;
        () = outside.is_told_to_end(passing) => {}
        shut_down = tokio::time::timeout(GIVES_UP, shut_down) => {
            let why = match shut_down {
                Ok(Ok(())) => return,
                Ok(Err(e)) => report::chain(&e),
                Err(_) => format!("not within {GIVES_UP:?}"),
            };
            tracing::warn!(why, "the guest was not shut down: what was written last may not be on its disks");
        }
    }
}

/// How long a guest may take to bring to its disks what a command wrote that was not waited for.
const GIVES_UP: Duration = Duration::from_secs(10);
/// How long of that it may take to kill the command.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// The host that `accel` asks for.
pub(crate) fn host(accel: Accel) -> Result<QemuHost, uvm::platform::PlatformError> {
    let mut options = QemuOptions::default();
    options.accelerator = match accel {
        Accel::Auto => AcceleratorChoice::Auto,
        Accel::Kvm => AcceleratorChoice::Kvm,
        Accel::Tcg => AcceleratorChoice::Tcg,
    };
    QemuHost::new(&options)
}

/// All it takes to create the VM.
struct Prepared {
    host: QemuHost,
    options: LcowOptions,
    _boot: Boot,
}

async fn prepare(args: &RunArgs) -> anyhow::Result<Prepared> {
    let (named, boot_args, accel) = (paths::named(args), args.boot.clone(), args.accel);
    let found = tokio::task::spawn_blocking(move || {
        paths::all_there(&named)?;
        let host = host(accel)?;
        let boot = Boot::find(&boot_args)?;
        Ok::<_, anyhow::Error>((host, boot))
    });
    let (host, boot) = found.await.context("internal error")??;
    let mut options = LcowOptions::default().with_memory(args.memory);
    if let Some(count) = args.cpus {
        options = options.with_processors(count);
    }
    options.id.clone_from(&args.name);
    options.owner = Some("uvm run".into());
    options.scsi_controllers = disks::controllers(args.disks.len());
    layers::make_room(&mut options, &args.layers)?;
    options.virtual_sockets = !args.virtual_sockets.is_empty();
    options.exec_command_line.clone_from(&args.agent_cmdline);
    options.kernel_boot_options = args.kernel_args.join(" ");
    if let Some(path) = &args.console {
        let path = if path.as_os_str() == "-" { "/dev/stderr".into() } else { std::path::absolute(path)? };
        options.console = Console::File(path);
    }
    boot.apply(&mut options);
    Ok(Prepared { host, options, _boot: boot })
}

async fn in_vm(vm: &UtilityVm, args: &RunArgs, passing: &Passing, given: &mut Given) -> End {
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let tty = args.tty || (interactive && !args.no_tty);
    let spec = spec(args, tty);
    if let Err(e) = given.layers.mount(vm, &args.layers).await {
        return End::failed(&e);
    }
    if let Err(e) = given.plugged.plug(vm, args).await {
        return End::failed(e.as_ref());
    }
    // Before the command can dial.
    let sockets = match Sockets::open(vm, &args.virtual_sockets).await {
        Ok(sockets) => sockets,
        Err(e) => return End::failed(&e),
    };
    let process = match vm.create_process(&spec).await {
        Ok(process) => given.command.insert(process),
        Err(e) => return not_started(&e),
    };
    // From here on, whatever ends this function sets the terminal back.
    let _raw = if tty { RawTerminal::enter() } else { None };
    let mut relay = stdio::Relay::start(process);
    let process = &*process;
    let signals = passing.begin();
    let exit = tokio::select! {
        exit = process.wait() => exit,
        never = pass_on(signals, process, tty) => match never {},
    };
    // There is nobody to pass signals on to any more: from now on they end this program.
    passing.end();
    let exit = match exit {
        Ok(exit) => exit,
        Err(e) => return End::failed(&e),
    };
    // What it wrote is on its way. If others still hold its output open, they end with the VM, in order.
    let (output, ()) = tokio::join!(relay.settled(), sockets.settled());
    if output == Settled::HeldOpen {
        let end = async {
            if let Err(e) = vm.shutdown().await {
                tracing::warn!(error = report::chain(&e), "the VM did not shut down by itself");
                // Else the output would not end.
                if let Err(e) = vm.terminate().await {
                    report::error(&e);
                }
            }
        };
        tokio::join!(end, relay.finished());
        // They went with the guest, in order.
        return End::Exit(exit);
    }
    if given.plugged.settled(vm).await { End::Exit(exit) } else { End::Failed }
}

fn spec(args: &RunArgs, tty: bool) -> ProcessSpec {
    let command = if args.command.is_empty() { vec!["sh".to_owned()] } else { args.command.clone() };
    let (command, cwd) = layers::in_root(&args.layers, command, &args.cwd);
    let mut spec = ProcessSpec::new(command)
        .with_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .with_env("HOME", "/root")
        .with_cwd(cwd);
    spec.stdin = !args.no_stdin;
    if tty {
        spec = spec.with_terminal(terminal::size());
        if let Ok(term) = std::env::var("TERM") {
            spec = spec.with_env("TERM", term);
        }
    }
    for variable in &args.env {
        match variable.split_once('=') {
            Some((name, value)) => spec = spec.with_env(name, value),
            None => {
                if let Ok(value) = std::env::var(variable) {
                    spec = spec.with_env(variable, value);
                }
            }
        }
    }
    spec
}

fn not_started(error: &UvmError) -> End {
    report::error(error);
    match error.kind() {
        ErrorKind::NotFound => End::NotFound,
        ErrorKind::PermissionDenied => End::NotExecutable,
        _ => End::Failed,
    }
}

/// Passes signals on to the process. For as long as that takes: who counts them does not wait for it.
async fn pass_on(mut signals: mpsc::Receiver<i32>, process: &Process, tty: bool) -> Infallible {
    while let Some(signal) = signals.recv().await {
        let result = if signal != signals::WINDOW_CHANGED {
            process.signal(signal).await.map(drop)
        } else if tty {
            process.resize(terminal::size()).await
        } else {
            Ok(())
        };
        if let Err(e) = result {
            tracing::warn!(signal, error = report::chain(&e), "a signal could not be passed on");
        }
    }
    std::future::pending().await
}
