//! What a Windows guest boots from: the layer with its system, and the disk it writes to.

use std::io;
use std::sync::Arc;

use uvm_platform::windows::WindowsBoot;
use uvm_platform::{PlatformError, UvmId};

use crate::document::WindowsImage;
use crate::host::{FileKind, HcsHost};
use crate::win_path::WinPath;

/// Finds the layer that holds a guest's system: the first one that does. Also the scratch folder is looked into.
pub(crate) async fn find_image(host: &dyn HcsHost, boot: &WindowsBoot) -> Result<WindowsImage, PlatformError> {
    if boot.layers.is_empty() {
        return Err(bad_layers("", "at least 2 LayerFolders must be supplied"));
    }
    let scratch = to_path(&boot.scratch)?;
    for layer in boot.layers.iter().chain([&boot.scratch]) {
        let layer = to_path(layer)?;
        let system = layer.join(WindowsImage::SYSTEM);
        let found = host.stat(&system).await.map_err(|e| PlatformError::host(format!("look at {system}"), e))?;
        if found.is_some_and(|found| found.kind == FileKind::Directory) {
            let scratch_disk = scratch.join(WindowsImage::SCRATCH_DISK);
            return Ok(WindowsImage { system_layer: layer, scratch_disk });
        }
    }
    let layers: Vec<_> = boot.layers.iter().map(|layer| layer.display().to_string()).collect();
    Err(bad_layers(&layers.join("; "), "none of them holds a UtilityVM"))
}

fn to_path(path: &std::path::Path) -> Result<WinPath, PlatformError> {
    WinPath::from_std(path).ok_or_else(|| bad_layers(&path.display().to_string(), "the path is not Unicode"))
}

fn bad_layers(value: &str, why: &str) -> PlatformError {
    PlatformError::BadInput { what: "layer folders", value: value.to_owned(), why: why.to_owned() }
}

/// The scratch disk of one VM, with what was made for it.
pub(crate) struct Scratch {
    host: Arc<dyn HcsHost>,
    vm: UvmId,
    disk: WinPath,
    /// In the order it was made.
    made: Vec<Made>,
}

/// Something that is undone when the VM does not come to be.
enum Made {
    Directory(WinPath),
    Disk,
    Grant,
}

impl Scratch {
    /// Makes what is missing of the scratch folder and its disk, and lets the VM open the disk. What was made before a
    /// failure is removed again.
    pub(crate) async fn prepare(
        host: Arc<dyn HcsHost>,
        vm: UvmId,
        image: &WindowsImage,
    ) -> Result<Self, PlatformError> {
        let mut scratch = Self { host, vm, disk: image.scratch_disk.clone(), made: Vec::new() };
        match scratch.make(image).await {
            Ok(()) => Ok(scratch),
            Err(error) => {
                scratch.undo().await;
                Err(error)
            }
        }
    }

    async fn make(&mut self, image: &WindowsImage) -> Result<(), PlatformError> {
        let (host, disk) = (Arc::clone(&self.host), self.disk.clone());
        let failed = |error: io::Error| PlatformError::host(format!("create scratch {disk}"), error);
        let mut missing = Vec::new();
        let mut next = disk.parent();
        while let Some(directory) = next {
            match host.stat(&directory).await.map_err(failed)? {
                Some(found) if found.kind == FileKind::Directory => break,
                Some(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
                None => {}
            }
            next = directory.parent();
            missing.push(directory);
        }
        for directory in missing.into_iter().rev() {
            host.create_directory(&directory).await.map_err(failed)?;
            self.made.push(Made::Directory(directory));
        }
        if host.stat(&disk).await.map_err(failed)?.is_none() {
            host.copy_new(&image.scratch_template(), &disk).await.map_err(failed)?;
            self.made.push(Made::Disk);
        }
        host.grant_vm(self.vm.as_str(), &disk)
            .await
            .map_err(|e| PlatformError::host(format!("grant VM {} access to its scratch", self.vm), e))?;
        self.made.push(Made::Grant);
        Ok(())
    }

    /// Takes the VM's access back when it is closed. What it wrote stays.
    pub(crate) async fn release(&self) {
        let revoked = self.host.revoke_vm(self.vm.as_str(), &self.disk).await;
        if let Err(error) = revoked {
            tracing::warn!(vm = %self.vm, disk = %self.disk, %error, "the VM's access to its scratch disk stays");
        }
    }

    /// Removes what was made, the last first: the VM did not come to be.
    pub(crate) async fn undo(self) {
        for made in self.made.iter().rev() {
            let undone = match made {
                Made::Grant => {
                    self.release().await;
                    continue;
                }
                Made::Disk => self.host.remove_file(&self.disk).await,
                Made::Directory(directory) => self.host.remove_directory(directory).await,
            };
            match undone {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(vm = %self.vm, disk = %self.disk, %error, "what was made for a scratch disk stays");
                }
                _ => {}
            }
        }
    }
}
