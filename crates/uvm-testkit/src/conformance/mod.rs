//! What holds on every host, as one list of cases.
//!
//! A [`Host`] creates VMs with a guest of the right kind at the other end. Some cases have a VM of their own, since they end
//! it; the others share one that runs, and leave it as it was. What a host cannot do, as its capabilities say, it must
//! refuse by a typed error: no case is skipped.
//!
//! ```no_run
//! # async fn example() -> uvm_testkit::TestResult {
//! use uvm_testkit::conformance::{self, InMemory};
//! use uvm_testkit::memory::Kind;
//!
//! let report = conformance::run(&InMemory(Kind::Fake)).await?;
//! assert_eq!(report.cases, 29);
//! # Ok(())
//! # }
//! ```

mod figures;
mod guest;
mod in_memory;
mod lifecycle;
mod plugged;
mod processes;
mod sockets;
mod subject;
mod windows;

use std::path::PathBuf;

use uvm::UtilityVm;
use uvm::wire::negotiate::GuestOs;
use uvm_platform::{BoxFuture, Capabilities};

use crate::TestResult;

pub use in_memory::InMemory;
pub use subject::Subject;

/// A host that the cases run on.
pub trait Host: Send + Sync {
    /// What it is called in the report.
    fn name(&self) -> &'static str;

    /// What it says that it can do.
    ///
    /// # Errors
    /// It cannot be had.
    fn capabilities(&self) -> BoxFuture<'_, TestResult<Capabilities>>;

    /// What it does in a way of its own.
    fn ways(&self) -> Ways;

    /// Creates a VM, powered off.
    ///
    /// # Errors
    /// It cannot be created.
    fn create(&self, wanted: Wanted) -> BoxFuture<'_, TestResult<Created>>;

    /// Puts the program for guests of tests into a guest that runs, as [`GUEST_PROGRAM`].
    ///
    /// # Errors
    /// It cannot be put there.
    fn install<'a>(&'a self, vm: &'a UtilityVm) -> BoxFuture<'a, TestResult>;
}

/// Where the program for guests of tests is in the guest; what it does is said in `tests/guest`.
pub const GUEST_PROGRAM: &str = "/tmp/guest";

/// A VM that a case wants.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Part of its id.
    pub name: &'static str,
    /// What its guest runs.
    pub os: GuestOs,
    /// With a device for virtual sockets from the start.
    pub virtual_sockets: bool,
}

/// A VM that a host made for a case.
pub struct Created {
    /// The only handle of it.
    pub vm: UtilityVm,
    /// What of the host can be given to it.
    pub things: Things,
    /// Passes once nothing is left of it.
    pub gone: Box<dyn FnOnce() -> BoxFuture<'static, TestResult> + Send + Sync>,
}

/// What of a host can be given to its VMs. All of it is there, but for `nowhere`.
#[derive(Clone, Debug)]
pub struct Things {
    /// A directory.
    pub directory: PathBuf,
    /// A file in it.
    pub file: PathBuf,
    /// Nothing is there.
    pub nowhere: PathBuf,
    /// A named pipe, or a Unix socket.
    pub pipe: PathBuf,
    /// Two PCI devices, as the host or a careless caller spells them.
    pub devices: [String; 2],
}

/// What hosts and their guests do in ways of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// The host knows itself what no service allows, and refuses a listener there.
    pub gates_sockets: bool,
    /// The device for virtual sockets can be taken out.
    pub removes_sockets: bool,
}

/// What was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many cases.
    pub cases: usize,
    /// How often something was refused that the host cannot do, by the error that says so.
    pub refused: usize,
}

/// A case with VMs of its own.
type OwnCase = for<'a> fn(&'a dyn Host) -> BoxFuture<'a, TestResult<usize>>;
/// A case on the VM that runs; it leaves it as it was.
type SharedCase = for<'a> fn(&'a Subject) -> BoxFuture<'a, TestResult>;

macro_rules! cases {
    ($($module:ident::{$($name:ident),* $(,)?}),* $(,)?) => {
        &[$($((stringify!($name), |on| Box::pin($module::$name(on)))),*),*]
    };
}

const OWN: &[(&str, OwnCase)] = cases![
    lifecycle::{
        a_vm_that_was_never_started_refuses_and_closes,
        a_vm_is_started_once_and_closed_for_good,
        a_terminated_vm_ends_every_wait,
        a_shutdown_is_a_power_off,
        a_vm_can_be_terminated_while_it_starts,
        a_vm_whose_last_handle_is_dropped_is_gone,
    },
    sockets::{
        a_vm_without_sockets_says_so,
        programs_and_host_dial_each_other,
    },
    windows::{
        a_windows_guest_has_shares_counted_by_what_is_shared,
    },
];

const SHARED: &[(&str, SharedCase)] = cases![
    processes::{
        a_process_tells_its_output_and_code,
        outputs_are_kept_apart,
        what_is_written_comes_back_to_the_end,
        a_signal_ends_a_process_and_finds_it_gone_then,
        a_program_that_is_not_there_is_told,
        a_terminal_has_a_size_that_can_be_changed,
    },
    figures::{
        the_host_tells_figures,
        the_guest_tells_its_stacks,
        a_vm_is_paused_and_goes_on,
        memory_and_processors_can_be_changed,
        a_cpu_group_is_joined_and_left,
    },
    plugged::{
        disks_are_shared_and_counted,
        disks_that_do_not_fit_are_refused,
        layers_of_memory_are_shared_and_counted,
        directories_are_each_a_share_of_their_own,
        pipes_are_shared_and_counted,
        devices_are_shared_and_counted,
        networks_come_and_go,
        combined_layers_are_each_their_own,
        what_only_windows_guests_have_is_refused,
    },
];

/// Runs all cases.
///
/// # Errors
/// The first case that failed, by its name.
///
/// # Panics
/// What a case asserts does not hold. The last case that was told to the log is the one.
pub async fn run(host: &dyn Host) -> TestResult<Report> {
    let mut report = Report { cases: 0, refused: 0 };
    let failed = |case: &str, e: Box<dyn std::error::Error + Send + Sync>| format!("{}: {case}: {e:?}", host.name());
    for (case, run) in OWN {
        eprintln!("{}: {case}", host.name());
        report.refused += within(run(host)).await.map_err(|e| failed(case, e))?;
        report.cases += 1;
    }
    let shared = Subject::boot(host, Wanted { name: "shared", os: GuestOs::Linux, virtual_sockets: false }).await?;
    for (case, run) in SHARED {
        eprintln!("{}: {case}", host.name());
        within(run(&shared)).await.map_err(|e| failed(case, e))?;
        report.cases += 1;
    }
    report.refused += shared.close().await?;
    Ok(report)
}

async fn within<T>(case: BoxFuture<'_, TestResult<T>>) -> TestResult<T> {
    tokio::time::timeout(LIMIT, case).await.map_err(|_| "it does not end")?
}

/// Longer than any case takes, on any host.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);
