//! A host of utility VMs on Windows: the Host Compute Service.
//!
//! | module | concept |
//! | --- | --- |
//! | [`win_path`] | paths of a Windows host, on every system |

pub mod win_path;

pub use win_path::WinPath;
