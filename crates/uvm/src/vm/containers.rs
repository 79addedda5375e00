//! Containers of the VM: made here, or known from elsewhere.

use std::sync::Arc;

use uvm_platform::PlatformError;
use uvm_wire::negotiate::Capabilities;

use super::driver::exited;
use super::{Guest, Inner, UtilityVm};
use crate::container::{self, Container, ContainerOptions};
use crate::error::UvmError;

/// By whom containers and processes of the guest are reached.
pub(crate) enum Reach {
    /// By the connection that this library holds.
    Bridge(Guest),
    /// By the host's service, of a guest that can do this.
    Host(Arc<Capabilities>),
}

impl Inner {
    /// By whom the guest is reached: by this library's own connection where it holds one.
    pub(crate) fn reach(&self, intent: &'static str) -> Result<Reach, UvmError> {
        match (self.guest(intent), self.host_connection.get()) {
            (Err(UvmError::GuestUnsupported { .. }), Some(known)) if self.vm.hosted().is_ok() => {
                Ok(Reach::Host(Arc::clone(&known.capabilities)))
            }
            (guest, _) => guest.map(Reach::Bridge),
        }
    }

    /// The error of the host's service, unless it is that the VM has ended: then that is the error.
    pub(crate) fn host_unless_ended(
        &self,
        intent: &'static str,
        error: PlatformError,
    ) -> Result<PlatformError, UvmError> {
        let known = self.status.borrow().exit.clone();
        match (error, known) {
            // One that was closed has ended, too.
            (PlatformError::Ended { status, .. }, _) | (PlatformError::WrongState { .. }, Some(status)) => {
                Err(exited(&self.id, intent, status, &*self.vm))
            }
            (error, _) => Ok(error),
        }
    }
}

impl UtilityVm {
    /// Makes a container in the VM: its init process exists then, and waits for [`Container::start`]. Its root file system
    /// must be in the VM already.
    ///
    /// ```no_run
    /// # async fn example(vm: uvm::UtilityVm, config_json: &str) -> Result<(), uvm::UvmError> {
    /// use uvm::{ContainerOptions, ContainerStdio};
    ///
    /// let web = vm.create_container(&ContainerOptions::new("web", config_json)).await?;
    /// let init = web.start(ContainerStdio { stdout: true, ..ContainerStdio::default() }).await?;
    /// println!("{}", String::from_utf8_lossy(&init.output().await?.stdout));
    /// web.wait().await;
    /// web.delete_state().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`UvmError::Container`]; nothing of the container is left and its id is free again, but if the guest did not answer:
    /// then the container is undone, and its id free, once the guest does. [`UvmError::GuestUnsupported`]: nobody holds the
    /// guest connection. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn create_container(&self, options: &ContainerOptions) -> Result<Container, UvmError> {
        container::create(self, options).await
    }

    /// A handle of a container of this VM, whoever made it. The guest is not asked: whether it has such a container shows
    /// when something is asked of it, with an error of the kind [`NotFound`](crate::ErrorKind::NotFound).
    ///
    /// The handle hears of the container's end from now on. An end before is known only if the handle that made the
    /// container is still open; the guest does not tell it again, and [`Container::wait`] waits for the bridge's end then.
    /// Where the host's service holds the guest connection, there are handles of what this VM's handles made, and one that
    /// has ended is forgotten when nobody has a handle of it any more.
    ///
    /// # Errors
    /// [`UvmError::Container`]: no container can have this id. [`UvmError::Refused`], [`UvmError::Exited`].
    pub fn open_container(&self, id: &str) -> Result<Container, UvmError> {
        container::open(self, id)
    }
}
