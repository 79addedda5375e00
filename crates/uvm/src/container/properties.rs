//! What a container uses and runs.

use uvm_wire::RawJson;
use uvm_wire::metrics::Metrics;
use uvm_wire::properties::{GetPropertiesReply, LinuxProperties, PropertyQuery, PropertyType};

use super::{Container, Way};
use crate::error::{ContainerError, UvmError};

/// The processes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerProcesses {
    /// Their ids in the VM, as in [`Process::id`](crate::Process::id), those of zombies included.
    pub ids: Vec<u32>,
    /// How many more there are. An agent whose answer has no room for all says so; those of the original do not.
    pub omitted: u32,
}

impl Container {
    /// What it uses: processor time, memory, ... `None` where the guest has nothing to tell. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn statistics(&self) -> Result<Option<Metrics>, UvmError> {
        let properties = self.properties("read the statistics of", PropertyType::Statistics).await?;
        Ok(properties.metrics.map(|metrics| *metrics))
    }

    /// All of its processes; none once it has ended. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Container`].
    pub async fn processes(&self) -> Result<ContainerProcesses, UvmError> {
        let properties = self.properties("list the processes of", PropertyType::ProcessList).await?;
        let ids = properties.process_list.unwrap_or_default().into_iter().map(|process| process.process_id).collect();
        Ok(ContainerProcesses { ids, omitted: properties.processes_omitted })
    }

    async fn properties(&self, intent: &'static str, wanted: PropertyType) -> Result<LinuxProperties, UvmError> {
        let query = PropertyQuery { property_types: vec![wanted] };
        let document = self.read_properties(intent, query).await?;
        GetPropertiesReply::Document(document).linux().map_err(|e| self.failed(intent, ContainerError::Answer(e)))
    }

    /// The answer to a query, as it is.
    pub(super) async fn read_properties(
        &self,
        intent: &'static str,
        query: PropertyQuery,
    ) -> Result<RawJson, UvmError> {
        match &self.way {
            Way::Bridge(container) => container.properties(&self.vm, intent, query).await,
            Way::Host(container) => container.properties(&self.vm, intent, &query).await,
        }
    }
}
