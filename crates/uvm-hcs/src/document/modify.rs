//! Changes of a running VM.
//!
//! The guest's half of a change goes to its agent by whoever holds the connection to it. Where the service holds it, it
//! is sent along with the host's half.

use serde::Serialize;
use serde_json::{Value, to_value};
use uvm_platform::Feature;
use uvm_platform::requests::{
    Change, CpuGroup, CpuLimits, Device, HvSocketService, NetworkAdapter, PciAssignment, Plan9Export, ScsiAttachment,
    ScsiKind, ScsiSettings, Setting, VpmemDevice, VsmbExport, VsmbOptions,
};
use uvm_wire::RawJson;

use super::lcow::vpmem_device;
use super::shared::win_path;
use super::{DocumentError, path, schema, to_text};
use crate::windows_build::WindowsBuild;

/// The request that makes `change` on a host of this build, with what the service is to pass on to the guest.
///
/// # Errors
/// The build is too old for it, or the service takes no such value.
pub fn modify(change: &Change, guest: Option<&RawJson>, build: WindowsBuild) -> Result<String, DocumentError> {
    let host = match change {
        Change::Add(device) => add(device, build)?,
        Change::Remove(device) => remove(device)?,
        Change::UndoAdd(device) => match device {
            // These are added by the request that changes them.
            Device::HvSocketService(_) => remove(device)?,
            _ => Host { request_type: Some("Remove"), ..add(device, build)? },
        },
        Change::Update(setting) => update(setting)?,
    };
    Ok(to_text(&Message {
        resource_path: Some(&host.path),
        request_type: host.request_type,
        settings: host.settings.as_ref(),
        guest_request: guest,
    }))
}

/// The request that only passes something on to the guest.
pub fn guest_only(guest: &RawJson) -> String {
    to_text(&Message { resource_path: None, request_type: None, settings: None, guest_request: Some(guest) })
}

/// The wire's shape. Settings of 0 are written: only what is absent is left out.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_request: Option<&'a RawJson>,
}

/// The host's half of a change.
struct Host {
    path: String,
    request_type: Option<&'static str>,
    settings: Option<Value>,
}

impl Host {
    fn of(request_type: &'static str, path: String) -> Self {
        Self { path, request_type: Some(request_type), settings: None }
    }

    fn with(self, settings: &impl Serialize) -> Self {
        let settings = to_value(settings).expect("the schema's maps have text as keys, and nothing else can fail");
        Self { settings: Some(settings), ..self }
    }
}

/// Why this service has no shares of that kind.
pub(crate) const VIRTIO_FS: &str = "the service shares directories with Linux guests by 9P";

const NO_VIRTIO_FS: DocumentError = DocumentError::Missing { feature: Feature::VirtioFsShares, why: VIRTIO_FS };

fn add(device: &Device, build: WindowsBuild) -> Result<Host, DocumentError> {
    Ok(match device {
        Device::Scsi(disk) => Host::of("Add", path::scsi(disk.slot)).with(&scsi_settings(disk)?),
        Device::Vpmem(VpmemDevice { slot, path: image, file: _ }) => {
            Host::of("Add", path::vpmem(*slot)).with(&vpmem_device(&win_path("layer", image)?))
        }
        Device::Plan9(share) => Host::of("Add", path::PLAN9_SHARES.into()).with(&plan9_settings(share, build)?),
        Device::VirtioFs(_) => return Err(NO_VIRTIO_FS),
        Device::Vsmb(share) => Host::of("Add", path::VSMB_SHARES.into()).with(&vsmb_settings(share)?),
        Device::Network(adapter) => network("Add", adapter),
        Device::Pci(device) => Host::of("Add", path::pci_device(&device.channel)).with(&pci_settings(device)),
        Device::Pipe(pipe) => Host::of("Add", path::mapped_pipe(win_path("pipe", &pipe.path)?.as_str())),
        Device::HvSocketService(service) => {
            Host::of("Update", path::hv_socket_service(service.id.as_str())).with(&service_settings(service))
        }
    })
}

/// Most things are named by their path alone.
fn remove(device: &Device) -> Result<Host, DocumentError> {
    let unnamed = |path| Host::of("Remove", path);
    Ok(match device {
        Device::Scsi(disk) => unnamed(path::scsi(disk.slot)),
        Device::Vpmem(device) => unnamed(path::vpmem(device.slot)),
        Device::Plan9(share) => unnamed(path::PLAN9_SHARES.into()).with(&plan9_name(share)),
        Device::VirtioFs(_) => return Err(NO_VIRTIO_FS),
        Device::Vsmb(share) => unnamed(path::VSMB_SHARES.into())
            .with(&schema::VsmbShare { name: share.name.clone(), ..schema::VsmbShare::default() }),
        Device::Network(adapter) => network("Remove", adapter),
        Device::Pci(device) => unnamed(path::pci_device(&device.channel)),
        Device::Pipe(pipe) => unnamed(path::mapped_pipe(win_path("pipe", &pipe.path)?.as_str())),
        Device::HvSocketService(service) => unnamed(path::hv_socket_service(service.id.as_str())),
    })
}

fn update(setting: &Setting) -> Result<Host, DocumentError> {
    let untyped = |path: &str| Host { path: path.into(), request_type: None, settings: None };
    Ok(match setting {
        Setting::Memory(size) => {
            if size.mib == 0 || !size.mib.is_multiple_of(2) {
                return Err(DocumentError::bad("memory of MiB", &size.mib, "an even number from 2 on is allowed"));
            }
            untyped(path::MEMORY).with(&size.mib)
        }
        Setting::CpuLimits(limits) => untyped(path::CPU_LIMITS).with(&limit_settings(*limits)),
        Setting::CpuGroup(CpuGroup { id }) => {
            let id = id.as_deref().unwrap_or(NO_CPU_GROUP);
            if id.is_empty() {
                return Err(DocumentError::bad("CPU group", &id, "the id of a group is needed"));
            }
            untyped(path::CPU_GROUP).with(&schema::CpuGroup { id: id.to_owned() })
        }
        Setting::ScsiSize(_) => return Err(DocumentError::Missing { feature: Feature::DiskResize, why: NO_RESIZE }),
        Setting::VsmbFiles(share) => Host::of("Update", path::VSMB_SHARES.into()).with(&vsmb_settings(share)?),
    })
}

fn scsi_settings(disk: &ScsiAttachment) -> Result<schema::Attachment, DocumentError> {
    let kind = match disk.kind {
        ScsiKind::VirtualDisk => "VirtualDisk",
        ScsiKind::PassThrough => "PassThru",
    };
    if disk.settings != ScsiSettings::default() {
        return Err(DocumentError::Missing { feature: Feature::DiskSettings, why: FROM_THE_IMAGE });
    }
    let path = win_path("disk", &disk.path)?;
    Ok(schema::Attachment { kind, path: path.as_str().to_owned(), read_only: disk.read_only })
}

fn plan9_name(share: &Plan9Export) -> schema::Plan9Share {
    schema::Plan9Share {
        name: share.name.clone(),
        access_name: share.name.clone(),
        port: share.port.0,
        ..schema::Plan9Share::default()
    }
}

fn plan9_settings(share: &Plan9Export, build: WindowsBuild) -> Result<schema::Plan9Share, DocumentError> {
    let mut flags = PLAN9_LINUX_METADATA;
    if share.read_only {
        flags |= PLAN9_READ_ONLY;
    }
    if share.allowed_files.is_some() {
        DocumentError::require(Feature::SingleFileShares, WindowsBuild::V19H1, build)?;
        flags |= PLAN9_RESTRICT_FILE_ACCESS;
    }
    Ok(schema::Plan9Share {
        path: win_path("share", &share.path)?.as_str().to_owned(),
        flags,
        allowed_files: share.allowed_files.clone().unwrap_or_default(),
        ..plan9_name(share)
    })
}

fn vsmb_settings(share: &VsmbExport) -> Result<schema::VsmbShare, DocumentError> {
    if share.options.restrict_file_access && share.allowed_files.is_empty() {
        let why = "a share of single files must name them; a directory cannot be restricted";
        return Err(DocumentError::bad("share", &share.path.display(), why));
    }
    let file = |file: &std::path::PathBuf| Ok(win_path("shared file", file)?.as_str().to_owned());
    Ok(schema::VsmbShare {
        name: share.name.clone(),
        path: win_path("share", &share.path)?.as_str().to_owned(),
        allowed_files: share.allowed_files.iter().map(file).collect::<Result<_, DocumentError>>()?,
        options: Some(vsmb_options(share.options)),
    })
}

fn vsmb_options(options: VsmbOptions) -> schema::VsmbShareOptions {
    let VsmbOptions {
        read_only,
        share_read,
        cache_io,
        non_cache_io,
        no_oplocks,
        take_backup_privilege,
        use_share_root_identity,
        no_direct_map,
        no_locks,
        no_dir_notify,
        vm_shared_memory,
        restrict_file_access,
        force_level_ii_oplocks,
        reparse_base_layer,
        pseudo_oplocks,
        pseudo_dir_notify,
        single_file_mapping,
    } = options;
    schema::VsmbShareOptions {
        read_only,
        share_read,
        cache_io,
        non_cache_io,
        no_oplocks,
        take_backup_privilege,
        use_share_root_identity,
        no_direct_map,
        no_locks,
        no_dir_notify,
        vm_shared_memory,
        restrict_file_access,
        force_level_ii_oplocks,
        reparse_base_layer,
        pseudo_oplocks,
        pseudo_dir_notify,
        single_file_mapping,
    }
}

fn network(request_type: &'static str, adapter: &NetworkAdapter) -> Host {
    Host::of(request_type, path::network_adapter(&adapter.adapter_id)).with(&schema::NetworkAdapter {
        endpoint_id: adapter.endpoint_id.clone(),
        mac_address: adapter.mac_address.clone(),
    })
}

fn pci_settings(device: &PciAssignment) -> schema::PciDevice {
    let function =
        schema::PciFunction { device_instance_path: device.device.clone(), virtual_function: device.virtual_function };
    schema::PciDevice { functions: vec![function] }
}

fn service_settings(service: &HvSocketService) -> schema::HvSocketServiceConfig {
    let config = &service.config;
    schema::HvSocketServiceConfig {
        bind_security_descriptor: config.bind_security_descriptor.clone(),
        connect_security_descriptor: config.connect_security_descriptor.clone(),
        allow_wildcard_binds: config.allow_wildcard_binds,
        disabled: config.disabled,
    }
}

fn limit_settings(limits: CpuLimits) -> schema::CpuLimits {
    let CpuLimits { limit, weight, reservation, maximum_frequency_mhz } = limits;
    schema::CpuLimits { limit, weight, reservation, maximum_frequency_mhz }
}

/// Why nothing else can be said of a disk.
pub(crate) const FROM_THE_IMAGE: &str = "the Host Compute Service takes them from the image";
/// Why a disk stays as large as it is.
pub(crate) const NO_RESIZE: &str = "the Host Compute Service cannot do it";
/// What a VM joins to be in no group.
const NO_CPU_GROUP: &str = "00000000-0000-0000-0000-000000000000";

const PLAN9_READ_ONLY: u32 = 0x1;
const PLAN9_LINUX_METADATA: u32 = 0x4;
const PLAN9_RESTRICT_FILE_ACCESS: u32 = 0x80;

#[cfg(test)]
mod tests {
    use serde_json::{from_str, json};
    use uvm_platform::Port;
    use uvm_platform::requests::{MemorySize, ScsiSlot};
    use uvm_platform::{HvSocketServiceConfig, HvSocketServiceId};

    use super::*;

    const BUILD: WindowsBuild = WindowsBuild(19041);

    fn request(change: &Change) -> Value {
        from_str(&modify(change, None, BUILD).expect("a request")).expect("JSON")
    }

    #[test]
    fn an_undone_add_tells_the_whole_device() {
        let disk = Device::Scsi(ScsiAttachment {
            slot: ScsiSlot { controller: 0, lun: 63 },
            path: r"C:\d.vhdx".into(),
            kind: ScsiKind::VirtualDisk,
            read_only: true,
            settings: ScsiSettings::default(),
        });
        let path = "VirtualMachine/Devices/Scsi/0/Attachments/63";
        assert_eq!(
            request(&Change::UndoAdd(disk.clone())),
            json!({"ResourcePath": path, "RequestType": "Remove",
                   "Settings": {"Type": "VirtualDisk", "Path": r"C:\d.vhdx", "ReadOnly": true}})
        );
        assert_eq!(request(&Change::Remove(disk)), json!({"ResourcePath": path, "RequestType": "Remove"}));
    }

    #[test]
    fn d1_a_layer_is_what_its_extension_says_in_any_case() {
        for (path, format) in [(r"C:\l.vhd", "Vhd1"), (r"C:\l.VhdX", "Vhdx"), (r"C:\vhdx", "Vhd1")] {
            let layer = Device::Vpmem(VpmemDevice::new(1, path));
            assert_eq!(request(&Change::Add(layer))["Settings"]["ImageFormat"], format, "{path}");
        }
    }

    #[test]
    fn d66_memory_is_even_and_not_zero() {
        let memory = |mib| Change::Update(Setting::Memory(MemorySize { mib }));
        assert_eq!(request(&memory(2048)), json!({"ResourcePath": path::MEMORY, "Settings": 2048}));
        for bad in [0, 1, 2047] {
            assert!(modify(&memory(bad), None, BUILD).is_err(), "{bad}");
        }
    }

    #[test]
    fn d78_a_directory_cannot_be_restricted_to_files() {
        let mut share = VsmbExport {
            name: "s1".into(),
            path: r"C:\dir".into(),
            options: VsmbOptions { restrict_file_access: true, ..VsmbOptions::default() },
            allowed_files: Vec::new(),
        };
        let error = modify(&Change::Add(Device::Vsmb(share.clone())), None, BUILD).expect_err("no files");
        assert!(error.to_string().contains("C:\\\\dir"), "{error}");
        share.allowed_files.push(r"C:\dir\a".into());
        let request = request(&Change::Update(Setting::VsmbFiles(share)));
        assert_eq!(request["RequestType"], "Update");
        assert_eq!(request["Settings"]["AllowedFiles"], json!([r"C:\dir\a"]));
    }

    #[test]
    fn d6_an_update_keeps_its_half_for_the_host_beside_the_guests() {
        let share = VsmbExport {
            name: "s1".into(),
            path: r"C:\dir".into(),
            options: VsmbOptions::default(),
            allowed_files: vec![r"C:\dir\a".into()],
        };
        let guest = RawJson::parse(r#"{"ResourceType":"MappedDirectory"}"#).expect("JSON");
        let text = modify(&Change::Update(Setting::VsmbFiles(share)), Some(&guest), BUILD).expect("a request");
        let request: Value = from_str(&text).expect("JSON");
        assert_eq!(request["RequestType"], "Update");
        assert_eq!(request["Settings"]["AllowedFiles"], json!([r"C:\dir\a"]));
        assert_eq!(request["GuestRequest"], json!({"ResourceType": "MappedDirectory"}));
    }

    #[test]
    fn single_files_need_a_build_that_has_them() {
        let share = Plan9Export {
            name: "0".into(),
            path: r"C:\dir\".into(),
            port: Port(564),
            read_only: true,
            allowed_files: Some(vec!["a".into()]),
        };
        let add = Change::Add(Device::Plan9(share));
        let error = modify(&add, None, WindowsBuild(18361)).expect_err("too old").to_string();
        assert_eq!(error, "shares of single files: not supported on builds older than 18362; this is 18361");
        assert_eq!(request(&add)["Settings"]["Flags"], 0x85);
    }

    #[test]
    fn a_group_has_an_id_or_is_none() {
        let group = |id: Option<&str>| Change::Update(Setting::CpuGroup(CpuGroup { id: id.map(Into::into) }));
        assert_eq!(request(&group(None))["Settings"], json!({"Id": "00000000-0000-0000-0000-000000000000"}));
        assert_eq!(request(&group(Some("g"))), json!({"ResourcePath": path::CPU_GROUP, "Settings": {"Id": "g"}}));
        assert!(modify(&group(Some("")), None, BUILD).is_err());
    }

    #[test]
    fn a_service_is_added_by_changing_it() {
        let config = HvSocketServiceConfig { disabled: true, ..HvSocketServiceConfig::default() };
        let service = HvSocketService { id: HvSocketServiceId::new("s"), config };
        let path = "VirtualMachine/Devices/HvSocket/HvSocketConfig/ServiceTable/s";
        assert_eq!(
            request(&Change::Add(Device::HvSocketService(service.clone()))),
            json!({"ResourcePath": path, "RequestType": "Update", "Settings": {"Disabled": true}})
        );
        for gone in [Change::Remove as fn(Device) -> Change, Change::UndoAdd] {
            let gone = request(&gone(Device::HvSocketService(service.clone())));
            assert_eq!(gone, json!({"ResourcePath": path, "RequestType": "Remove"}));
        }
    }

    #[test]
    fn the_guests_half_goes_along_as_it_is() {
        let guest = RawJson::parse(r#"{"n":18446744073709551616}"#).expect("JSON");
        assert_eq!(guest_only(&guest), r#"{"GuestRequest":{"n":18446744073709551616}}"#);
        let memory = Change::Update(Setting::Memory(MemorySize { mib: 2 }));
        let text = modify(&memory, Some(&guest), BUILD).expect("a request");
        assert!(text.ends_with(r#""Settings":2,"GuestRequest":{"n":18446744073709551616}}"#), "{text}");
    }
}
