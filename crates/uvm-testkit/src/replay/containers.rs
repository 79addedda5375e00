//! Containers and processes: calls of the original as calls of the library.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, from_value, json};
use tokio::time::timeout;
use uvm::wire::create::ContainerConfig;
use uvm::wire::execute::ProcessParameters;
use uvm::wire::modify::Modification;
use uvm::wire::negotiate::GuestOs;
use uvm::wire::process::SignalOptions;
use uvm::wire::properties::{PropertyQuery, PropertyType};
use uvm::wire::{RawJson, process::Signal};
use uvm::{Container, Process, TerminalSize, UtilityVm};

use super::calls::{nothing, os, text};
use super::session::{Outcome, Session};

/// What calls returned, by the names they were given.
#[derive(Default)]
pub(super) struct Returned {
    containers: BTreeMap<String, Container>,
    processes: BTreeMap<String, Process>,
}

impl Session {
    /// Makes a call about containers or processes.
    pub(super) async fn call_container(&mut self, vm: &UtilityVm, name: &str, args: &Value) -> Result<Outcome, String> {
        let returned = &mut self.returned;
        Ok(match name {
            "CreateContainer" => {
                let config: ContainerConfig = match from_value(args["settings"].clone()) {
                    Ok(config) => config,
                    Err(error) => return Ok(Outcome::refused(format!("settings: {error}"))),
                };
                match vm.create_container_from(text(args, "id")?, config).await {
                    Ok(container) => {
                        let facts = json!({"ID": container.id(), "IsOCI": vm.os() == GuestOs::Linux, "OS": os(vm)});
                        returned.containers.insert(text(args, "handle")?.to_owned(), container);
                        Outcome::Done(facts)
                    }
                    Err(error) => Outcome::failed(&error),
                }
            }
            "CreateProcess" => {
                let parameters: ProcessParameters = from_value(args["settings"].clone()).map_err(|e| e.to_string())?;
                let created = match text(args, "container")? {
                    "" => vm.create_process_from(parameters).await,
                    container => returned.container(container)?.create_process_from(parameters).await,
                };
                match created {
                    Ok(process) => {
                        let pid = process.id();
                        returned.processes.insert(text(args, "handle")?.to_owned(), process);
                        Outcome::Done(json!({"Pid": pid}))
                    }
                    Err(error) => Outcome::failed(&error),
                }
            }
            _ => match name.split_once('.') {
                Some(("Container", call)) => call_of(returned.container(text(args, "handle")?)?, call).await?,
                Some(("Process", call)) => returned.call(text(args, "handle")?, call, &args["arg"]).await?,
                _ => Outcome::NotYet,
            },
        })
    }
}

async fn call_of(container: &Container, call: &str) -> Result<Outcome, String> {
    let query = |kind| PropertyQuery { property_types: vec![kind] };
    Ok(match call {
        "Start" => Outcome::of(container.start_created().await, nothing),
        "Shutdown" => Outcome::of(container.shutdown().await, nothing),
        "Terminate" => Outcome::of(container.terminate().await, nothing),
        "Wait" => match timeout(LONG, container.wait()).await {
            Ok(_) => Outcome::Done(Value::Null),
            Err(_) => Outcome::refused("it does not end"),
        },
        "Close" => {
            container.close();
            Outcome::Done(Value::Null)
        }
        "Properties" => {
            Outcome::of(container.property_document(query(PropertyType::ProcessList)).await, |_| Value::Null)
        }
        "PropertiesV2" => {
            Outcome::of(container.property_document(query(PropertyType::Statistics)).await, |_| Value::Null)
        }
        "Modify" => {
            let request = RawJson::parse(r#"{"ResourceType":"Oracle"}"#).map_err(|e| e.to_string())?;
            Outcome::of(container.modify(Modification::raw(request)).await, nothing)
        }
        _ => Outcome::NotYet,
    })
}

/// A wait that is not over by then never is: the clock moves only when nobody can go on.
const LONG: Duration = Duration::from_secs(3600);

impl Returned {
    fn container(&self, name: &str) -> Result<&Container, String> {
        self.containers.get(name).ok_or_else(|| format!("no container {name}"))
    }

    async fn call(&mut self, name: &str, call: &str, arg: &Value) -> Result<Outcome, String> {
        let process = self.processes.get(name).ok_or_else(|| format!("no process {name}"))?;
        Ok(match call {
            "Kill" => Outcome::of(process.kill().await, |is_sent| json!(is_sent)),
            "Signal" => {
                let options: SignalOptions = from_value(arg.clone()).map_err(|e| e.to_string())?;
                let sent = match options.signal {
                    Signal::Windows(signal) => process.signal_windows(signal).await,
                    Signal::Linux(signal) => process.signal(signal).await,
                    Signal::Unspecified => process.kill().await,
                };
                match sent {
                    Ok(is_sent) => Outcome::Done(json!(is_sent)),
                    Err(error) => Outcome::failed_as(&error, None, json!(false)),
                }
            }
            "ResizeConsole" => Outcome::of(process.resize(TerminalSize { rows: 40, columns: 120 }).await, nothing),
            "Wait" => match timeout(LONG, process.wait()).await {
                Ok(ended) => Outcome::of(ended, |_| Value::Null),
                Err(_) => Outcome::refused("it does not end"),
            },
            "ExitCode" => match process.exit() {
                Some(uvm::ProcessExit::Code(code)) => Outcome::Done(json!(code)),
                Some(exit) => Outcome::Done(json!(exit.to_string())),
                None => Outcome::Failed { error: "it has not ended".to_owned(), is: None, returned: json!(-1) },
            },
            "Close" => {
                self.processes.remove(name);
                Outcome::Done(Value::Null)
            }
            _ => Outcome::NotYet,
        })
    }
}
