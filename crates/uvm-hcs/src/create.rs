//! Creating a VM: its document, its system, and before that what a Windows guest boots from. What was made before a
//! failure is undone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use uvm_platform::spec::{MemoryBacking, ProcessorSpec};
use uvm_platform::{Deadlines, PlatformError, UvmId, VmSpec, WcowSpec};
use uvm_wire::Guid;

use crate::document::query::{self, PropertyType, SystemProperties};
use crate::document::{SystemDocument, create_lcow, create_wcow};
use crate::host::{ComputeSystem, HcsError, HcsHost, Notification, NotificationKind, OpenSystem};
use crate::ports::Guest;
use crate::scratch::{Scratch, find_image};
use crate::vm::VmParts;

/// How many logical processors the host has.
pub(crate) async fn logical_processors(host: &dyn HcsHost, deadline: Duration) -> Result<u32, PlatformError> {
    let intent = "get host processor information";
    let query = query::query(&[PropertyType::ProcessorTopology]);
    let answer = within(intent, deadline, host.service_properties(&query)).await?;
    query::logical_processors(&answer).map_err(|e| PlatformError::host(intent, e))
}

/// Waits for the service, and no longer than `deadline`.
async fn within<T>(
    intent: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<T, HcsError>> + Send,
) -> Result<T, PlatformError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => result.map_err(|e| PlatformError::host(intent, e)),
        Err(_) => Err(PlatformError::Timeout {
            what: format!("the compute service, to {intent}"),
            waited: deadline,
            last_words: Box::default(),
        }),
    }
}

/// The creation of one VM.
pub(crate) struct Creation {
    pub(crate) host: Arc<dyn HcsHost>,
    pub(crate) deadlines: Deadlines,
}

/// A VM that was created and that nobody has yet.
pub(crate) struct Created {
    pub(crate) parts: VmParts,
    pub(crate) notifications: mpsc::UnboundedReceiver<Notification>,
}

impl Created {
    /// Ends the VM and removes what was made for it.
    pub(crate) async fn undo(self) {
        let Self { mut parts, notifications } = self;
        let open = OpenSystem { system: Arc::clone(&parts.system), notifications };
        discard(parts.id.as_str(), open, parts.deadlines).await;
        if let Some(scratch) = parts.scratch.take() {
            scratch.undo().await;
        }
    }
}

impl Creation {
    /// Creates a VM with a Linux guest.
    pub(crate) async fn lcow(self, spec: &VmSpec) -> Result<Created, PlatformError> {
        let mut spec = spec.clone();
        // What can be wrong with the options is found before the service is asked for anything.
        let addition = spec.additional_document.take();
        create_lcow(&spec, self.host.build())?;
        spec.additional_document = addition;
        spec.processors = self.as_many_as_there_are(&spec.id, spec.processors).await?;
        let document = create_lcow(&spec, self.host.build())?;
        let (open, runtime_id) = self.system(&spec.id, &document).await?;
        let parts = VmParts {
            id: spec.id,
            owner: spec.owner,
            guest: Guest::Linux,
            build: self.host.build(),
            host: self.host,
            deadlines: spec.deadlines,
            system: open.system,
            runtime_id,
            devices: document.devices(),
            virtual_sockets: spec.virtual_sockets,
            physically_backed: spec.memory.backing == MemoryBacking::Physical,
            cpu_group: spec.cpu_group,
            scratch: None,
        };
        Ok(Created { parts, notifications: open.notifications })
    }

    /// Creates a VM with a Windows guest.
    pub(crate) async fn wcow(self, spec: &WcowSpec) -> Result<Created, PlatformError> {
        let mut spec = spec.clone();
        let image = find_image(&*self.host, &spec.boot).await?;
        // What can be wrong with the options is found before anything is made.
        let addition = spec.additional_document.take();
        create_wcow(&spec, &image, self.host.build())?;
        spec.additional_document = addition;
        let scratch = Scratch::prepare(Arc::clone(&self.host), spec.id.clone(), &image).await?;
        let created = async {
            spec.processors = self.as_many_as_there_are(&spec.id, spec.processors).await?;
            let document = create_wcow(&spec, &image, self.host.build())?;
            let (open, runtime_id) = self.system(&spec.id, &document).await?;
            Ok((open, runtime_id, document))
        };
        let (open, runtime_id, document) = match created.await {
            Ok(created) => created,
            Err(error) => {
                scratch.undo().await;
                return Err(error);
            }
        };
        let parts = VmParts {
            id: spec.id,
            owner: spec.owner,
            guest: Guest::Windows,
            build: self.host.build(),
            host: self.host,
            deadlines: spec.deadlines,
            system: open.system,
            runtime_id,
            devices: document.devices(),
            virtual_sockets: true,
            physically_backed: spec.memory.backing == MemoryBacking::Physical,
            cpu_group: spec.cpu_group,
            scratch: Some(scratch),
        };
        Ok(Created { parts, notifications: open.notifications })
    }

    /// No more processors than the host has now.
    async fn as_many_as_there_are(&self, id: &UvmId, wanted: ProcessorSpec) -> Result<ProcessorSpec, PlatformError> {
        let there = logical_processors(&*self.host, self.deadlines.host_call).await?;
        if wanted.count > there {
            tracing::warn!(vm = %id, wanted = wanted.count, there, "the host has fewer processors than asked for");
        }
        Ok(ProcessorSpec { count: wanted.count.min(there), ..wanted })
    }

    /// Creates the system, and learns what its sockets are addressed by.
    async fn system(&self, id: &UvmId, document: &SystemDocument) -> Result<(OpenSystem, Guid), PlatformError> {
        let intent = "create the compute system";
        let created = self.host.create_system(id.as_str(), document.as_str());
        let open = match tokio::time::timeout(self.deadlines.start, created).await {
            Ok(Err(error)) if error.is_any(&[HcsError::ALREADY_EXISTS]) => {
                let holder = "the compute service has a system of this id".to_owned();
                return Err(PlatformError::AlreadyExists { id: id.clone(), holder });
            }
            Ok(created) => created.map_err(|e| PlatformError::host(intent, e))?,
            Err(_) => {
                return Err(PlatformError::Timeout {
                    what: format!("the compute service, to {intent}"),
                    waited: self.deadlines.start,
                    last_words: Box::default(),
                });
            }
        };
        match self.runtime_id(&*open.system).await {
            Ok(runtime_id) => Ok((open, runtime_id)),
            Err(error) if document.ends_when_closed() => {
                close(id.as_str(), &*open.system, self.deadlines).await;
                Err(error)
            }
            Err(error) => {
                discard(id.as_str(), open, self.deadlines).await;
                Err(error)
            }
        }
    }

    async fn runtime_id(&self, system: &dyn ComputeSystem) -> Result<Guid, PlatformError> {
        let intent = "learn the runtime id of the compute system";
        let query = query::query(&[]);
        let answer = within(intent, self.deadlines.host_call, system.properties(&query)).await?;
        let properties = SystemProperties::read(&answer).map_err(|e| PlatformError::host(intent, e))?;
        let missing = query::AnswerError::Missing { what: "runtime id" };
        properties.runtime_id.ok_or_else(|| PlatformError::host(intent, missing))
    }
}

/// Ends a system that will not be used, and waits for its end. What fails is told in the log: whoever waits gets the
/// reason why it is not used.
pub(crate) async fn discard(id: &str, open: OpenSystem, deadlines: Deadlines) {
    let OpenSystem { system, mut notifications } = open;
    let end = async {
        match system.terminate().await {
            Err(error) if !error.is_ending() => {
                tracing::warn!(system = id, %error, "a compute system that is not used goes on");
            }
            _ => {
                while let Some(told) = notifications.recv().await {
                    if matches!(told.kind, NotificationKind::SystemExited | NotificationKind::ServiceDisconnect) {
                        break;
                    }
                }
            }
        }
    };
    if tokio::time::timeout(deadlines.terminate, end).await.is_err() {
        tracing::warn!(system = id, "the end of a compute system that is not used was not told in time");
    }
    close(id, &*system, deadlines).await;
}

/// Closes a system that will not be used.
async fn close(id: &str, system: &dyn ComputeSystem, deadlines: Deadlines) {
    match tokio::time::timeout(deadlines.host_call, system.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(system = id, %error, "a compute system that is not used was not closed"),
        Err(_) => tracing::warn!(system = id, "a compute system that is not used was not closed in time"),
    }
}
