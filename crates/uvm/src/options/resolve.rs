//! Options with every default spelt out, as they hold on one host.

use uvm_platform::Platform;

use super::boot::BootNames;
use super::lower::default_exec_command_line;
use super::{LcowOptions, ProcessorCount, WcowOptions};

impl LcowOptions {
    /// These options with the defaults filled in that depend on the host: processors, how the kernel is booted, the boot
    /// files and their names, the agent's command line, the owner. The id stays open. On a host that has no place for boot
    /// files, and where none is named, they stay open too.
    pub async fn resolved_on(&self, host: &dyn Platform) -> Self {
        let mut resolved = self.clone();
        resolved.owner.get_or_insert_with(|| host.files().program_name());
        resolved.processors = resolve_processors(self.processors, host);
        resolved.kernel_boot = self.kernel_boot_on(host);
        resolved.exec_command_line.get_or_insert_with(default_exec_command_line);
        if resolved.boot_files.is_none() {
            // What cannot be found now is told when a VM is created.
            resolved.boot_files = host.files().boot_files(None).await.unwrap_or_default();
        }
        if let Some(directory) = resolved.boot_files.clone() {
            let names = BootNames::pick(&resolved, host.files(), &directory).await;
            (resolved.kernel_file, resolved.root_fs_file) = (Some(names.kernel), Some(names.root));
            resolved.root_fs_type = Some(names.root_type);
        }
        resolved
    }
}

impl WcowOptions {
    /// These options with the defaults filled in that depend on the host: processors, the owner. The id stays open.
    #[must_use]
    pub fn resolved_on(&self, host: &dyn Platform) -> Self {
        let mut resolved = self.clone();
        resolved.owner.get_or_insert_with(|| host.files().program_name());
        resolved.processors = resolve_processors(self.processors, host);
        resolved
    }
}

/// A number that was asked for stays as it is, also if it is more than there are.
fn resolve_processors(wanted: ProcessorCount, host: &dyn Platform) -> ProcessorCount {
    match wanted {
        ProcessorCount::Exactly(_) => wanted,
        ProcessorCount::HostDefault => {
            let count = std::num::NonZeroU32::new(wanted.on(host.host_processors()));
            count.map_or(wanted, ProcessorCount::Exactly)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use uvm_platform::Capabilities;
    use uvm_platform::Feature;
    use uvm_platform::fake::FakePlatform;

    use super::super::{KernelBoot, RootFsType};
    use super::*;

    #[tokio::test]
    async fn defaults_are_spelt_out_as_they_hold_on_the_host() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["vmlinux", "rootfs.vhd"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let host = FakePlatform::new().with_processors(1);
        let options = LcowOptions::default().with_boot_files(dir.path());
        let resolved = options.resolved_on(&host).await;
        assert_eq!(resolved.processors, ProcessorCount::new(1).expect("a number"));
        assert_eq!(resolved.kernel_boot, KernelBoot::Direct);
        assert_eq!(resolved.kernel_file, Some("vmlinux".into()));
        assert_eq!((resolved.root_fs_file, resolved.root_fs_type), (Some("rootfs.vhd".into()), Some(RootFsType::Vhd)));
        assert!(resolved.exec_command_line.is_some_and(|line| line.starts_with("/bin/gcs ")));

        let old = Capabilities::all("old").without(Feature::DirectKernelBoot, "it is too old");
        let resolved = options.resolved_on(&host.with_capabilities(old)).await;
        assert_eq!((resolved.kernel_boot, resolved.kernel_file), (KernelBoot::Uefi, Some("kernel".into())));
        let nowhere = LcowOptions::default().resolved_on(&FakePlatform::new()).await;
        assert_eq!((nowhere.boot_files, nowhere.kernel_file), (None, None));
    }
}
