//! `uvm doctor`: checks this machine by running a VM, and says what to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use uvm::image::BootFiles;
use uvm::platform::{CgroupSupport, Feature, Platform};
use uvm::qemu::{QemuHost, StateRoot};
use uvm::{LcowOptions, MemoryMib, ProcessSpec, UtilityVm};

use crate::args::DoctorArgs;
use crate::boot::Boot;
use crate::progress::Line;
use crate::report::{self, describe};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// VMs run, but something is missing.
    Warning,
    Failed,
}

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    outcome: Outcome,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Default, Serialize)]
struct Findings {
    findings: Vec<Finding>,
    /// How long each phase of the VM took, in milliseconds.
    phases_ms: Vec<(&'static str, u128)>,
}

impl Findings {
    fn add(&mut self, check: &'static str, outcome: Outcome, detail: impl Into<String>, remedy: Option<String>) {
        self.findings.push(Finding { check, outcome, detail: detail.into(), remedy });
    }

    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Outcome::Ok, detail, None);
    }

    fn failed(&mut self, check: &'static str, error: &(dyn std::error::Error + 'static), remedy: &str) {
        self.add(check, Outcome::Failed, describe(error), Some(remedy.to_owned()));
    }

    fn healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.outcome != Outcome::Failed)
    }

    fn print(&self) -> anyhow::Result<()> {
        for Finding { check, outcome, detail, remedy } in &self.findings {
            let mark = match outcome {
                Outcome::Ok => "ok  ",
                Outcome::Warning => "warn",
                Outcome::Failed => "FAIL",
            };
            report::line(format_args!("{mark}  {check}: {detail}"))?;
            if let Some(remedy) = remedy {
                report::line(format_args!("      -> {remedy}"))?;
            }
        }
        for (phase, ms) in &self.phases_ms {
            report::line(format_args!("      {phase}: {ms} ms"))?;
        }
        report::line(if self.healthy() { "VMs run on this machine." } else { "VMs do not run on this machine." })
    }
}

/// Checks; the exit code is 0 only if a VM ran.
pub(crate) fn run(args: &DoctorArgs) -> i32 {
    let mut findings = Findings::default();
    examine(args, &mut findings);
    let printed = if args.json { report::json(&findings) } else { findings.print() };
    match report::exit_code(printed) {
        0 => i32::from(!findings.healthy()),
        code => code,
    }
}

fn examine(args: &DoctorArgs, findings: &mut Findings) {
    let host = match crate::run::host(args.accel) {
        Ok(host) => host,
        Err(e) => return findings.failed("host", &e, "see the line above; `uvm run` needs the same"),
    };
    findings.ok("QEMU", host.program().display().to_string());
    let accelerator = host.accelerator();
    let slow = accelerator.accelerator == uvm::Accelerator::Tcg;
    let remedy = slow.then(|| "with KVM guests run several times faster; everything works without it".to_owned());
    findings.add("accelerator", if slow { Outcome::Warning } else { Outcome::Ok }, &accelerator.why, remedy);
    findings.ok("state directory", host.state_root().path().display().to_string());
    cgroups(&host, findings);
    shares(&host, findings);
    leftovers(host.state_root(), findings);
    let boot = match Boot::find(&args.boot) {
        Ok(boot) => boot,
        Err(e) => return findings.failed("boot files", e.as_ref(), "`uvm image build` says more"),
    };
    findings.ok("boot files", boot.directory.display().to_string());
    if args.boot.boot_files.is_none()
        && let Ok(files) = BootFiles::open(&boot.directory)
    {
        match files.verify() {
            Ok(()) => findings.ok("boot files, every byte", "as they were made"),
            Err(e) => findings.failed("boot files, every byte", &e, "`uvm image rm` them; they are made anew"),
        }
    }
    boot_one(host, &boot, findings);
}

fn cgroups(host: &QemuHost, findings: &mut Findings) {
    let capabilities = host.capabilities();
    match capabilities.require(Feature::KillAsOne) {
        Ok(()) => findings.ok("control group for each VM", "can be made"),
        Err(e) => findings.add(
            "control group for each VM",
            Outcome::Warning,
            e.to_string(),
            Some("without one a VM is still killed by its process; run as root or in a delegated group".into()),
        ),
    }
    for (controller, support) in &capabilities.cgroups {
        let check = "control group controller";
        match support {
            CgroupSupport::V2 => findings.ok(check, format!("{controller} (version 2)")),
            CgroupSupport::V1 => findings.ok(check, format!("{controller} (version 1)")),
            CgroupSupport::Missing(why) => findings.add(
                check,
                Outcome::Warning,
                format!("{controller} cannot be used: {why}"),
                Some("VMs run; limits that need it are refused".into()),
            ),
        }
    }
}

fn shares(host: &QemuHost, findings: &mut Findings) {
    match host.capabilities().require(Feature::VirtioFsShares) {
        Ok(()) => findings.ok("shares by virtio-fs", "the program uvm-fs is there"),
        Err(e) => findings.add(
            "shares by virtio-fs",
            Outcome::Warning,
            e.to_string(),
            Some("directories are shared by 9P, which is slower; build it: cargo build --release -p uvm-fs".into()),
        ),
    }
}

fn leftovers(root: &StateRoot, findings: &mut Findings) {
    match uvm::qemu::gc(root, true) {
        Ok(left) if left.is_empty() => findings.ok("leftovers of killed owners", "none"),
        Ok(left) => {
            let ids: Vec<&str> = left.iter().map(|vm| vm.id.as_str()).collect();
            let remedy = Some("the next VM's start removes them, or `uvm gc`".to_owned());
            findings.add("leftovers of killed owners", Outcome::Warning, ids.join(", "), remedy);
        }
        Err(e) => findings.failed("leftovers of killed owners", &e, "look at the state directory's permissions"),
    }
}

fn boot_one(host: QemuHost, boot: &Boot, findings: &mut Findings) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return findings.failed("a VM", &e, "this is an internal error"),
    };
    let _line = Line::new("running a VM");
    if let Err(e) = runtime.block_on(try_one(host, boot, findings)) {
        let remedy = "its last words are above; `uvm run --console - -v` shows all it says";
        findings.failed("a VM", &e, remedy);
    }
}

async fn try_one(host: QemuHost, boot: &Boot, findings: &mut Findings) -> Result<(), uvm::UvmError> {
    let mut options = LcowOptions::default().with_memory(MemoryMib::rounded_up(512)?);
    options.owner = Some("uvm doctor".into());
    boot.apply(&mut options);
    let mut clock = Instant::now();
    let mut lap = |findings: &mut Findings, phase| {
        let spent: Duration = clock.elapsed();
        clock = Instant::now();
        findings.phases_ms.push((phase, spent.as_millis()));
    };
    let vm = UtilityVm::create_lcow_on(Arc::new(host), &options).await?;
    lap(findings, "QEMU started");
    let used = use_it(&vm, findings, &mut lap).await;
    let closed = vm.close().await;
    lap(findings, "VM closed");
    let kernel = used?;
    closed?;
    findings.ok("a VM", format!("ran, with {kernel}"));
    Ok(())
}

async fn use_it(
    vm: &UtilityVm,
    findings: &mut Findings,
    lap: &mut impl FnMut(&mut Findings, &'static str),
) -> Result<String, uvm::UvmError> {
    vm.start().await?;
    lap(findings, "guest booted, agent connected");
    let output = vm.create_process(&ProcessSpec::new(["uname", "-sr"])).await?.output().await?;
    lap(findings, "first command ran");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
