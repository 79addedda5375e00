//! The guest's first (and only) root file system.

mod contents;
mod cpio;
mod tree;

pub use contents::ExtraFile;
pub use cpio::CpioError;

pub(crate) use contents::GuestRoot;
pub(crate) use cpio::write;
pub(crate) use tree::Tree;
