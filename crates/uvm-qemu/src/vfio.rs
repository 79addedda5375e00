//! PCI devices of the host that can be given away: found in sysfs, bound to `vfio-pci` with all of their group.
//!
//! Not run with real devices yet: there is none on the machines this is tested on. The rules are those of the kernel's
//! documentation of VFIO.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::spawn::RunAs;

/// Where devices are found, and what QEMU drives them by.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vfio {
    /// Where sysfs is.
    pub sys: PathBuf,
    /// Where the groups' nodes are.
    pub nodes: PathBuf,
    /// A device of QEMU's instead of the host's.
    pub stand_in: Option<String>,
}

impl Default for Vfio {
    fn default() -> Self {
        Self { sys: "/sys".into(), nodes: "/dev/vfio".into(), stand_in: None }
    }
}

/// A device's PCI address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PciAddress(String);

impl PciAddress {
    /// Reads `[DOMAIN:]BUS:SLOT.FUNCTION`, in hexadecimal.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let full = if lower.matches(':').count() == 1 { format!("0000:{lower}") } else { lower };
        let hex = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let (domain, rest) = full.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (slot, function) = rest.split_once('.')?;
        let is_slot = hex(slot, 2) && u8::from_str_radix(slot, 16).is_ok_and(|slot| slot < 32);
        let is_function = function.len() == 1 && ("0"..="7").contains(&function);
        (hex(domain, 4) && hex(bus, 2) && is_slot && is_function).then_some(Self(full))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A group's node, which QEMU has to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) node: PathBuf,
}

impl Vfio {
    /// Why no device at all can be given away.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let groups = fs::read_dir(self.sys.join("kernel/iommu_groups"));
        let has_some = groups.is_ok_and(|mut groups| groups.next().is_some());
        (!has_some).then(|| NO_IOMMU.to_owned())
    }

    /// Passes if the device can be given to a QEMU that runs as this user and in these groups. Blocking.
    pub(crate) fn check(&self, address: &PciAddress, qemu: &RunAs) -> Result<Group, String> {
        let device = self.device(&address.0);
        if !device.exists() {
            return Err("the host has no such device; lspci -D lists them".into());
        }
        self.check_driver(&address.0)?;
        let group = fs::read_link(device.join("iommu_group")).ok();
        let number = group.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let number = number.ok_or_else(|| format!("it is in no IOMMU group: {NO_IOMMU}"))?;
        for other in self.members(number)? {
            if other != address.0 && !self.is_bridge(&other) {
                self.check_driver(&other)
                    .map_err(|why| format!("its IOMMU group {number} is not viable: in it is {other}, and {why}"))?;
            }
        }
        let node = self.nodes.join(number);
        let meta = node.metadata().map_err(|e| format!("{}: {e}; modprobe vfio-pci makes it", node.display()))?;
        // Lists of access say more than the mode: there it may be allowed already.
        if may_open(qemu, &meta) || has_access_list(&node) {
            return Ok(Group { node });
        }
        let (RunAs { uid, .. }, path) = (qemu, node.display());
        let groups: Vec<_> = groups_of(qemu).map(|gid| gid.to_string()).collect();
        Err(format!(
            "QEMU runs as user {uid} in group {} and cannot open {path}, which is of user {} and group {} with mode {:04o}; \
             setfacl -m u:{uid}:rw {path} lets it",
            groups.join(", "),
            meta.uid(),
            meta.gid(),
            meta.mode() & 0o7777,
        ))
    }

    fn device(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    fn check_driver(&self, address: &str) -> Result<(), String> {
        let driver = fs::read_link(self.device(address).join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let bound = match driver.as_deref() {
            Some("vfio-pci") => return Ok(()),
            Some(other) => format!("it is bound to the driver {other}"),
            None => "it is bound to no driver".into(),
        };
        Err(format!("{bound}, not to vfio-pci; driverctl set-override {address} vfio-pci binds it"))
    }

    fn members(&self, group: &str) -> Result<Vec<String>, String> {
        let directory = self.sys.join("kernel/iommu_groups").join(group).join("devices");
        let entries = fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
        let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Bridges stay with the host: class 06.
    fn is_bridge(&self, address: &str) -> bool {
        fs::read_to_string(self.device(address).join("class")).is_ok_and(|class| class.starts_with("0x06"))
    }
}

const NO_IOMMU: &str =
    "the host has no IOMMU, or it is off (the kernel options intel_iommu=on, amd_iommu=on switch it on)";

/// Whether a file's mode lets a user read and write it: of its owner, its group and others, the first that it is.
fn may_open(user: &RunAs, file: &Metadata) -> bool {
    let bits = if file.uid() == user.uid {
        6
    } else if groups_of(user).any(|gid| gid == file.gid()) {
        3
    } else {
        0
    };
    user.uid == 0 || file.mode() >> bits & 6 == 6
}

fn groups_of(user: &RunAs) -> impl Iterator<Item = u32> {
    std::iter::once(user.gid).chain(user.groups.iter().copied())
}

fn has_access_list(node: &Path) -> bool {
    rustix::fs::getxattr(node, "system.posix_acl_access", &mut [0_u8; 0][..]).is_ok_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A sysfs with these devices: address, driver, group, class.
    fn host(devices: &[(&str, &str, &str, &str)]) -> (tempfile::TempDir, Vfio) {
        let dir = tempfile::tempdir().expect("a directory");
        let vfio = Vfio { sys: dir.path().join("sys"), nodes: dir.path().join("vfio"), stand_in: None };
        fs::create_dir_all(&vfio.nodes).expect("made");
        for (address, driver, group, class) in devices {
            let device = vfio.device(address);
            fs::create_dir_all(&device).expect("made");
            fs::write(device.join("class"), class).expect("written");
            if !driver.is_empty() {
                symlink(format!("../../../bus/pci/drivers/{driver}"), device.join("driver")).expect("linked");
            }
            if !group.is_empty() {
                symlink(format!("../../../kernel/iommu_groups/{group}"), device.join("iommu_group")).expect("linked");
                let members = vfio.sys.join("kernel/iommu_groups").join(group).join("devices");
                fs::create_dir_all(&members).expect("made");
                fs::write(members.join(address), "").expect("written");
                fs::write(vfio.nodes.join(group), "").expect("written");
            }
        }
        (dir, vfio)
    }

    fn check(vfio: &Vfio, address: &str, uid: u32) -> Result<Group, String> {
        let qemu = RunAs { uid, gid: uid, groups: Vec::new() };
        vfio.check(&PciAddress::parse(address).expect("an address"), &qemu)
    }

    #[test]
    fn addresses_are_read_in_the_usual_spellings_and_no_others() {
        for good in ["0000:01:00.0", "01:00.0", "0000:01:00.0"] {
            assert_eq!(PciAddress::parse(good).expect(good).to_string(), "0000:01:00.0");
        }
        assert_eq!(PciAddress::parse("FFFF:AB:1F.7").expect("good").to_string(), "ffff:ab:1f.7");
        for bad in
            ["", "1:0.0", "0000:01:00", "0000:01:20.0", "0000:01:00.8", "0000:01:00.0.0", "../01:00.0", "PCI\\VEN_1"]
        {
            assert_eq!(PciAddress::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_device_can_be_given_with_its_group_alone() {
        let (_dir, vfio) = host(&[
            ("0000:00:01.0", "pcieport", "1", "0x060400"),
            ("0000:01:00.0", "vfio-pci", "1", "0x030000"),
            ("0000:01:00.1", "vfio-pci", "1", "0x040300"),
        ]);
        assert_eq!(check(&vfio, "01:00.0", 0).expect("it can").node, vfio.nodes.join("1"));
        for (devices, uid, why) in [
            (&[("0000:02:00.0", "vfio-pci", "2", "")][..], 0, "no such device; lspci -D"),
            (
                &[("0000:01:00.0", "nvme", "1", "")],
                0,
                "bound to the driver nvme, not to vfio-pci; driverctl set-override 0000:01:00.0",
            ),
            (&[("0000:01:00.0", "", "1", "")], 0, "bound to no driver"),
            (&[("0000:01:00.0", "vfio-pci", "", "")], 0, "no IOMMU group"),
            (
                &[("0000:01:00.0", "vfio-pci", "1", "0x030000"), ("0000:01:00.1", "snd_hda_intel", "1", "0x040300")],
                0,
                "group 1 is not viable: in it is 0000:01:00.1, and it is bound to the driver snd_hda_intel",
            ),
            (&[("0000:01:00.0", "vfio-pci", "1", "")], 65_534, "setfacl -m u:65534:rw"),
        ] {
            let (_dir, vfio) = host(devices);
            let error = check(&vfio, "0000:01:00.0", uid).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
        let (_dir, vfio) = host(&[("0000:01:00.0", "vfio-pci", "1", "")]);
        fs::remove_file(vfio.nodes.join("1")).expect("removed");
        assert!(check(&vfio, "0000:01:00.0", 0).expect_err("no node").contains("modprobe vfio-pci"));
    }

    #[test]
    fn the_node_is_opened_by_what_its_mode_says_of_the_first_that_qemu_is() {
        let (_dir, vfio) = host(&[("0000:01:00.0", "vfio-pci", "1", "")]);
        let node = vfio.nodes.join("1");
        let meta = node.metadata().expect("there");
        let (owner, group) = (meta.uid(), meta.gid());
        let (other, elsewhere) = (owner + 1, group + 1);
        let qemu = |uid, gid, groups: &[u32]| RunAs { uid, gid, groups: groups.to_vec() };
        for (mode, user, may) in [
            (0o660, qemu(other, elsewhere, &[]), false),
            (0o660, qemu(other, group, &[]), true),
            (0o660, qemu(other, elsewhere, &[elsewhere + 1, group]), true),
            (0o640, qemu(other, elsewhere, &[group]), false),
            // It is in the group, so what others may is not its.
            (0o606, qemu(other, elsewhere, &[group]), false),
            (0o606, qemu(other, elsewhere, &[]), true),
        ] {
            fs::set_permissions(&node, fs::Permissions::from_mode(mode)).expect("changed");
            let checked = vfio.check(&PciAddress::parse("01:00.0").expect("an address"), &user);
            assert_eq!(checked.is_ok(), may, "{mode:o} {user:?}: {checked:?}");
            if let Err(error) = checked {
                let said = format!("as user {other} in group {elsewhere}");
                assert!(error.contains(&said) && error.contains(&format!("with mode {mode:04o}")), "{error}");
            }
        }
        fs::set_permissions(&node, fs::Permissions::from_mode(0o060)).expect("changed");
        let its_own = check(&vfio, "01:00.0", owner);
        assert_eq!(its_own.is_ok(), owner == 0, "{its_own:?}");
    }
}
