//! `uvm run`: one command in a VM of its own.

mod end;
mod signals;
mod stdio;
mod terminal;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use uvm::qemu::{AcceleratorChoice, QemuHost, QemuOptions};
use uvm::{Console, ErrorKind, LcowOptions, Process, ProcessSpec, UtilityVm, UvmError};

use crate::args::{Accel, RunArgs};
use crate::boot::Boot;
use crate::progress::Line;
use crate::report;
use end::End;
use signals::Signals;
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
    let mut signals = match Signals::watch() {
        Ok(signals) => signals,
        Err(e) => return End::failed(&e),
    };
    let mut limits = Limits { deadline: args.timeout.map(|timeout| Instant::now() + timeout), signals: &mut signals };
    // Nothing of a VM is there yet; this may take minutes the first time, and can simply be given up.
    let prepared = tokio::select! {
        prepared = prepare(args) => prepared,
        end = limits.reached() => return end,
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return End::failed(e.as_ref()),
    };
    let line = Line::new(format!("starting a VM ({})", prepared.host.accelerator().accelerator));
    // Whatever happens meanwhile, what was made is closed in order.
    let vm = match UtilityVm::create_lcow_on(Arc::new(prepared.host), &prepared.options).await {
        Ok(vm) => vm,
        Err(e) => return End::failed(&e),
    };
    let early = tokio::select! {
        started = vm.start() => started.err().map(|e| End::failed(&e)),
        end = limits.reached() => Some(end),
    };
    drop(line);
    let deadline = limits.deadline;
    let end = if let Some(end) = early {
        end
    } else {
        tokio::select! {
            end = in_vm(&vm, args, &mut signals) => end,
            () = at(deadline) => End::TimedOut,
        }
    };
    if let Err(e) = vm.close().await {
        report::error(&e);
    }
    end
}

/// What ends a run before its command runs.
struct Limits<'a> {
    deadline: Option<Instant>,
    signals: &'a mut Signals,
}

impl Limits<'_> {
    async fn reached(&mut self) -> End {
        tokio::select! {
            signal = self.signals.ends_program() => End::Signal(signal),
            () = at(self.deadline) => End::TimedOut,
        }
    }
}

/// Waits until then; for ever without a time.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

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
    let (boot_args, accel) = (args.boot.clone(), args.accel);
    let found = tokio::task::spawn_blocking(move || {
        let host = host(accel)?;
        let boot = Boot::find(&boot_args)?;
        Ok::<_, anyhow::Error>((host, boot))
    });
    let (host, boot) = found.await.context("internal error")??;
    let mut options = LcowOptions::default().with_memory(args.memory).with_processors(args.cpus);
    options.id.clone_from(&args.name);
    options.owner = Some("uvm run".into());
    options.kernel_boot_options = args.kernel_args.join(" ");
    if let Some(path) = &args.console {
        let path = if path.as_os_str() == "-" { "/dev/stderr".into() } else { std::path::absolute(path)? };
        options.console = Console::File(path);
    }
    boot.apply(&mut options);
    Ok(Prepared { host, options, _boot: boot })
}

async fn in_vm(vm: &UtilityVm, args: &RunArgs, signals: &mut Signals) -> End {
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let tty = args.tty || (interactive && !args.no_tty);
    let spec = spec(args, tty);
    let mut process = match vm.create_process(&spec).await {
        Ok(process) => process,
        Err(e) => return not_started(&e),
    };
    // From here on, whatever ends this function sets the terminal back.
    let _raw = if tty { RawTerminal::enter() } else { None };
    let mut relay = stdio::Relay::start(&mut process);
    let exit = tokio::select! {
        exit = process.wait() => exit,
        signal = pass_on(signals, &process, tty) => return End::Signal(signal),
    };
    let exit = match exit {
        Ok(exit) => exit,
        Err(e) => return End::failed(&e),
    };
    // What it wrote is on its way. If others still hold its output open, they end with the VM, in order.
    if tokio::time::timeout(OUTPUT_SETTLES, relay.finished()).await.is_err() {
        let (ended, ()) = tokio::join!(vm.shutdown(), relay.finished());
        if let Err(e) = ended {
            tracing::warn!(error = %e, "the VM did not shut down by itself");
        }
    }
    End::Exit(exit)
}

/// How long the end of a process and of its output may lie apart, if nothing else holds its output open.
const OUTPUT_SETTLES: Duration = Duration::from_millis(500);

fn spec(args: &RunArgs, tty: bool) -> ProcessSpec {
    let command = if args.command.is_empty() { vec!["sh".to_owned()] } else { args.command.clone() };
    let mut spec = ProcessSpec::new(command)
        .with_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .with_env("HOME", "/root")
        .with_cwd(args.cwd.clone());
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

/// Passes signals on to the process, until the user insists on the end of this program.
async fn pass_on(signals: &mut Signals, process: &Process, tty: bool) -> i32 {
    let mut insisted = 0;
    loop {
        let signal = signals.next().await;
        let result = if signal == signals::WINDOW_CHANGED {
            if !tty {
                continue;
            }
            process.resize(terminal::size()).await
        } else {
            if signals::ends_by_default(signal) {
                insisted += 1;
            }
            if insisted >= INSISTENCE {
                return signal;
            }
            process.signal(signal).await
        };
        if let Err(e) = result {
            tracing::warn!(signal, error = %e, "a signal could not be passed on");
        }
    }
}

/// A process may ignore the signals it gets; after so many, the VM is ended.
const INSISTENCE: u32 = 3;
