//! What a creation document plugs in.
//!
//! Read back from the final text: what a caller merges into a document takes places too, and who hands out the others
//! must know.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use uvm_platform::requests::ScsiSlot;

use crate::win_path::WinPath;

/// The places that a creation document takes, each with the path on the host, if it names one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentDevices {
    /// The SCSI controllers there are.
    pub scsi_controllers: Vec<u8>,
    /// Disks.
    pub scsi: BTreeMap<ScsiSlot, Option<WinPath>>,
    /// How many memory-backed devices there may be.
    pub vpmem_count: u32,
    /// The memory-backed devices there are.
    pub vpmem: BTreeMap<u32, Option<WinPath>>,
    /// 9P shares, by name.
    pub plan9: BTreeMap<String, Option<WinPath>>,
    /// Shares of a Windows guest, by name.
    pub vsmb: BTreeMap<String, Option<WinPath>>,
}

impl DocumentDevices {
    /// Reads a creation document. What the service would not understand either takes no place.
    pub(super) fn read(document: &str) -> Self {
        let devices = Node::root(document).get("VirtualMachine").get("Devices");
        let mut found = Self::default();
        for (controller, node) in devices.get("Scsi").numbered::<u8>() {
            found.scsi_controllers.push(controller);
            for (lun, disk) in node.get("Attachments").numbered::<u8>() {
                found.scsi.insert(ScsiSlot { controller, lun }, disk.path("Path"));
            }
        }
        let vpmem = devices.get("VirtualPMem");
        found.vpmem_count = vpmem.get("MaximumCount").read().unwrap_or_default();
        for (slot, device) in vpmem.get("Devices").numbered::<u32>() {
            found.vpmem.insert(slot, device.path("HostPath"));
        }
        found.plan9 = devices.get("Plan9").shares();
        found.vsmb = devices.get("VirtualSmb").shares();
        found
    }
}

/// A value of a document, or where one would be.
struct Node(Option<Box<RawValue>>);

impl Node {
    fn root(text: &str) -> Self {
        Self(serde_json::from_str(text).ok())
    }

    fn read<'a, T: serde::Deserialize<'a>>(&'a self) -> Option<T> {
        self.0.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok())
    }

    fn members(&self) -> BTreeMap<String, Box<RawValue>> {
        self.read().unwrap_or_default()
    }

    fn get(&self, key: &str) -> Self {
        Self(self.members().remove(key))
    }

    fn path(&self, key: &str) -> Option<WinPath> {
        self.get(key).read::<String>().map(WinPath::new)
    }

    /// The members whose keys are numbers.
    fn numbered<N: std::str::FromStr>(&self) -> impl Iterator<Item = (N, Self)> {
        self.members().into_iter().filter_map(|(key, raw)| Some((key.parse().ok()?, Self(Some(raw)))))
    }

    fn shares(&self) -> BTreeMap<String, Option<WinPath>> {
        let shares: Vec<Box<RawValue>> = self.get("Shares").read().unwrap_or_default();
        let named = shares.into_iter().map(|raw| Self(Some(raw))).filter_map(|share| {
            let name = share.get("Name").read()?;
            Some((name, share.path("Path")))
        });
        named.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::create_lcow;
    use crate::test_spec::spec;
    use crate::windows_build::WindowsBuild;

    #[test]
    fn d2_the_root_disk_is_known_by_its_full_path() {
        let devices = create_lcow(&spec(), WindowsBuild(19041)).expect("a document").devices();
        assert_eq!(devices.vpmem, [(0, Some(WinPath::new(r"c:\boot\rootfs.vhd")))].into());
        assert_eq!((devices.vpmem_count, devices.scsi_controllers.as_slice()), (64, &[0][..]));
    }

    #[test]
    fn d5_what_is_merged_in_takes_its_place() {
        let mut spec = spec();
        spec.additional_document = Some(
            r#"{"VirtualMachine":{"Devices":{
                "Scsi":{"0":{"Attachments":{"7":{"Type":"VirtualDisk","Path":"C:\\own.vhdx"}}},"1":{}},
                "VirtualPMem":{"MaximumCount":65,"Devices":{"3":{"HostPath":"C:\\l.vhd"}}},
                "Plan9":{"Shares":[{"Name":"0","Path":"C:\\share"},{"Path":"nameless"}]},
                "VirtualSmb":{"Shares":[{"Name":"s1"}]}}}}"#
                .into(),
        );
        let devices = create_lcow(&spec, WindowsBuild(19041)).expect("a document").devices();
        let slot = ScsiSlot { controller: 0, lun: 7 };
        assert_eq!(devices.scsi, [(slot, Some(WinPath::new(r"C:\own.vhdx")))].into());
        assert_eq!(devices.scsi_controllers, [0, 1]);
        assert_eq!(devices.vpmem.keys().copied().collect::<Vec<_>>(), [0, 3]);
        assert_eq!(devices.vpmem_count, 65);
        assert_eq!(devices.plan9, [("0".to_owned(), Some(WinPath::new(r"C:\share")))].into());
        assert_eq!(devices.vsmb, [("s1".to_owned(), None)].into());
    }

    #[test]
    fn nonsense_takes_no_place() {
        for text in ["", "[]", r#"{"VirtualMachine":{"Devices":{"Scsi":5,"VirtualPMem":[1],"Plan9":{"Shares":{}}}}}"#] {
            assert_eq!(DocumentDevices::read(text), DocumentDevices::default(), "{text}");
        }
    }
}
