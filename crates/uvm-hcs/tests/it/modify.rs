//! Changes of running VMs against those recorded from the original: the host's half, made from what the caller gave and
//! from the place it was given. The guest's half goes along as it was recorded.

use serde_json::{Value, from_str};
use uvm_hcs::document::DocumentError;
use uvm_hcs::document::modify::modify;
use uvm_hcs::{WinPath, WindowsBuild};
use uvm_platform::Port;
use uvm_platform::requests::{
    Change, CpuGroup, CpuLimits, Device, HvSocketService, MappedPipe, MemorySize, NetworkAdapter, PciAssignment,
    Plan9Export, ScsiAttachment, ScsiKind, ScsiSettings, ScsiSlot, Setting, VpmemDevice, VsmbExport, VsmbOptions,
};
use uvm_platform::{HvSocketServiceConfig, HvSocketServiceId};
use uvm_wire::RawJson;

use crate::cases;

const RECORDED: &str = include_str!("../data/modify.json");

/// How many distinct requests were recorded, and how often they were sent.
const REQUESTS: usize = 568;
const SENT: u64 = 1107;

#[test]
fn requests_are_the_originals_but_for_numbered_defects() {
    let recorded = cases::read(RECORDED);
    let all = recorded["cases"].as_array().expect("cases");
    assert_eq!(all.len(), REQUESTS);
    assert_eq!(all.iter().map(|case| case["same"].as_u64().expect("a number")).sum::<u64>(), SENT);
    let (mut same, mut fixed) = (0, Vec::new());
    for case in all.iter().map(Case) {
        match case.defect() {
            None => {
                let request = case.request().unwrap_or_else(|error| panic!("{}: {error}", case.0));
                assert_eq!(request, case.recorded(), "{}", case.0);
                same += 1;
            }
            Some(defect) => {
                case.check_fix(defect);
                fixed.push(defect);
            }
        }
    }
    fixed.sort_unstable();
    let count = |defect| fixed.iter().filter(|fixed| **fixed == defect).count();
    assert_eq!([count("D78"), count("D79")], [2, 2]);
    assert_eq!(same + fixed.len(), REQUESTS);
}

/// One recorded request.
struct Case<'a>(&'a Value);

impl Case<'_> {
    /// The numbered defect that shows in it.
    fn defect(&self) -> Option<&'static str> {
        if self.0["host"].get("Settings") == Some(&Value::Null) {
            Some("D79")
        } else if self.0["files"].as_array().is_some_and(|files| files.iter().all(|file| file == "")) {
            Some("D78")
        } else {
            None
        }
    }

    fn check_fix(&self, defect: &str) {
        match defect {
            // There is no way to say it.
            "D79" => assert_eq!(self.recorded()["Settings"], Value::Null),
            "D78" => {
                let error = self.request().expect_err("a directory cannot be restricted");
                assert!(matches!(error, DocumentError::BadValue { what: "share", .. }), "{error}");
            }
            other => panic!("what becomes of {other}?"),
        }
    }

    fn recorded(&self) -> Value {
        let mut recorded = self.0["host"].clone();
        if let Some(guest) = self.0.get("guest") {
            recorded["GuestRequest"] = guest.clone();
        }
        recorded
    }

    fn request(&self) -> Result<Value, DocumentError> {
        let change = match self.0["change"].as_str() {
            Some("add") => Change::Add(self.device()),
            Some("remove") => Change::Remove(self.device()),
            Some("undo") => Change::UndoAdd(self.device()),
            _ if self.call() == "UpdateHvSocketService" => Change::Add(self.device()),
            _ => Change::Update(self.setting()),
        };
        let guest = self.0.get("guest").map(|guest| RawJson::of(guest).expect("JSON"));
        modify(&change, guest.as_ref(), self.build()).map(|text| from_str(&text).expect("JSON"))
    }

    fn device(&self) -> Device {
        match self.call() {
            "AddSCSI" | "AddSCSIPhysicalDisk" => Device::Scsi(self.disk()),
            "AddVPMEM" => Device::Vpmem(self.layer()),
            "AddPlan9" => Device::Plan9(self.plan9()),
            "Share" if self.is_linux() => Device::Plan9(self.plan9()),
            "Share" | "AddVSMB" => Device::Vsmb(self.vsmb()),
            "AddEndpointsToNS" => Device::Network(self.adapter()),
            "AssignDevice" => Device::Pci(self.pci()),
            "AddPipe" => Device::Pipe(MappedPipe { path: self.arg("hostPath").into(), port: None }),
            "UpdateHvSocketService" | "RemoveHvSocketService" => Device::HvSocketService(self.service()),
            other => panic!("{other} plugs in nothing"),
        }
    }

    fn setting(&self) -> Setting {
        let number = |name: &str| self.args()[name].as_u64().unwrap_or_default();
        match self.call() {
            // The caller's bytes become whole, even MiB before.
            "UpdateMemory" => Setting::Memory(MemorySize { mib: (number("sizeInBytes") >> 20).next_multiple_of(2) }),
            "UpdateCPULimits" => Setting::CpuLimits(CpuLimits {
                limit: number("Limit"),
                weight: number("Weight"),
                reservation: number("Reservation"),
                maximum_frequency_mhz: u32::try_from(number("MaximumFrequencyMHz")).expect("32 bits"),
            }),
            "SetCPUGroup" => Setting::CpuGroup(CpuGroup { id: Some(self.arg("id")) }),
            "ReleaseCPUGroup" => Setting::CpuGroup(CpuGroup { id: None }),
            "AddVSMB" | "Share" => Setting::VsmbFiles(self.vsmb()),
            other => panic!("{other} sets nothing"),
        }
    }

    fn disk(&self) -> ScsiAttachment {
        let (controller, lun) = self.place("Scsi/").split_once("/Attachments/").expect("a place");
        let slot = ScsiSlot { controller: controller.parse().expect("a number"), lun: lun.parse().expect("a number") };
        let kind = if self.call() == "AddSCSI" { ScsiKind::VirtualDisk } else { ScsiKind::PassThrough };
        let settings = ScsiSettings::default();
        ScsiAttachment { slot, path: self.arg("hostPath").into(), kind, read_only: self.flag("readOnly"), settings }
    }

    fn layer(&self) -> VpmemDevice {
        let slot = self.place("VirtualPMem/Devices/").parse().expect("a number");
        VpmemDevice::new(slot, self.arg("hostPath"))
    }

    /// A file is shared by its directory, which is named with a separator at its end.
    fn plan9(&self) -> Plan9Export {
        let path = WinPath::new(self.arg("hostPath"));
        let is_file = self.call() == "Share" && path.extension() == Some("txt");
        let allowed = if is_file {
            Some(vec![path.file_name().expect("a name").to_owned()])
        } else if self.flag("restrict") {
            let names = self.args()["allowedNames"].as_array().map_or(&[][..], Vec::as_slice);
            Some(names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect())
        } else {
            None
        };
        let path = if is_file { format!("{}\\", path.parent().expect("a directory")) } else { path.as_str().into() };
        Plan9Export {
            name: self.name(),
            path: path.into(),
            port: Port(564),
            read_only: self.flag("readOnly"),
            allowed_files: allowed,
        }
    }

    fn vsmb(&self) -> VsmbExport {
        let files: Vec<_> = self.0["files"].as_array().into_iter().flatten().collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let given = &self.args()["options"];
        let by_default = |name: &str| match name {
            "ReadOnly" | "ShareRead" | "CacheIo" | "PseudoOplocks" => self.call() == "Share" && self.flag("readOnly"),
            _ => false,
        };
        let option = |name: &str| given[name].as_bool().unwrap_or_else(|| by_default(name));
        let is_file = WinPath::new(self.arg("hostPath")).extension() == Some("txt");
        VsmbExport {
            name: self.name(),
            path: text(&self.0["dir"]).into(),
            options: VsmbOptions {
                read_only: option("ReadOnly"),
                share_read: option("ShareRead"),
                cache_io: option("CacheIo"),
                non_cache_io: option("NonCacheIo"),
                no_oplocks: option("NoOplocks"),
                take_backup_privilege: option("TakeBackupPrivilege"),
                use_share_root_identity: option("UseShareRootIdentity"),
                // Whether the host can map a directory's files is asked of its file system.
                no_direct_map: option("NoDirectmap") || self.0["no_direct_map"] == true,
                no_locks: option("NoLocks"),
                no_dir_notify: option("NoDirnotify"),
                vm_shared_memory: option("VmSharedMemory"),
                restrict_file_access: option("RestrictFileAccess") || is_file,
                force_level_ii_oplocks: option("ForceLevelIIOplocks"),
                reparse_base_layer: option("ReparseBaseLayer"),
                pseudo_oplocks: option("PseudoOplocks"),
                pseudo_dir_notify: option("PseudoDirnotify"),
                single_file_mapping: option("SingleFileMapping") || is_file,
            },
            allowed_files: files
                .iter()
                .map(|file| text(file))
                .filter(|file| !file.is_empty())
                .map(Into::into)
                .collect(),
        }
    }

    fn adapter(&self) -> NetworkAdapter {
        let endpoint = &self.args()["endpoint"];
        let text = |name: &str| endpoint[name].as_str().unwrap_or_default().to_owned();
        NetworkAdapter {
            adapter_id: self.place("NetworkAdapters/").into(),
            endpoint_id: text("ID"),
            mac_address: text("MacAddress"),
        }
    }

    fn pci(&self) -> PciAssignment {
        PciAssignment {
            channel: self.place("VirtualPci/").into(),
            device: self.arg("deviceID"),
            virtual_function: 0,
            port: None,
        }
    }

    fn service(&self) -> HvSocketService {
        let document = &self.args()["doc"];
        let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
        let config = HvSocketServiceConfig {
            bind_security_descriptor: text("BindSecurityDescriptor"),
            connect_security_descriptor: text("ConnectSecurityDescriptor"),
            allow_wildcard_binds: document["AllowWildcardBinds"] == true,
            disabled: document["Disabled"] == true,
        };
        HvSocketService { id: HvSocketServiceId::new(self.arg("sid")), config }
    }

    fn call(&self) -> &str {
        self.0["call"].as_str().expect("a call")
    }

    fn args(&self) -> &Value {
        &self.0["args"]
    }

    fn arg(&self, name: &str) -> String {
        self.args()[name].as_str().unwrap_or_default().to_owned()
    }

    fn flag(&self, name: &str) -> bool {
        self.args()[name] == true
    }

    fn is_linux(&self) -> bool {
        self.0["os"] == "lcow"
    }

    fn build(&self) -> WindowsBuild {
        if self.0.get("build").is_some() { cases::build(self.0) } else { WindowsBuild(19041) }
    }

    /// What stands behind `kind` in the place that the original gave.
    fn place(&self, kind: &str) -> &str {
        let path = self.0["host"]["ResourcePath"].as_str().expect("a place");
        path.split_once(kind).unwrap_or_else(|| panic!("{path} is no place of {kind}")).1
    }

    /// The name that the original gave a share.
    fn name(&self) -> String {
        self.0["host"]["Settings"]["Name"].as_str().expect("a name").to_owned()
    }
}
