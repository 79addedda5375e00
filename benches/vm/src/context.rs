//! What every measurement needs: a host, boot files, options of the VMs.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use uvm::image::{BootFiles, BootFilesOptions, ExtraFile, KernelSource, Manifest};
use uvm::platform::Platform;
use uvm::qemu::{AcceleratorChoice, QemuHost, QemuOptions};
use uvm::{LcowOptions, MemoryMib, ProcessSpec, UtilityVm};
use uvm_bench_guest::{FILE, TRUE, WRITE};

use crate::command_line::CommandLine;

/// Where things are, and how VMs are run.
pub(crate) struct Context {
    /// The agent, the reference guests and the small programs, as cargo built them.
    pub(crate) guests: PathBuf,
    /// The command.
    pub(crate) uvm: PathBuf,
    /// The program that measures the multiplexer.
    pub(crate) bench_mux: PathBuf,
    pub(crate) host: QemuHost,
    /// How often each thing is measured, if the caller says so.
    pub(crate) rounds: Option<usize>,
    _state: tempfile::TempDir,
}

/// A kernel to measure with: its name in tables, and where it comes from.
pub(crate) const KERNELS: [(&str, KernelSource); 2] =
    [("distribution", KernelSource::Distribution), ("trimmed", KernelSource::Trimmed)];

/// The agent's file name.
pub(crate) const AGENT: &str = "uvm-agent";

impl Context {
    /// `guests` holds what runs in guests; the host's programs are beside this one.
    pub(crate) fn new(guests: PathBuf, rounds: Option<usize>) -> anyhow::Result<Self> {
        let state = tempfile::Builder::new().prefix("uvm-bench-").tempdir()?;
        let mut options = QemuOptions::default();
        // Also where KVM works, so that figures compare.
        options.accelerator = AcceleratorChoice::Tcg;
        options.state_root = Some(state.path().to_owned());
        let host = QemuHost::new(&options)?;
        let program = std::env::current_exe()?;
        let beside = |name: &str| program.with_file_name(name);
        Ok(Self { guests, uvm: beside("uvm"), bench_mux: beside("bench-mux"), host, rounds, _state: state })
    }

    pub(crate) fn platform(&self) -> Arc<dyn Platform> {
        Arc::new(self.host.clone())
    }

    /// Boot files with the agent, or with the reference guest of that name in its place. Apart from that they are the same.
    pub(crate) fn boot_files(&self, kernel: KernelSource, guest: Option<&str>) -> anyhow::Result<BootFiles> {
        let program = |name: &str| self.guests.join(name);
        let options = BootFilesOptions::from_env()?
            .with_kernel(kernel)
            .with_agent(program(guest.unwrap_or(AGENT)))
            .with_extra_file(ExtraFile::new(TRUE, program("bench-true"))?)
            .with_extra_file(ExtraFile::new(WRITE, program("bench-write"))?)
            .with_extra_file(ExtraFile::new(FILE, program("bench-file"))?);
        BootFiles::ensure(&options).context("boot files")
    }

    /// Boot files as users have them, without the programs of the measurements.
    pub(crate) fn plain_boot_files(&self, kernel: KernelSource) -> anyhow::Result<BootFiles> {
        let options = BootFilesOptions::from_env()?.with_kernel(kernel).with_agent(self.guests.join(AGENT));
        BootFiles::ensure(&options).context("boot files")
    }
}

/// Options of a VM that is measured.
pub(crate) fn options(files: &BootFiles, processors: u32, memory_mib: u64) -> anyhow::Result<LcowOptions> {
    let options = LcowOptions::default().with_boot_files(files.dir()).with_processors(processors);
    Ok(options.with_memory(MemoryMib::new(memory_mib)?))
}

/// Options of a VM that is measured, whose agent has virtual sockets only; and the directory they need meanwhile.
pub(crate) fn by_virtual_sockets(
    files: &BootFiles,
    processors: u32,
    memory_mib: u64,
) -> anyhow::Result<(LcowOptions, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let manifest = directory.path().join(Manifest::FILE);
    std::fs::write(manifest, r#"{"format": 1, "agent": {"kind": "original"}}"#)?;
    for path in [files.kernel_path(), files.initrd_path()] {
        symlink(&path, directory.path().join(path.file_name().context("a file without a name")?))?;
    }
    let mut options = options(files, processors, memory_mib)?;
    options.boot_files = Some(directory.path().to_owned());
    Ok((options, directory))
}

/// The command line that a VM of these options is given.
pub(crate) async fn command_line(context: &Context, options: &LcowOptions) -> anyhow::Result<CommandLine> {
    let vm = UtilityVm::create_lcow_on(context.platform(), options).await?;
    let pid = vm.properties().await?.host_pid.context("QEMU's process id")?;
    let line = CommandLine::of_process(pid);
    vm.close().await?;
    line
}

/// Milliseconds since before the VM was created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phases {
    /// QEMU runs and answers.
    pub(crate) created: f64,
    /// The agent answers.
    pub(crate) started: f64,
    /// A process has been started.
    pub(crate) process: f64,
    /// Its exit code is known.
    pub(crate) exit_code: f64,
}

/// Creates and starts a VM and runs a program that does nothing.
pub(crate) async fn first_exec(
    platform: Arc<dyn Platform>,
    options: &LcowOptions,
) -> anyhow::Result<(UtilityVm, Phases)> {
    let began = Instant::now();
    let vm = UtilityVm::create_lcow_on(platform, options).await?;
    let created = millis(began);
    vm.start().await?;
    let started = millis(began);
    let running = vm.create_process(&ProcessSpec::new([TRUE])).await?;
    let process = millis(began);
    let exit = running.wait().await?;
    let exit_code = millis(began);
    anyhow::ensure!(exit.is_success(), "{TRUE}: {exit}");
    Ok((vm, Phases { created, started, process, exit_code }))
}

/// The number that a program of the guest prints.
pub(crate) async fn figure_of(vm: &UtilityVm, words: Vec<String>) -> anyhow::Result<f64> {
    let output = vm.create_process(&ProcessSpec::new(words.clone())).await?.output().await?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    anyhow::ensure!(output.exit.is_success(), "{words:?}: {}: {complained}", output.exit);
    said.trim().parse().with_context(|| format!("{words:?} printed {said:?}"))
}

/// Milliseconds since `began`.
pub(crate) fn millis(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1000.0
}
