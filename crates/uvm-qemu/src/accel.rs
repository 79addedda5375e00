//! Which accelerator to use: KVM only where it works, not merely where its device opens.

use std::fs::{self, OpenOptions};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use uvm_platform::{Accelerator, PlatformError};

/// What the user wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM if it looks as if it works, else TCG, with one clear line in the log.
    #[default]
    Auto,
    /// KVM, or an error that says why not.
    Kvm,
    /// QEMU's translator: works everywhere.
    Tcg,
}

/// What the choice led to, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The accelerator.
    pub accelerator: Accelerator,
    /// One line for a log or a report.
    pub why: String,
}

/// What the host says about KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KvmFacts {
    /// `/proc/cpuinfo` lists vmx or svm.
    pub(crate) virtualization_flag: bool,
    /// What opening the device for reading and writing gave.
    pub(crate) device: Device,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Opens,
    Fails(String),
    Hangs,
}

/// How long `/dev/kvm` may take to open before it counts as hung.
const OPEN_DEADLINE: Duration = Duration::from_secs(2);

/// Decides, from what this host says now.
///
/// # Errors
/// KVM was asked for and cannot be had; the text says why.
pub(crate) fn choose(choice: AcceleratorChoice) -> Result<Chosen, PlatformError> {
    if choice == AcceleratorChoice::Tcg {
        return Ok(Chosen { accelerator: Accelerator::Tcg, why: "TCG, as asked for".into() });
    }
    decide(choice, &probe("/dev/kvm"))
}

pub(crate) fn decide(choice: AcceleratorChoice, facts: &KvmFacts) -> Result<Chosen, PlatformError> {
    let obstacle = match (&facts.device, facts.virtualization_flag) {
        (Device::Hangs, _) => Some(format!("/dev/kvm did not open within {OPEN_DEADLINE:?}")),
        (Device::Fails(why), _) => Some(format!("/dev/kvm does not open: {why}")),
        (Device::Opens, false) => Some(
            "/dev/kvm opens, but /proc/cpuinfo shows neither vmx nor svm: on such hosts stock kernels hang under KVM"
                .into(),
        ),
        (Device::Opens, true) => None,
    };
    match (choice, obstacle) {
        (AcceleratorChoice::Tcg, _) => Ok(Chosen { accelerator: Accelerator::Tcg, why: "TCG, as asked for".into() }),
        (_, None) => Ok(Chosen {
            accelerator: Accelerator::Kvm,
            why: "KVM: /dev/kvm opens and the processor has vmx or svm".into(),
        }),
        (AcceleratorChoice::Auto, Some(why)) => {
            Ok(Chosen { accelerator: Accelerator::Tcg, why: format!("TCG (emulation, several times slower): {why}") })
        }
        (AcceleratorChoice::Kvm, Some(why)) => Err(PlatformError::BadInput {
            what: "accelerator",
            value: "kvm".into(),
            why: format!("{why}; `auto` or `tcg` works without it"),
        }),
    }
}

fn probe(device: &'static str) -> KvmFacts {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let open = move || OpenOptions::new().read(true).write(true).open(device).map(drop);
    KvmFacts { virtualization_flag: has_virtualization_flag(&flags), device: open_within(OPEN_DEADLINE, open) }
}

fn has_virtualization_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|word| word == "vmx" || word == "svm"))
}

/// Runs `open` on a thread of its own: a broken device can hang there, and a thread is all that should be lost.
fn open_within(deadline: Duration, open: impl FnOnce() -> io::Result<()> + Send + 'static) -> Device {
    let (sender, receiver) = mpsc::channel();
    let spawned = thread::Builder::new().name("uvm-probe-kvm".into()).spawn(move || {
        // The receiver is gone if this took too long.
        let _ = sender.send(open());
    });
    if let Err(e) = spawned {
        return Device::Fails(format!("no thread to open it on: {e}"));
    }
    match receiver.recv_timeout(deadline) {
        Ok(Ok(())) => Device::Opens,
        Ok(Err(e)) => Device::Fails(e.to_string()),
        Err(_) => Device::Hangs,
    }
}

/// The rate of the time stamp counter in Hz: what the processor's model name promises, else its current clock.
pub(crate) fn tsc_hz() -> Option<u64> {
    parse_tsc_hz(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn parse_tsc_hz(cpuinfo: &str) -> Option<u64> {
    let value = |key: &str| cpuinfo.lines().find(|line| line.starts_with(key)).and_then(|l| l.split(':').nth(1));
    let promised = value("model name")
        .and_then(|name| name.split('@').nth(1))
        .and_then(|rate| rate.trim().strip_suffix("GHz"))
        .and_then(|ghz| ghz.trim().parse::<f64>().ok())
        .map(|ghz| ghz * 1e9);
    let current = || value("cpu MHz").and_then(|mhz| mhz.trim().parse::<f64>().ok()).map(|mhz| mhz * 1e6);
    let hz = promised.or_else(current)?;
    #[expect(clippy::cast_sign_loss, reason = "the range is checked on the same line")]
    (1e8..1e11).contains(&hz).then_some(hz as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(virtualization_flag: bool, device: Device) -> KvmFacts {
        KvmFacts { virtualization_flag, device }
    }

    #[test]
    fn auto_takes_kvm_only_where_it_can_work() {
        let auto = |facts| decide(AcceleratorChoice::Auto, &facts).map(|c| c.accelerator).expect("auto never fails");
        assert_eq!(auto(facts(true, Device::Opens)), Accelerator::Kvm);
        assert_eq!(auto(facts(false, Device::Opens)), Accelerator::Tcg);
        assert_eq!(auto(facts(true, Device::Fails("no such file".into()))), Accelerator::Tcg);
        assert_eq!(auto(facts(true, Device::Hangs)), Accelerator::Tcg);
    }

    #[test]
    fn kvm_that_cannot_be_had_says_why() {
        for (facts, word) in [
            (facts(false, Device::Opens), "neither vmx nor svm"),
            (facts(true, Device::Fails("Permission denied".into())), "Permission denied"),
            (facts(true, Device::Hangs), "did not open within 2s"),
        ] {
            let error = decide(AcceleratorChoice::Kvm, &facts).expect_err("KVM was asked for");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn a_device_that_hangs_in_open_is_given_up() {
        let (_held, never) = mpsc::channel::<()>();
        let hang = move || never.recv().map_err(io::Error::other);
        assert_eq!(open_within(Duration::from_millis(20), hang), Device::Hangs);
        assert_eq!(open_within(OPEN_DEADLINE, || Ok(())), Device::Opens);
        let fails = open_within(OPEN_DEADLINE, || Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(fails, Device::Fails("permission denied".into()));
    }

    #[test]
    fn flags_are_whole_words() {
        assert!(has_virtualization_flag("flags\t\t: fpu vmx sse\n"));
        assert!(has_virtualization_flag("flags : svm"));
        assert!(!has_virtualization_flag("flags : fpu vmxx notsvm\nbugs : vmx\n"));
    }

    #[test]
    fn counter_rate_comes_from_the_model_name_then_the_clock() {
        assert_eq!(parse_tsc_hz("model name\t: Xeon @ 2.60GHz\ncpu MHz : 2000.0\n"), Some(2_600_000_000));
        assert_eq!(parse_tsc_hz("model name\t: EPYC\ncpu MHz\t: 2450.5\n"), Some(2_450_500_000));
        assert_eq!(parse_tsc_hz("model name : EPYC\ncpu MHz : 0.1\n"), None);
        assert_eq!(parse_tsc_hz(""), None);
    }
}
