//! What is plugged into a VM: calls of the original as calls of the library, and the handles they return.

use serde_json::{Value, json};
use uvm::{
    CombinedLayers, PipeMount, Plan9Share, Plan9ShareOptions, ResourceError, ScsiDisk, ScsiMount, Share, UtilityVm,
    UvmError, VmAccess, VpciDevice, VpmemMount, VsmbOptions, VsmbShare,
};

use super::calls::{nothing, text};
use super::session::{Outcome, Session};

/// What a call returned, to be released by name.
pub(super) enum Handle {
    Scsi(ScsiMount),
    Vpmem(VpmemMount),
    Plan9(Plan9Share),
    Vsmb(VsmbShare),
    Pipe(PipeMount),
    Pci(VpciDevice),
    Layers(CombinedLayers),
    Share(Share),
}

impl Handle {
    async fn release(&self) -> Result<(), UvmError> {
        match self {
            Self::Scsi(disk) => disk.release().await,
            Self::Vpmem(layer) => layer.release().await,
            Self::Plan9(share) => share.release().await,
            Self::Vsmb(share) => share.release().await,
            Self::Pipe(pipe) => pipe.release().await,
            Self::Pci(device) => device.release().await,
            Self::Layers(layers) => layers.release().await,
            Self::Share(share) => share.release().await,
        }
    }
}

impl Session {
    /// Makes a call about what is plugged in.
    pub(super) async fn call_plug(&mut self, vm: &UtilityVm, name: &str, args: &Value) -> Result<Outcome, String> {
        Ok(match name {
            "AddSCSI" | "AddSCSIPhysicalDisk" => {
                let disk = scsi_disk(args, name == "AddSCSIPhysicalDisk")?;
                self.keep(args, vm.add_scsi(&disk).await, |mount| (scsi_facts(&mount), Handle::Scsi(mount)))
            }
            "RemoveSCSI" => outcome(vm.remove_scsi(text(args, "hostPath")?).await, nothing),
            "GetScsiUvmPath" => match vm.scsi_guest_path(text(args, "hostPath")?).await {
                Ok(path) => Outcome::Done(json!(path.unwrap_or_default())),
                Err(error) => named(&error, json!("")),
            },
            "AddVPMEM" => {
                let added = vm.add_vpmem(text(args, "hostPath")?).await;
                self.keep(args, added, |layer| (json!(layer.guest_path()), Handle::Vpmem(layer)))
            }
            "RemoveVPMEM" => outcome(vm.remove_vpmem(text(args, "hostPath")?).await, nothing),
            "AddPlan9" => {
                let mut options = Plan9ShareOptions::new(text(args, "hostPath")?, text(args, "uvmPath")?);
                options.read_only = args["readOnly"] == true;
                if args["restrict"] == true {
                    options = options.restricted_to(texts(&args["allowedNames"]));
                }
                self.keep(args, vm.add_plan9(&options).await, |share| (Value::Null, Handle::Plan9(share)))
            }
            "AddVSMB" => {
                let added = vm.add_vsmb(text(args, "hostPath")?, vsmb_options(&args["options"])?).await;
                self.keep(args, added, |share| {
                    // The library does not touch what its caller has.
                    let after = &args["options"];
                    (
                        json!({"HostPath": share.host_path().to_string_lossy(), "options_after": after}),
                        Handle::Vsmb(share),
                    )
                })
            }
            // The original has no name for its error.
            "RemoveVSMB" => {
                Outcome::of(vm.remove_vsmb(text(args, "hostPath")?, args["readOnly"] == true).await, nothing)
            }
            "GetVSMBUvmPath" => {
                let path = vm.vsmb_guest_path(text(args, "hostPath")?, args["readOnly"] == true).await;
                outcome(path, |path| json!(path))
            }
            "AddPipe" => {
                let added = vm.add_pipe(text(args, "hostPath")?).await;
                self.keep(args, added, |pipe| (Value::Null, Handle::Pipe(pipe)))
            }
            "AssignDevice" => {
                let assigned = vm.assign_device(text(args, "deviceID")?).await;
                self.keep(args, assigned, |device| {
                    let facts = json!({"VMBusGUID": device.vmbus_guid(), "instance": device.vmbus_instance_id()});
                    (facts, Handle::Pci(device))
                })
            }
            "Share" => {
                let (path, guest_path) = (text(args, "hostPath")?, text(args, "uvmPath")?);
                let shared = vm.share(path, guest_path, args["readOnly"] == true).await;
                self.keep(args, shared, |share| (Value::Null, Handle::Share(share)))
            }
            "CombineLayersLCOW" => {
                let (scratch, root) = (text(args, "scratchPath")?, text(args, "rootfsPath")?);
                let combined = vm.combine_layers_lcow(&texts(&args["layerPaths"]), scratch, root).await;
                self.keep(args, combined, |layers| (Value::Null, Handle::Layers(layers)))
            }
            "CombineLayersWCOW" => {
                let layers = args["layerPaths"].as_array().map_or(&[][..], Vec::as_slice);
                let part = |layer: &Value, key: &str| layer[key].as_str().unwrap_or_default().to_owned();
                let layers: Vec<_> = layers.iter().map(|layer| (part(layer, "Id"), part(layer, "Path"))).collect();
                let combined = vm.combine_layers_wcow(&layers, text(args, "containerRootPath")?).await;
                self.keep(args, combined, |layers| (Value::Null, Handle::Layers(layers)))
            }
            "RemoveCombinedLayers" => outcome(vm.remove_combined_layers(text(args, "rootfsPath")?).await, nothing),
            "Release" | "RemovePlan9" => match self.handles.get(text(args, "handle")?) {
                Some(handle) => outcome(handle.release().await, nothing),
                None => Outcome::refused("that was never had"),
            },
            _ => return self.call_network(vm, name, args).await,
        })
    }

    /// Keeps what was added, under its name if it has one: dropped, it would be released.
    fn keep<T>(
        &mut self,
        args: &Value,
        added: Result<T, UvmError>,
        split: impl FnOnce(T) -> (Value, Handle),
    ) -> Outcome {
        let added = match added {
            Ok(added) => added,
            Err(error) => return named(&error, Value::Null),
        };
        let (facts, handle) = split(added);
        let name = args["handle"].as_str().map(str::to_owned);
        self.kept += 1;
        let name = name.unwrap_or_else(|| format!("unnamed {}", self.kept));
        if let Some(earlier) = self.handles.insert(name, handle) {
            self.handles.insert(format!("replaced {}", self.kept), earlier);
        }
        Outcome::Done(facts)
    }
}

fn scsi_disk(args: &Value, is_physical: bool) -> Result<ScsiDisk, String> {
    let path = text(args, "hostPath")?;
    let mut disk = if is_physical { ScsiDisk::physical(path) } else { ScsiDisk::new(path) };
    disk.guest_path = Some(text(args, "uvmPath")?.to_owned()).filter(|path| !path.is_empty());
    disk.read_only = args["readOnly"] == true;
    if !is_physical {
        disk.access = match text(args, "vmAccess")? {
            "Noop" => VmAccess::Noop,
            "Group" => VmAccess::Group,
            "Individual" => VmAccess::Individual,
            other => return Err(format!("no access: {other}")),
        };
    }
    Ok(disk)
}

fn vsmb_options(given: &Value) -> Result<VsmbOptions, String> {
    let mut options = VsmbOptions::default();
    for (name, value) in given.as_object().ok_or("options are an object")? {
        let option = match name.as_str() {
            "ReadOnly" => &mut options.read_only,
            "ShareRead" => &mut options.share_read,
            "CacheIo" => &mut options.cache_io,
            "NonCacheIo" => &mut options.non_cache_io,
            "NoOplocks" => &mut options.no_oplocks,
            "TakeBackupPrivilege" => &mut options.take_backup_privilege,
            "UseShareRootIdentity" => &mut options.use_share_root_identity,
            "NoDirectmap" => &mut options.no_direct_map,
            "NoLocks" => &mut options.no_locks,
            "NoDirnotify" => &mut options.no_dir_notify,
            "VmSharedMemory" => &mut options.vm_shared_memory,
            "RestrictFileAccess" => &mut options.restrict_file_access,
            "ForceLevelIIOplocks" => &mut options.force_level_ii_oplocks,
            "ReparseBaseLayer" => &mut options.reparse_base_layer,
            "PseudoOplocks" => &mut options.pseudo_oplocks,
            "PseudoDirnotify" => &mut options.pseudo_dir_notify,
            "SingleFileMapping" => &mut options.single_file_mapping,
            other => return Err(format!("no option: {other}")),
        };
        *option = value == true;
    }
    Ok(options)
}

fn scsi_facts(mount: &ScsiMount) -> Value {
    json!({
        "Controller": mount.controller(),
        "HostPath": mount.host_path().map(|path| path.to_string_lossy()),
        "LUN": mount.lun(),
        "UVMPath": mount.guest_path().unwrap_or_default(),
    })
}

pub(super) fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

pub(super) fn outcome<T>(result: Result<T, UvmError>, value: impl FnOnce(T) -> Value) -> Outcome {
    match result {
        Ok(done) => Outcome::Done(value(done)),
        Err(error) => named(&error, Value::Null),
    }
}

/// The failure with the name of the original's error that it is.
fn named(error: &UvmError, returned: Value) -> Outcome {
    let is = match error {
        UvmError::Resource { source, .. } => match &**source {
            ResourceError::NotAttached => Some("ErrNotAttached"),
            ResourceError::NoAvailableLocation { .. } => Some("ErrNoAvailableLocation"),
            ResourceError::NoScsiControllers => Some("ErrNoSCSIControllers"),
            ResourceError::LayerTooLarge { .. } => Some("ErrMaxVPMEMLayerSize"),
            ResourceError::NamespaceAlreadyAdded => Some("ErrNetNSAlreadyAttached"),
            ResourceError::NamespaceNotFound => Some("ErrNetNSNotFound"),
            _ => None,
        },
        _ => None,
    };
    Outcome::failed_as(error, is, returned)
}
