//! Named pipes of the host, to be reached from the guest.

use std::path::{Path, PathBuf};

use uvm_platform::requests::{Device, MappedPipe};

use super::vsmb::GUEST_PREFIX;
use super::{Held, Key, Plan, Wanted};
use crate::error::UvmError;
use crate::vm::UtilityVm;

pub(super) fn plan(path: &Path) -> Plan {
    let device = Device::Pipe(MappedPipe { path: path.to_owned() });
    Plan { device: Some(device), ..Plan::default() }
}

/// Whether this is the path of a named pipe of the host itself. Letter case counts, and a name is not needed.
///
/// ```
/// assert!(uvm::is_pipe(r"\\.\pipe\docker_engine"));
/// assert!(!uvm::is_pipe(r"C:\pipe\docker_engine"));
/// ```
pub fn is_pipe(path: &str) -> bool {
    path.starts_with(PIPE_PREFIX)
}

/// How a named pipe of the host is mounted into a Windows container.
///
/// ```
/// use uvm::ContainerPipeMapping;
///
/// let (source, destination) = (r"\\.\pipe\docker_engine", r"\\.\pipe\engine");
/// let mapping = ContainerPipeMapping::on_host(source, destination);
/// assert_eq!((mapping.host_path.as_str(), mapping.container_name.as_str()), (source, "engine"));
/// let mapping = ContainerPipeMapping::in_vm(source, destination);
/// assert_eq!(mapping.host_path, r"\\?\VMSMB\VSMB-{dcc079ae-60ba-4d07-847c-3493609c0870}\IPC$\docker_engine");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPipeMapping {
    /// The pipe, as whoever runs the container reaches it: the host, or the guest of a utility VM.
    pub host_path: String,
    /// The name it has in the container, without what the path of every pipe begins with.
    pub container_name: String,
}

impl ContainerPipeMapping {
    /// The pipe at `source` as `destination` of a container that runs on the host itself.
    pub fn on_host(source: &str, destination: &str) -> Self {
        Self { host_path: source.to_owned(), container_name: pipe_name(destination).to_owned() }
    }

    /// The pipe at `source` of the host as `destination` of a container in a utility VM, which must have been given the
    /// pipe by [`UtilityVm::add_pipe`].
    pub fn in_vm(source: &str, destination: &str) -> Self {
        let host_path = format!(r"{GUEST_PREFIX}IPC$\{}", pipe_name(source));
        Self { host_path, container_name: pipe_name(destination).to_owned() }
    }
}

fn pipe_name(path: &str) -> &str {
    path.strip_prefix(PIPE_PREFIX).unwrap_or(path)
}

const PIPE_PREFIX: &str = r"\\.\pipe\";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_told_by_what_its_path_begins_with() {
        for (path, expected) in [
            (r"\\.\pipe\x", true),
            (r"\\.\pipe\", true),
            (r"\\.\PIPE\x", false),
            (r"\\.\pipe", false),
            (r"//./pipe/x", false),
            (r"C:\\.\pipe\x", false),
            ("", false),
        ] {
            assert_eq!(is_pipe(path), expected, "{path}");
        }
    }

    #[test]
    fn a_path_that_is_no_pipe_is_taken_for_the_name_of_one() {
        let mapping = ContainerPipeMapping::in_vm(r"a\b", "c");
        assert_eq!(mapping.host_path, format!(r"{GUEST_PREFIX}IPC$\a\b"));
        assert_eq!(mapping.container_name, "c");
        assert_eq!(ContainerPipeMapping::on_host("a", r"\\.\pipe\").container_name, "");
    }
}
