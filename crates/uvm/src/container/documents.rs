//! Containers of any guest, by the documents that its agent takes, one step at a time.

use uvm_platform::ContainerCommand;
use uvm_wire::RawJson;
use uvm_wire::create::ContainerConfig;
use uvm_wire::execute::ProcessParameters;
use uvm_wire::modify::{Modification, ModifySettings};
use uvm_wire::properties::PropertyQuery;
use uvm_wire::system::Start;

use super::{Container, Way, create};
use crate::error::UvmError;
use crate::process::{self, Launch, Place, Process};
use crate::vm::UtilityVm;

impl UtilityVm {
    /// Makes a container by the document that the guest's agent takes, and does not start it:
    /// [`Container::start_created`] does. The way to containers of Windows guests; for those of Linux guests there is
    /// [`create_container`](Self::create_container), which checks what is asked for.
    ///
    /// A caller that gives up leaves no container.
    ///
    /// ```no_run
    /// # async fn example(vm: uvm::UtilityVm) -> Result<(), Box<dyn std::error::Error>> {
    /// use uvm::wire::RawJson;
    /// use uvm::wire::create::ContainerConfig;
    ///
    /// let document = RawJson::parse(r#"{"Storage": {"Path": "C:\\c\\1"}}"#)?;
    /// let container = vm.create_container_from("web", ContainerConfig::windows(document)).await?;
    /// container.start_created().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UvmError::Container`]: the id is taken or cannot be one, or the guest refused. [`UvmError::GuestUnsupported`]:
    /// nobody holds the guest connection. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn create_container_from(&self, id: &str, config: ContainerConfig) -> Result<Container, UvmError> {
        create::make(self, id, Ok(config), false).await
    }

    /// Starts a process in the VM, outside any container, by the parameters that the guest's agent takes: the way to
    /// processes of Windows guests.
    ///
    /// # Errors
    /// As [`create_process`](Self::create_process).
    pub async fn create_process_from(&self, parameters: ProcessParameters) -> Result<Process, UvmError> {
        process::create(self, launch(Place::Vm, "a process", parameters)).await
    }
}

impl Container {
    /// Starts what [`UtilityVm::create_container_from`] made. To be done once, before processes are started in it.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn start_created(&self) -> Result<(), UvmError> {
        let intent = "start";
        match &self.way {
            Way::Bridge(container) => container.call(&self.vm, intent, Start {}).await.map(drop),
            Way::Host(container) => container.command(&self.vm, intent, ContainerCommand::Start).await,
        }
    }

    /// Starts a process in it by the parameters that the guest's agent takes. In a Linux guest, parameters without an
    /// `oci_process` start its init process.
    ///
    /// # Errors
    /// [`UvmError::Program`].
    pub async fn create_process_from(&self, parameters: ProcessParameters) -> Result<Process, UvmError> {
        let program = format!("a process of container {:?}", self.id());
        process::create(&self.vm, launch(self.place(), &program, parameters)).await
    }

    /// Reads properties of it as the document that the guest's agent answers with. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn property_document(&self, query: PropertyQuery) -> Result<RawJson, UvmError> {
        self.read_properties("read properties of", query).await
    }

    /// Has the guest's agent change one resource of the container. This library keeps no account of it.
    ///
    /// A caller that gives up does not call the request back.
    ///
    /// # Errors
    /// [`UvmError::Container`]: the guest refused, or did not answer, in which case it may yet be done.
    pub async fn modify(&self, modification: Modification) -> Result<(), UvmError> {
        let intent = "modify";
        match &self.way {
            Way::Bridge(container) => container.call(&self.vm, intent, ModifySettings { modification }).await.map(drop),
            Way::Host(container) => container.modify(&self.vm, intent, &modification).await,
        }
    }
}

fn launch(place: Place, what: &str, parameters: ProcessParameters) -> Launch {
    let program = match (&parameters.command_args.first(), parameters.command_line.as_str()) {
        (Some(program), _) => format!("{program:?}"),
        (None, "") => what.to_owned(),
        (None, line) => format!("{line:?}"),
    };
    Launch { place, program, parameters }
}
