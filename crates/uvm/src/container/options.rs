//! What a container is made of, and what of it is checked before the guest is asked.

use serde_json::{Map, Value};
use uvm_wire::create::ContainerConfig;
use uvm_wire::{JsonError, RawJson};

use crate::error::ContainerError;

/// A container to make in the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerOptions {
    /// Its id: 1 to 255 of `A-Z a-z 0-9 _ + . -`, but not `.`, `..` or the GUID of zeros.
    pub id: String,
    /// An OCI runtime specification as JSON, with at least `process`, `root` and `linux`. It is passed on as it is.
    pub specification: String,
    /// The directory in the guest that its bundle is written to. Default: `/run/gcs/c/` and the id.
    pub bundle_path: Option<String>,
    /// A directory in the guest that is its own, removed with its state: agents since May 2022 do that, older ones do not
    /// look at it. Default: none.
    pub scratch_dir: Option<String>,
}

impl ContainerOptions {
    /// A container with this id, made by this OCI runtime specification.
    pub fn new(id: impl Into<String>, specification: impl Into<String>) -> Self {
        Self { id: id.into(), specification: specification.into(), bundle_path: None, scratch_dir: None }
    }

    /// With its bundle there.
    #[must_use]
    pub fn with_bundle_path(self, path: impl Into<String>) -> Self {
        Self { bundle_path: Some(path.into()), ..self }
    }

    /// With this directory of its own.
    #[must_use]
    pub fn with_scratch_dir(self, path: impl Into<String>) -> Self {
        Self { scratch_dir: Some(path.into()), ..self }
    }

    /// As the guest gets it.
    pub(super) fn config(&self) -> Result<ContainerConfig, ContainerError> {
        let (specification, keys) = object("specification", &self.specification)?;
        // Agents of the original end without a word where one of these is missing, and the VM ends with them.
        if let Some(missing) =
            ["process", "root", "linux"].into_iter().find(|key| !keys.get(*key).is_some_and(Value::is_object))
        {
            return Err(ContainerError::Incomplete { missing });
        }
        let bundle_path = self.bundle_path.clone().unwrap_or_else(|| format!("/run/gcs/c/{}", self.id));
        Ok(ContainerConfig {
            scratch_dir_path: self.scratch_dir.clone().unwrap_or_default(),
            ..ContainerConfig::linux(bundle_path, specification)
        })
    }
}

/// Checks that a document is a JSON object; gives it as it is, and what is in it.
pub(super) fn object(what: &'static str, text: &str) -> Result<(RawJson, Map<String, Value>), ContainerError> {
    let failed = |source| ContainerError::Document { what, source };
    // This bounds how deep it nests, too.
    let document = RawJson::parse(text).map_err(failed)?;
    let keys = serde_json::from_str(document.get()).map_err(|e| failed(JsonError::from(e)))?;
    Ok((document, keys))
}
