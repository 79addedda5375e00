//! Where things lie in guests, by convention: what callers mount at these paths, agents and runtimes find.

/// Where the `number`th mount of a container lies in a Linux guest, below the container's own directory.
///
/// ```
/// assert_eq!(uvm::paths::lcow_container_mount(2), "/mounts/m2");
/// ```
pub fn lcow_container_mount(number: u64) -> String {
    format!("/mounts/m{number}")
}

/// Where a mount that containers of a Linux guest share lies, by its
/// [`mount_counter`](crate::UtilityVm::mount_counter).
pub fn lcow_global_mount(number: u64) -> String {
    format!("/run/mounts/m{number}")
}

/// The same in a Windows guest.
pub fn wcow_global_mount(number: u64) -> String {
    format!(r"C:\mounts\m{number}")
}

/// Where the tools for GPUs are mounted in a Linux guest: a read-only disk.
pub const LCOW_GPU_TOOLS: &str = "/run/nvidia";

/// The directory of a container's root file system, in the container's own directory.
pub const ROOT_FS: &str = "rootfs";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_numbered() {
        assert_eq!(lcow_container_mount(0), "/mounts/m0");
        assert_eq!(lcow_global_mount(12), "/run/mounts/m12");
        assert_eq!(wcow_global_mount(u64::MAX), r"C:\mounts\m18446744073709551615");
    }
}
