//! What the process may do beyond what its user may.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

use super::{ConfineError, at};

/// What root needs to serve a directory of its own: files in it may be others'. Not `FSETID`: so the kernel takes
/// set-user-id bits from a file that is written, as it does for every other user. Neither `MKNOD` nor `SETFCAP`, and
/// nothing that opens files by other ways than their directories.
pub(crate) fn of_owner() -> CapabilitySet {
    CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER
}

/// What root needs to make files as others do.
pub(crate) fn of_passthrough() -> CapabilitySet {
    of_owner() | CapabilitySet::SETUID | CapabilitySet::SETGID
}

/// Gives up every capability that is not in `kept`, for good: no program that is run gets one back, and none can be.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<(), ConfineError> {
    rustix::thread::set_no_new_privs(true).map_err(at("give up new privileges"))?;
    let had = capabilities(None).map_err(at("read its capabilities"))?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().iter().filter(|capability| !kept.contains(*capability)) {
            // One that this kernel does not know is none that anybody has.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    let kept = had.permitted & kept;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(at("give up capabilities"))
}
