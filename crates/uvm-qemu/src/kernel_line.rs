//! The guest kernel's command line, in one of two profiles: for this project's agent, or for the original one.

use uvm_platform::Accelerator;
use uvm_platform::spec::{GuestAgent, RootFs, VmSpec};

/// What decides the command line besides the spec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostFacts {
    pub(crate) accelerator: Accelerator,
    /// Ticks a second of the processor's time stamp counter, if known.
    pub(crate) tsc_hz: Option<u64>,
}

/// The kernel command line for `spec`, including the arguments of init behind `--`.
pub(crate) fn kernel_line(spec: &VmSpec, host: HostFacts) -> String {
    let mut words: Vec<String> = Vec::new();
    if let RootFs::Disk(_) = spec.boot.root {
        words.push("root=/dev/pmem0 ro rootwait init=/init".into());
    }
    match spec.boot.agent {
        GuestAgent::Ours => ours(spec, host, &mut words),
        GuestAgent::Original => original(spec, &mut words),
    }
    if !spec.boot.kernel_options.trim().is_empty() {
        words.push(spec.boot.kernel_options.trim().into());
    }
    words.push("--".into());
    words.push(spec.boot.init.to_line());
    words.join(" ")
}

/// The measured line: a quiet serial console costs nothing and has the last words of a dying guest.
fn ours(spec: &VmSpec, host: HostFacts, words: &mut Vec<String>) {
    words.push("console=ttyS0 quiet panic=-1 memhp_default_state=online_movable scsi_mod.scan=manual".into());
    // The kernel lets go of disks, mounts and namespaces only when all readers have passed (RCU), which it is in no hurry to
    // find out: by asking the few processors of such a guest, 64 disks go in half the time.
    words.push("rcupdate.rcu_expedited=1".into());
    if spec.vpmem.count > 0 && spec.memory.size_mib < HIGH_MEMORY_FROM_MIB {
        // For address space that layers may come to, above 4 GiB, the kernel would set 64 MiB aside for devices that cannot
        // reach it. All of virtio's can.
        words.push("swiotlb=noforce".into());
    }
    let tcg = host.accelerator == Accelerator::Tcg;
    if tcg {
        // What these skip is slow under emulation and meaningless there: the guest's instructions are translated, so
        // neither processor flaws nor a drifting counter reach it.
        words.push("mitigations=off tsc=reliable no_timer_check".into());
    }
    if spec.processors.count > 1 {
        // All processors are present, one is booted; the agent brings the others online faster than the kernel would.
        words.push("maxcpus=1".into());
        if tcg && let Some(lpj) = loops_per_jiffy(host.tsc_hz, spec.boot.kernel_hz) {
            words.push(format!("lpj={lpj}"));
        }
    } else if tcg {
        // With one processor the PIT or HPET serves as its timer. With more, the others would be left without.
        words.push("nolapic_timer".into());
    }
}

/// A guest with so much memory has some above 4 GiB (`pc_q35.c`: 0xb0000000), and the kernel its reserve for that anyway.
const HIGH_MEMORY_FROM_MIB: u64 = 2816;

/// The original's line without what only Hyper-V has (`spec/hcs.md` section 4): `pci=off` would hide every device.
fn original(spec: &VmSpec, words: &mut Vec<String>) {
    words.push("8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200 panic=-1 quiet".into());
    words.push(format!("nr_cpus={} brd.rd_nr=0 pmtmr=0", spec.processors.count));
}

fn loops_per_jiffy(tsc_hz: Option<u64>, kernel_hz: Option<u32>) -> Option<u64> {
    tsc_hz?.checked_div(u64::from(kernel_hz?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_spec::spec;

    const TCG: HostFacts = HostFacts { accelerator: Accelerator::Tcg, tsc_hz: Some(2_600_000_000) };
    const KVM: HostFacts = HostFacts { accelerator: Accelerator::Kvm, ..TCG };

    #[test]
    fn one_processor_under_emulation() {
        assert_eq!(
            kernel_line(&spec(1), TCG),
            "console=ttyS0 quiet panic=-1 memhp_default_state=online_movable scsi_mod.scan=manual rcupdate.rcu_expedited=1 \
             mitigations=off tsc=reliable no_timer_check nolapic_timer -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4"
        );
    }

    #[test]
    fn several_processors_start_with_one_and_a_known_delay_loop() {
        let line = kernel_line(&spec(4), TCG);
        assert!(line.contains(" maxcpus=1 lpj=10400000 ") && !line.contains("nolapic_timer"), "{line}");
    }

    #[test]
    fn room_for_layers_takes_no_memory_from_a_guest_that_has_it_all_low() {
        let line = |count, mib| {
            let mut spec = spec(1);
            (spec.vpmem.count, spec.memory.size_mib) = (count, mib);
            kernel_line(&spec, KVM)
        };
        assert!(line(1, 2815).contains(" swiotlb=noforce "));
        for line in [line(0, 512), line(1, 2816)] {
            assert!(!line.contains("swiotlb"), "{line}");
        }
    }

    #[test]
    fn kvm_gets_no_word_that_is_only_safe_under_emulation() {
        for word in ["mitigations", "tsc=", "no_timer_check", "nolapic_timer", "lpj="] {
            assert!(!kernel_line(&spec(4), KVM).contains(word), "{word}");
        }
    }

    #[test]
    fn d3_the_original_profile_counts_the_clamped_processors() {
        let mut spec = spec(3);
        spec.boot.agent = GuestAgent::Original;
        spec.boot.kernel_options = "  extra=1 ".into();
        assert_eq!(
            kernel_line(&spec, TCG),
            "8250_core.nr_uarts=1 8250_core.skip_txen_test=1 console=ttyS0,115200 panic=-1 quiet nr_cpus=3 \
             brd.rd_nr=0 pmtmr=0 extra=1 -- -e 1 /bin/vsockexec -e 109 /bin/gcs -v4"
        );
    }
}
