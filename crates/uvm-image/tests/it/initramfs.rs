//! What is in the initramfs, read back from the archive.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use uvm_image::{BootFiles, ExtraFile};

use crate::machine::{Machine, RELEASE};

/// One entry: its mode, and its contents or target.
type Entry = (u32, Vec<u8>);

/// Reads a `newc` archive. Strict: anything odd panics.
fn read(path: &Path) -> BTreeMap<String, Entry> {
    let bytes = fs::read(path).unwrap();
    let mut entries = BTreeMap::new();
    let mut at = 0;
    loop {
        let field = |n: usize| {
            let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        assert_eq!(&bytes[at..at + 6], b"070701");
        let (mode, size, name_size) = (field(1), field(6), field(11));
        let name = String::from_utf8(bytes[at + 110..at + 109 + name_size].to_vec()).unwrap();
        let data = (at + 110 + name_size).next_multiple_of(4);
        at = (data + size).next_multiple_of(4);
        if name == "TRAILER!!!" {
            return entries;
        }
        let parent = Path::new(&name).parent().unwrap().to_str().unwrap();
        assert!(parent.is_empty() || entries.contains_key(parent), "{name} comes before its directory");
        let entry = (u32::try_from(mode).unwrap(), bytes[data..data + size].to_vec());
        assert!(entries.insert(name.clone(), entry).is_none(), "{name} is there twice");
    }
}

fn text(entries: &BTreeMap<String, Entry>, path: &str) -> String {
    String::from_utf8(entries[path].1.clone()).unwrap()
}

#[test]
fn it_holds_agent_tools_modules_and_little_else() {
    let machine = Machine::new();
    let entries = read(&machine.ensure().initrd_path());
    let listing: Vec<_> = entries.iter().map(|(path, (mode, _))| format!("{mode:o} {path}")).collect();
    let modules = format!("lib/modules/{RELEASE}");
    let expected = format!(
        "40755 bin|100755 bin/busybox|120777 bin/gcs|120777 bin/ls|120777 bin/sh|120777 bin/uvm-enter|120777 bin/vsockexec|40755 dev|\
         20600 dev/console|20666 dev/null|40755 etc|100644 etc/group|100644 etc/hosts|100644 etc/passwd|\
         100644 etc/profile|100644 etc/shells|40755 etc/udhcpc|100755 etc/udhcpc/default.script|\
         100644 etc/uvm-release|100755 init|40755 lib|40755 lib/modules|40755 {modules}|40755 {modules}/kernel|\
         100644 {modules}/kernel/crc32c.ko|100644 {modules}/kernel/ext4.ko|100644 {modules}/kernel/virtio.ko|\
         100644 {modules}/kernel/virtio_console.ko|100644 {modules}/kernel/virtio_pci.ko|\
         100644 {modules}/modules.alias|100644 {modules}/modules.dep|100644 {modules}/modules.softdep|\
         100644 lib/modules/uvm.index|40755 mnt|40555 proc|40700 root|40755 run|40755 sbin|120777 sbin/ip|40555 sys|\
         41777 tmp|40755 usr|40755 usr/bin|120777 usr/bin/[|120777 usr/bin/env|40755 usr/sbin|40755 var|\
         40755 var/lib|120777 var/lock|40755 var/log|120777 var/run|41777 var/tmp"
    );
    assert_eq!(listing, expected.split('|').collect::<Vec<_>>());
    assert_eq!(entries["init"].1, fs::read(machine.path("agent")).unwrap());
    assert_eq!(text(&entries, "bin/gcs"), "../init");
    assert_eq!(text(&entries, "usr/bin/env"), "../../bin/busybox");
    assert_eq!(text(&entries, "bin/sh"), "busybox");
}

#[test]
fn its_index_and_versions_are_those_of_its_kernel() {
    let machine = Machine::new();
    let entries = read(&machine.ensure().initrd_path());
    let index = text(&entries, "lib/modules/uvm.index");
    for line in [
        "format: 1",
        &format!("release: {RELEASE}"),
        "modular: yes",
        "group boot: kernel/virtio.ko kernel/virtio_pci.ko kernel/virtio_console.ko",
        "group ext4: ?kernel/crc32c.ko kernel/ext4.ko",
        "group net:",
        "absent net: virtio_net",
        "module ext4: ?kernel/crc32c.ko kernel/ext4.ko",
    ] {
        assert!(index.lines().any(|found| found == line), "{line} in\n{index}");
    }
    assert!(entries[&format!("lib/modules/{RELEASE}/kernel/ext4.ko")].1.starts_with(b"\x7fELF"), "it is decompressed");
    let release = text(&entries, "etc/uvm-release");
    assert!(release.contains("UVM_AGENT_VERSION=1.0\n"), "{release}");
    assert!(release.contains(&format!("UVM_KERNEL_RELEASE={RELEASE}\n")), "{release}");
}

#[test]
fn extra_files_are_added_and_replace_what_is_there() {
    let machine = Machine::new();
    fs::write(machine.path("f"), "mine").unwrap();
    let extra = |path: &str| ExtraFile::new(path, machine.path("f")).unwrap();
    let options = machine.options().with_extra_file(extra("/opt/deep/file")).with_extra_file(extra("/bin/sh"));
    let entries = read(&BootFiles::ensure(&options).unwrap().initrd_path());
    assert_eq!(text(&entries, "opt/deep/file"), "mine");
    assert_eq!(entries["bin/sh"].0, 0o100_644);
    assert_eq!(entries["opt"].0, 0o40_755);
    let beneath = BootFiles::ensure(&machine.options().with_extra_file(extra("/bin/sh/x"))).unwrap_err();
    assert!(crate::machine::chain(&beneath).contains("/bin/sh/x"), "{beneath}");
}
