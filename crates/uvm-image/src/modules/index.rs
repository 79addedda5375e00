//! The lists of modules in the initramfs: ours for the agent, and the usual ones for `modprobe`.
//!
//! # `/lib/modules/uvm.index`
//!
//! What the agent reads, so that it need not parse ELF files or resolve anything. Lines of words separated by single
//! spaces; the first word, up to the colon, says what the line is. Unknown lines are to be skipped.
//!
//! ```text
//! format: 1
//! release: 6.1.0-56-amd64
//! modular: yes
//! group boot: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko ...
//! absent xfs: xfs
//! module ext4: ?kernel/crypto/crc32c_generic.ko kernel/fs/mbcache.ko kernel/fs/jbd2/jbd2.ko kernel/fs/ext4/ext4.ko
//! ```
//!
//! - `format`: always the first line. Another number than 1 is another format.
//! - `release`: the kernel's. Paths are relative to `/lib/modules/<release>`.
//! - `modular`: `no` for a kernel that loads no modules; whatever it has is built in, and all groups are empty.
//! - `group NAME`: what to load for that feature, in this order, dependencies included. Empty if it is built in.
//!   Every group of [`GROUPS`] has its line.
//! - `absent NAME`: modules of that group that this kernel has neither as a file nor built in. Only if there are any.
//! - `module NAME`: what to load for one module, in this order, itself included. Every module in the initramfs has
//!   its line; names have `_` where file names may have `-`.
//!
//! A path with `?` in front is a soft dependency: try it, and go on if it fails. A module that is loaded already
//! (`EEXIST`) is fine everywhere.
//!
//! # `modules.dep`, `modules.alias`, `modules.softdep`
//!
//! As `depmod` would write them for the modules in the initramfs. With them `modprobe` works in the guest, and so
//! does the kernel itself when it needs a module by alias (a file system at mount, an nftables expression, a cipher).

use std::fmt::Write as _;

use super::catalog::{Catalog, Load, Selection};
use super::groups::GROUPS;

/// The index of a kernel that loads no modules.
pub(crate) fn monolithic_index(release: &str) -> String {
    let mut text = format!("format: 1\nrelease: {release}\nmodular: no\n");
    for group in GROUPS {
        let _ = writeln!(text, "group {}:", group.name);
    }
    text
}

/// The index of the modules in `selection`.
pub(crate) fn index(release: &str, catalog: &Catalog, selection: &Selection) -> String {
    let mut text = format!("format: 1\nrelease: {release}\nmodular: yes\n");
    for (group, loads) in &selection.groups {
        let _ = write!(text, "group {group}:");
        write_loads(&mut text, catalog, loads);
    }
    for (group, names) in &selection.absent {
        let _ = write!(text, "absent {group}:");
        for name in names {
            let _ = write!(text, " {name}");
        }
        text.push('\n');
    }
    for (name, loads) in &selection.modules {
        let _ = write!(text, "module {name}:");
        write_loads(&mut text, catalog, loads);
    }
    text
}

/// `modules.dep`: each module's file with the files it needs, the first to be loaded last.
pub(crate) fn modules_dep(catalog: &Catalog, selection: &Selection) -> String {
    let mut text = String::new();
    for (name, loads) in &selection.modules {
        let Some(module) = catalog.module(name) else { continue };
        let _ = write!(text, "{}:", module.path);
        let needed = loads.iter().rev().filter(|load| !load.optional && load.name != *name);
        for path in needed.filter_map(|load| catalog.module(&load.name)).map(|module| &module.path) {
            let _ = write!(text, " {path}");
        }
        text.push('\n');
    }
    text
}

/// `modules.alias`: which module the kernel means by a name or pattern.
pub(crate) fn modules_alias(catalog: &Catalog, selection: &Selection) -> String {
    let mut text = String::new();
    for name in selection.modules.keys() {
        for alias in catalog.module(name).into_iter().flat_map(|module| &module.info.aliases) {
            let _ = writeln!(text, "alias {alias} {name}");
        }
    }
    text
}

/// `modules.softdep`: what should be loaded around a module.
pub(crate) fn modules_softdep(catalog: &Catalog, selection: &Selection) -> String {
    let mut text = String::new();
    for (name, info) in selection.modules.keys().filter_map(|name| Some((name, &catalog.module(name)?.info))) {
        for (when, wanted) in [("pre", &info.soft_before), ("post", &info.soft_after)] {
            if !wanted.is_empty() {
                let _ = writeln!(text, "softdep {name} {when}: {}", wanted.join(" "));
            }
        }
    }
    text
}

fn write_loads(text: &mut String, catalog: &Catalog, loads: &[Load]) {
    for load in loads {
        if let Some(module) = catalog.module(&load.name) {
            let _ = write!(text, " {}{}", if load.optional { "?" } else { "" }, module.path);
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::{Group, ModInfo, ModuleName, Need};

    fn sample() -> (Catalog, Selection) {
        let mut catalog = Catalog::default();
        for (name, info) in [
            ("ext4", "depends=jbd2,mbcache\0softdep=pre: crypto-crc32c\0alias=fs-ext4\0alias=ext3\0"),
            ("jbd2", "depends=mbcache\0"),
            ("mbcache", ""),
            ("crc32c-intel", "alias=crypto-crc32c\0alias=cpu:type:x86,*\0"),
        ] {
            let info = ModInfo::parse(info.as_bytes()).unwrap();
            catalog.add(ModuleName::new(name).unwrap(), format!("kernel/{name}.ko"), info);
        }
        catalog.add_builtin("kernel/net/af_packet.ko\n");
        let groups = [
            Group { name: "boot", modules: &["af_packet"], need: Need::Always },
            Group { name: "fs", modules: &["ext4", "xfs"], need: Need::WhereThere },
        ];
        let selection = catalog.select(&groups).unwrap();
        (catalog, selection)
    }

    #[test]
    fn the_index_says_all_in_load_order() {
        let (catalog, selection) = sample();
        let expected = "\
format: 1
release: 6.1
modular: yes
group boot:
group fs: ?kernel/crc32c-intel.ko kernel/mbcache.ko kernel/jbd2.ko kernel/ext4.ko
absent fs: xfs
module crc32c_intel: kernel/crc32c-intel.ko
module ext4: ?kernel/crc32c-intel.ko kernel/mbcache.ko kernel/jbd2.ko kernel/ext4.ko
module jbd2: kernel/mbcache.ko kernel/jbd2.ko
module mbcache: kernel/mbcache.ko
";
        assert_eq!(index("6.1", &catalog, &selection), expected);
        let monolithic = monolithic_index("6.12.1");
        assert!(monolithic.starts_with("format: 1\nrelease: 6.12.1\nmodular: no\ngroup boot:\n"), "{monolithic}");
        assert_eq!(monolithic.lines().filter(|line| line.starts_with("group ")).count(), GROUPS.len());
    }

    #[test]
    fn modprobe_finds_what_depmod_would_have_written() {
        let (catalog, selection) = sample();
        assert_eq!(
            modules_dep(&catalog, &selection),
            "kernel/crc32c-intel.ko:\nkernel/ext4.ko: kernel/jbd2.ko kernel/mbcache.ko\n\
             kernel/jbd2.ko: kernel/mbcache.ko\nkernel/mbcache.ko:\n"
        );
        assert_eq!(
            modules_alias(&catalog, &selection),
            "alias crypto-crc32c crc32c_intel\nalias cpu:type:x86,* crc32c_intel\nalias fs-ext4 ext4\nalias ext3 ext4\n"
        );
        assert_eq!(modules_softdep(&catalog, &selection), "softdep ext4 pre: crypto-crc32c\n");
    }
}
