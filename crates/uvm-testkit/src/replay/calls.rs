//! What a call of the original is here.

use std::sync::Arc;

use serde_json::{Value, json};
use uvm::platform::Platform;
use uvm::wire::negotiate::GuestOs;
use uvm::{CpuLimits, HvSocketServiceConfig, HvSocketServiceId, UtilityVm, UvmError, VmStatistics};
use uvm_hcs::host::{Notification, NotificationKind};

use super::options::{self, Given};
use super::session::{Outcome, SETTLE, Session};
use super::{guest, host};

impl Session {
    /// Makes the call of this name.
    pub(super) async fn call(&mut self, name: &str, args: &Value) -> Result<Outcome, String> {
        match name {
            "NewDefaultOptionsLCOW" | "NewDefaultOptionsWCOW" => {
                let (id, owner) = (text(args, "id")?, text(args, "owner")?);
                let platform: &dyn Platform = &*self.platform;
                self.defaults = if name == "NewDefaultOptionsLCOW" {
                    options::lcow_defaults(platform, id, owner).await
                } else {
                    options::wcow_defaults(platform, id, owner)
                };
                Ok(Outcome::Done(self.defaults.clone()))
            }
            "CreateLCOW" | "CreateWCOW" => self.create(name == "CreateLCOW").await,
            "#guest closes its log; entries logged by the host" => self.close_log().await,
            _ if name.starts_with('#') => self.event(name, args),
            _ => match self.vm.clone() {
                Some(vm) => self.call_vm(&vm, name, args).await,
                None => Err(format!("{name} without a VM")),
            },
        }
    }

    async fn create(&mut self, is_linux: bool) -> Result<Outcome, String> {
        let given = Given::new(&self.defaults, &self.case["options"]);
        let host = Arc::clone(&self.platform) as Arc<dyn Platform>;
        let created = if is_linux {
            match given.lcow() {
                Ok(options) => UtilityVm::create_lcow_on(host, &options).await,
                Err(error) => return Ok(Outcome::refused(error)),
            }
        } else {
            match given.wcow() {
                Ok(options) => UtilityVm::create_wcow_on(host, &options).await,
                Err(error) => return Ok(Outcome::refused(error)),
            }
        };
        let vm = match created {
            Ok(vm) => vm,
            Err(error) => return Ok(Outcome::failed(&error)),
        };
        self.expect_start(vm.id().as_str());
        let returned = facts(&vm);
        self.vm = Some(vm);
        Ok(Outcome::Done(returned))
    }

    async fn close_log(&mut self) -> Result<Outcome, String> {
        self.log.take();
        self.script.close_log();
        tokio::time::sleep(SETTLE).await;
        Ok(Outcome::Done(json!(self.log.take())))
    }

    /// What is no call of the original, but happens to it.
    fn event(&mut self, name: &str, args: &Value) -> Result<Outcome, String> {
        match name {
            "#fault" => match host::fault(args)? {
                Some(fault) => self.host.plant(fault),
                None => self.script.plant(args)?,
            },
            "#vm exits" => {
                let id = self.vm.as_ref().ok_or("no VM to exit")?.id().clone();
                let status = host::hresult(&args["status"])?;
                self.host.notify(id.as_str(), Notification::new(NotificationKind::SystemExited, status));
            }
            "#container exits" => {
                let notification = guest::exit_of(text(args, "id")?)?;
                if !self.script.notify(notification) {
                    return Err("a container exits in a guest that is gone".to_owned());
                }
            }
            "#file ids are not supported" => self.host.take_file_ids_away(),
            _ => return Ok(Outcome::NotYet),
        }
        Ok(Outcome::Done(Value::Null))
    }

    async fn call_vm(&mut self, vm: &UtilityVm, name: &str, args: &Value) -> Result<Outcome, String> {
        Ok(match name {
            "Start" => Outcome::of(vm.start().await, nothing),
            "Close" => Outcome::of(vm.close().await, nothing),
            "Terminate" => Outcome::of(vm.terminate().await, nothing),
            "Wait" => Outcome::of(vm.wait().await, |_| Value::Null),
            "ExitError" => Outcome::of(vm.exit_error(), nothing),
            "accessors" => Outcome::Done(accessors(vm)),
            "DumpStacks" => match vm.dump_stacks().await {
                Ok(stacks) => Outcome::Done(json!(stacks)),
                Err(error) => with_returned(&error, json!("")),
            },
            "DeleteContainerState" => Outcome::of(vm.delete_container_state(text(args, "cid")?).await, nothing),
            "UpdateContainer" => {
                let resources = args["resources"].to_string();
                Outcome::of(vm.update_container(text(args, "cid")?, &resources).await, nothing)
            }
            "GuestRequest" => Outcome::of(vm.guest_request_raw(&args["request"].to_string()).await, nothing),
            "SetCPUGroup" => Outcome::of(vm.set_cpu_group(text(args, "id")?).await, nothing),
            "ReleaseCPUGroup" => Outcome::of(vm.release_cpu_group().await, nothing),
            "UpdateCPULimits" => match cpu_limits(args) {
                Some(limits) => Outcome::of(vm.update_cpu_limits(limits).await, nothing),
                None => Outcome::refused("D79: there are no limits"),
            },
            "UpdateMemory" => {
                let bytes = args["sizeInBytes"].as_u64().ok_or("a size is a number")?;
                Outcome::of(vm.update_memory(bytes).await, nothing)
            }
            "GetAssignedMemoryInBytes" => Outcome::of(vm.assigned_memory_bytes().await, |bytes| json!(bytes)),
            "Stats" => Outcome::of(vm.stats().await, |figures| statistics(&figures)),
            "UpdateHvSocketService" => match socket_service(&args["doc"]) {
                Some(config) => {
                    let service = HvSocketServiceId::new(text(args, "sid")?);
                    Outcome::of(vm.update_hvsocket_service(&service, &config).await, nothing)
                }
                None => Outcome::refused("D79: there is no configuration"),
            },
            "RemoveHvSocketService" => {
                let service = HvSocketServiceId::new(text(args, "sid")?);
                Outcome::of(vm.remove_hvsocket_service(&service).await, nothing)
            }
            "CreateContainer" | "CreateProcess" => return self.call_container(vm, name, args).await,
            _ if name.starts_with("Container.") || name.starts_with("Process.") => {
                return self.call_container(vm, name, args).await;
            }
            _ => return self.call_plug(vm, name, args).await,
        })
    }
}

pub(super) fn nothing((): ()) -> Value {
    Value::Null
}

pub(super) fn text<'a>(args: &'a Value, key: &str) -> Result<&'a str, String> {
    args[key].as_str().ok_or_else(|| format!("{key} is no text"))
}

fn with_returned(error: &UvmError, returned: Value) -> Outcome {
    Outcome::failed_as(error, None, returned)
}

pub(super) fn os(vm: &UtilityVm) -> &'static str {
    match vm.os() {
        GuestOs::Linux => "linux",
        GuestOs::Windows => "windows",
    }
}

/// What is known of a VM from its creation on.
fn facts(vm: &UtilityVm) -> Value {
    json!({
        "DevicesPhysicallyBacked": vm.devices_physically_backed(),
        "ID": vm.id().as_str(),
        "IsOCI": vm.is_oci(),
        "OS": os(vm),
        "PhysicallyBacked": vm.physically_backed(),
        "ProcessorCount": vm.processor_count(),
    })
}

fn accessors(vm: &UtilityVm) -> Value {
    let guest = vm.capabilities().map(|capabilities| json!(capabilities.guest_defined)).unwrap_or(json!({}));
    let mut all = facts(vm);
    all["Capabilities"] = json!({"guest": guest, "protocol": vm.protocol_version().unwrap_or_default()});
    all["ContainerCounter"] = json!(vm.container_counter());
    all["DeleteContainerStateSupported"] = json!(vm.delete_container_state_supported());
    all["SignalProcessSupported"] = json!(vm.signal_process_supported());
    all["UVMMountCounter"] = json!(vm.mount_counter());
    all
}

fn statistics(figures: &VmStatistics) -> Value {
    let mut memory = json!({
        "virtual_node_count": figures.virtual_node_count,
        "working_set_bytes": figures.working_set_bytes.unwrap_or_default(),
    });
    if let Some(of_vm) = figures.memory {
        memory["vm_memory"] = json!({
            "assigned_memory": of_vm.assigned_pages,
            "available_memory": of_vm.available_percent,
            "available_memory_buffer": of_vm.available_buffer_percent,
            "balancing_enabled": of_vm.balancing_enabled,
            "dm_operation_in_progress": of_vm.operation_in_progress,
            "reserved_memory": of_vm.reserved_pages,
            "slp_active": of_vm.slp_active,
        });
    }
    let mut all = json!({ "memory": memory });
    if let Some(runtime) = figures.processor_runtime_ns {
        all["processor"] = json!({ "total_runtime_ns": runtime });
    }
    all
}

fn cpu_limits(args: &Value) -> Option<CpuLimits> {
    if args.get("limits").is_some_and(Value::is_null) {
        return None;
    }
    let number = |key: &str| args[key].as_u64().unwrap_or_default();
    Some(CpuLimits {
        limit: number("Limit"),
        weight: number("Weight"),
        reservation: number("Reservation"),
        maximum_frequency_mhz: u32::try_from(number("MaximumFrequencyMHz")).ok()?,
    })
}

fn socket_service(document: &Value) -> Option<HvSocketServiceConfig> {
    let text = |key: &str| document[key].as_str().unwrap_or_default().to_owned();
    document.is_object().then(|| HvSocketServiceConfig {
        bind_security_descriptor: text("BindSecurityDescriptor"),
        connect_security_descriptor: text("ConnectSecurityDescriptor"),
        allow_wildcard_binds: document["AllowWildcardBinds"] == true,
        disabled: document["Disabled"] == true,
    })
}
