//! Virtual sockets of programs in the guest: the device, who may use which port, and the ports themselves.

use std::sync::Arc;
use std::time::Duration;

use uvm_platform::{
    Deadlines, GuestListener, GuestStream, HvSocketServiceConfig, HvSocketServiceId, PlatformError, PlatformVm, Port,
};

use super::UtilityVm;
use super::driver::Life;
use super::host_call::on_host;
use super::state::Ask;
use crate::error::UvmError;

/// What can be done about a VM's virtual sockets.
pub(crate) enum Change {
    Add,
    Remove,
    Update(HvSocketServiceId, HvSocketServiceConfig),
    Forget(HvSocketServiceId),
}

impl Change {
    pub(super) fn intent(&self) -> &'static str {
        match self {
            Self::Add => "add virtual sockets to",
            Self::Remove => "remove the virtual sockets of",
            Self::Update(..) => "change an hvsocket service of",
            Self::Forget(_) => "remove an hvsocket service of",
        }
    }

    /// How long it may take: a few words with the host, and the guest's driver.
    pub(super) fn limit(deadlines: &Deadlines) -> Duration {
        deadlines.rpc + 4 * deadlines.host_call
    }

    pub(super) async fn make(self, vm: &dyn PlatformVm) -> Result<(), PlatformError> {
        match self {
            Self::Add => vm.add_sockets().await,
            Self::Remove => vm.remove_sockets().await,
            Self::Update(service, config) => {
                // What can be wrong with it comes first: nothing is plugged in for a service that is none. And the device
                // comes before the permission: a service that allows something is one that can be used.
                vm.check_socket_service(&service, &config)?;
                if !config.disabled {
                    vm.add_sockets().await?;
                }
                vm.update_socket_service(&service, &config).await
            }
            Self::Forget(service) => vm.remove_socket_service(&service).await,
        }
    }
}

impl UtilityVm {
    /// Creates, changes or removes the service that says who may use one port of the VM's virtual sockets: the guest's
    /// programs (a host program then may [`listen`](Self::listen)), the host (it may [`dial`](Self::dial)), or both. What
    /// no service allows is denied. A listener that is not allowed any more ends; streams go on.
    ///
    /// Adds virtual sockets to a VM that has none. A service that is [`disabled`](HvSocketServiceConfig::disabled), with
    /// empty descriptors, is removed.
    ///
    /// ```no_run
    /// # async fn example(vm: uvm::UtilityVm) -> Result<(), uvm::UvmError> {
    /// use uvm::{HvSocketServiceConfig, HvSocketServiceId};
    ///
    /// let service = HvSocketServiceId::of_port(5000);
    /// vm.update_hvsocket_service(&service, &HvSocketServiceConfig::guest_dials()).await?;
    /// let mut listener = vm.listen(5000)?;
    /// // A program in the guest dials context id 2, port 5000.
    /// let stream = listener.accept().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UvmError::Operation`]: the id stands for no port, a descriptor is none, or the device cannot be added; then nothing
    /// is allowed. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn update_hvsocket_service(
        &self,
        service: &HvSocketServiceId,
        config: &HvSocketServiceConfig,
    ) -> Result<(), UvmError> {
        self.change_sockets(Change::Update(service.clone(), config.clone())).await
    }

    /// Removes such a service, if it is there.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: the id stands for no port. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn remove_hvsocket_service(&self, service: &HvSocketServiceId) -> Result<(), UvmError> {
        self.change_sockets(Change::Forget(service.clone())).await
    }

    /// Adds a device for virtual sockets, if the VM has none; in a running one, returns once the guest's driver has taken it.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: the host refused, or the guest did not take it; it is taken out again. [`UvmError::Refused`],
    /// [`UvmError::Exited`].
    pub async fn add_virtual_sockets(&self) -> Result<(), UvmError> {
        self.change_sockets(Change::Add).await
    }

    /// Takes that device out of the running VM: its streams end in reset, its listeners in an error. Services stay, and
    /// hold for a device that is added later.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: the agent itself uses it, or the guest does not let go of it, in which case this can be
    /// called again. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn remove_virtual_sockets(&self) -> Result<(), UvmError> {
        self.change_sockets(Change::Remove).await
    }

    async fn change_sockets(&self, change: Change) -> Result<(), UvmError> {
        self.ask(|reply| Life::Sockets(change, reply)).await
    }

    /// Lets programs in the guest dial `port` of the host (context id 2) by a virtual socket, until what is returned is
    /// dropped. Ports nobody listens on are refused. Any program in the guest may dial: ask it who it is.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: no [service](Self::update_hvsocket_service) lets the guest dial it, the VM has no virtual
    /// sockets, or the port is taken.
    pub fn listen(&self, port: u32) -> Result<GuestListener, UvmError> {
        let intent = "listen for programs in";
        self.inner.vm.listen_socket(Port(port)).map_err(|source| UvmError::Operation {
            id: self.inner.id.clone(),
            intent,
            source,
        })
    }

    /// Dials a program in the guest that listens on `port` of a virtual socket. Waits at most
    /// [`stdio_dial`](Deadlines::stdio_dial). Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Operation`]: no [service](Self::update_hvsocket_service) lets the host dial it, the VM has no virtual
    /// sockets, nobody listens there, or the guest does not answer. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn dial(&self, port: u32) -> Result<GuestStream, UvmError> {
        let intent = "dial a program in";
        self.inner.admit(intent, Ask::Use)?;
        let (vm, limit) = (Arc::clone(&self.inner.vm), self.inner.deadlines.stdio_dial);
        let dialled = async move { on_host(&*vm, intent, limit, vm.dial_socket(Port(port))).await };
        let dialled = self.inner.run_while_wanted(dialled).await?;
        dialled.map_err(|source| UvmError::Operation { id: self.inner.id.clone(), intent, source })
    }
}
