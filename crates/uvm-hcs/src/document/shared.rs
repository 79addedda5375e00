//! What creation documents of Linux and Windows guests have in common.

use std::path::Path;

use uvm_platform::spec::{MemoryBacking, MemorySpec, ProcessorSpec, StorageQos};

use super::schema::{self, HvSocket, HvSocketConfig};
use super::{DocumentError, creates_in_cpu_group};
use crate::win_path::WinPath;
use crate::windows_build::WindowsBuild;

pub(super) fn memory(spec: MemorySpec) -> schema::Memory {
    schema::Memory {
        size_in_mb: spec.size_mib,
        allow_overcommit: spec.backing != MemoryBacking::Physical,
        enable_deferred_commit: spec.backing == MemoryBacking::DeferredCommit,
        low_mmio_gap_in_mb: spec.mmio.low_gap_mib,
        high_mmio_base_in_mb: spec.mmio.high_base_mib,
        high_mmio_gap_in_mb: spec.mmio.high_gap_mib,
        ..schema::Memory::default()
    }
}

pub(super) fn processor(spec: ProcessorSpec, cpu_group: Option<&str>, build: WindowsBuild) -> schema::Processor {
    schema::Processor {
        count: spec.count,
        limit: spec.limit.unwrap_or_default(),
        weight: spec.weight.unwrap_or_default(),
        cpu_group: cpu_group.filter(|_| creates_in_cpu_group(build)).map(|id| schema::CpuGroup { id: id.to_owned() }),
    }
}

pub(super) fn storage_qos(spec: StorageQos) -> Option<schema::StorageQos> {
    let StorageQos { iops_maximum, bandwidth_maximum } = spec;
    (spec != StorageQos::default()).then_some(schema::StorageQos { iops_maximum, bandwidth_maximum })
}

/// Only the system and administrators may listen for the VM.
pub(super) fn hv_socket() -> HvSocket {
    HvSocket { config: HvSocketConfig { default_bind_security_descriptor: "D:P(A;;FA;;;SY)(A;;FA;;;BA)" } }
}

/// A path of the host that was carried through `std` types.
pub(super) fn win_path(what: &'static str, path: &Path) -> Result<WinPath, DocumentError> {
    WinPath::from_std(path).ok_or_else(|| DocumentError::bad(what, &path.display(), "the path is not Unicode"))
}

/// The service's name of what a disk image is.
pub(super) fn image_format(path: &WinPath) -> &'static str {
    if path.has_extension("vhdx") { "Vhdx" } else { "Vhd1" }
}
