//! Named pipes of the host, to be reached from the guest.

use std::path::{Path, PathBuf};

use uvm_platform::requests::{Device, MappedPipe};

use super::{Held, Key, Plan, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

pub(super) fn plan(path: &Path) -> Plan {
    let device = Device::Pipe(MappedPipe { path: path.to_owned() });
    Plan { device: Some(device), ..Plan::default() }
}

/// A named pipe that the guest can reach. Dropping it gives it back in the background; the last one removes it.
#[derive(Debug)]
pub struct PipeMount {
    held: Held,
    host_path: PathBuf,
}

impl PipeMount {
    /// The pipe.
    pub fn host_path(&self) -> &Path {
        &self.host_path
    }

    /// Gives it back; the last one removes it. Cancel-safe: it goes on.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the host did not let go; this can be called again.
    pub async fn release(&self) -> Result<(), UvmError> {
        self.held.release().await
    }
}

impl UtilityVm {
    /// Lets the guest reach a named pipe of the host, or shares that. Cancel-safe.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: the host refused, and nothing is left. [`UvmError::Refused`], [`UvmError::Exited`].
    pub async fn add_pipe(&self, host_path: impl Into<PathBuf>) -> Result<PipeMount, UvmError> {
        let host_path = host_path.into();
        let held = self.attach(format!("pipe {}", host_path.display()), Wanted::Pipe(host_path.clone())).await?;
        Ok(PipeMount { held, host_path })
    }

    /// Gives one count of the pipe back, whoever has it; the last one removes it.
    ///
    /// # Errors
    /// [`UvmError::Resource`]: not attached, or as [`PipeMount::release`].
    pub async fn remove_pipe(&self, host_path: impl AsRef<Path>) -> Result<(), UvmError> {
        let host_path = host_path.as_ref();
        self.detach(format!("pipe {}", host_path.display()), Key::Pipe(self.path_key(host_path))).await
    }
}
