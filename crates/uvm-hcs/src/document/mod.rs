//! From typed values to the documents of the Host Compute Service, and from its answers to typed values.
//!
//! Everything here is pure, and the same on every system: the build of the host is handed in.
//!
//! | module | concept |
//! | --- | --- |
//! | [`create_lcow`], [`create_wcow`], [`create_container`] | what a system is created from |
//! | [`devices`] | what a creation document plugs in, also by what was merged into it |
//! | [`modify`](mod@modify) | changes of a running VM: the host's half |
//! | [`path`] | what a change names |
//! | [`process`] | what a process is asked, and answers |
//! | [`query`] | properties of a system, of the host |
//! | [`network`] | what the network service is asked, and answers |
//! | [`result`](mod@result) | how a call to the service fails |

mod container;
mod error;
mod kernel_line;
mod lcow;
mod merge;
mod schema;
mod shared;
mod wcow;

pub mod devices;
pub mod modify;
pub mod network;
pub mod path;
pub mod process;
pub mod query;
pub mod result;

use serde::{Deserialize, Serialize};

pub use container::create_container;
pub use devices::DocumentDevices;
pub use error::DocumentError;
pub use lcow::create_lcow;
pub use wcow::{WindowsImage, create_wcow};

use crate::windows_build::WindowsBuild;

/// What a system is created from: JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemDocument {
    text: String,
}

impl SystemDocument {
    /// Merges `addition` over the document.
    fn of(system: &schema::ComputeSystem<'_>, addition: Option<&str>) -> Result<Self, DocumentError> {
        let text = to_text(system);
        // An empty text is none, as in the original's options.
        let Some(addition) = addition.filter(|addition| !addition.is_empty()) else { return Ok(Self { text }) };
        merge::merge(&text, addition)
            .map(|text| Self { text })
            .map_err(|source| DocumentError::Addition { text: addition.to_owned(), source })
    }

    /// The JSON.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the system ends when it is closed: so it is, unless what was merged says otherwise.
    pub fn ends_when_closed(&self) -> bool {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Told {
            #[serde(rename = "ShouldTerminateOnLastHandleClosed")]
            ends: bool,
        }
        // What was merged may be of another type.
        serde_json::from_str(&self.text).unwrap_or(Told::default()).ends
    }

    /// What the document plugs in, also by what was merged into it.
    pub fn devices(&self) -> DocumentDevices {
        DocumentDevices::read(&self.text)
    }
}

/// Whether a VM can be created in a CPU group; on older builds it joins one right after its start.
pub fn creates_in_cpu_group(build: WindowsBuild) -> bool {
    build >= WindowsBuild::V21H1
}

/// The JSON of a value.
fn to_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("only maps with keys that are no text can fail, and the schema has none")
}
