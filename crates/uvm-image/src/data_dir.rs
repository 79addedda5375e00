//! The directory that holds everything made for one user.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::ImageError;

/// Where uvm keeps what it makes for this user. The same rule holds for root.
///
/// ```text
/// agent/uvm-agent     an agent put there by an installer
/// boot/<key>/         boot files: vmlinux or kernel, initrd.img, manifest.json
/// kernels/<name>/     unpacked or built kernels with the modules we use
/// busybox/<name>/     the guest's tools
/// downloads/          packages as downloaded
/// apt/                private package lists, where the machine has none
/// build/<name>/       a kernel build that is not finished
/// locks/, tmp/        who builds what; what is being built
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// `$UVM_DATA_DIR`, else `$XDG_DATA_HOME/uvm`, else `$HOME/.local/share/uvm`. Nothing is created.
    ///
    /// # Errors
    /// [`ImageError::NoDataDir`] if none of them is set to an absolute path.
    pub fn from_env() -> Result<Self, ImageError> {
        Self::resolve(|name| std::env::var_os(name))
    }

    /// The data directory at `path`; a relative one is taken from the current directory. Nothing is created.
    ///
    /// # Errors
    /// [`ImageError::NoDataDir`] for an empty path.
    pub fn at(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        std::path::absolute(path).map(Self).map_err(|_| ImageError::NoDataDir)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where finished boot files are.
    pub fn boot(&self) -> PathBuf {
        self.0.join("boot")
    }

    /// Where kernels are.
    pub fn kernels(&self) -> PathBuf {
        self.0.join("kernels")
    }

    /// Where downloaded packages are.
    pub fn downloads(&self) -> PathBuf {
        self.0.join("downloads")
    }

    /// Where an installer puts the agent.
    pub fn agent(&self) -> PathBuf {
        self.0.join("agent").join("uvm-agent")
    }

    pub(crate) fn busybox(&self) -> PathBuf {
        self.0.join("busybox")
    }

    pub(crate) fn apt(&self) -> PathBuf {
        self.0.join("apt")
    }

    pub(crate) fn build(&self) -> PathBuf {
        self.0.join("build")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.0.join("locks")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// The rule, over any environment. A relative `XDG_DATA_HOME` or `HOME` counts as unset, as the XDG base
    /// directory specification has it; a relative `UVM_DATA_DIR` was typed by someone and is taken from the current
    /// directory.
    fn resolve(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ImageError> {
        if let Some(path) = variable("UVM_DATA_DIR").filter(|path| !path.is_empty()) {
            return Self::at(path);
        }
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_DATA_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
            .map(|share| Self(share.join("uvm")))
            .ok_or(ImageError::NoDataDir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(variables: &[(&str, &str)]) -> Option<String> {
        let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        DataDir::resolve(lookup).ok().map(|dir| dir.path().display().to_string())
    }

    #[test]
    fn the_first_variable_that_holds_a_path_wins() {
        let all = [("UVM_DATA_DIR", "/u"), ("XDG_DATA_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(resolve(&all).as_deref(), Some("/u"));
        assert_eq!(resolve(&all[1..]).as_deref(), Some("/x/uvm"));
        assert_eq!(resolve(&all[2..]).as_deref(), Some("/h/.local/share/uvm"));
    }

    #[test]
    fn empty_and_relative_values_do_not_count() {
        assert_eq!(resolve(&[]), None);
        assert_eq!(resolve(&[("HOME", ""), ("XDG_DATA_HOME", "x"), ("UVM_DATA_DIR", "")]), None);
        assert_eq!(resolve(&[("XDG_DATA_HOME", "x"), ("HOME", "/h")]).as_deref(), Some("/h/.local/share/uvm"));
        let here = std::env::current_dir().unwrap().join("d").display().to_string();
        assert_eq!(resolve(&[("UVM_DATA_DIR", "d")]), Some(here));
    }
}
