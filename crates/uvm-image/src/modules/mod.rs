//! Kernel modules: what they need, which are chosen, and the index the agent loads them by.

mod catalog;
mod groups;
pub mod index;
mod modinfo;

pub(crate) use catalog::{Catalog, Selection};
pub use groups::{GROUPS, Group, Need};
pub use modinfo::{ModInfo, ModuleError, ModuleName};
