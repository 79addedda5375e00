//! The whole crate against a machine whose apt, packages and compiler are small fakes. No network, no root.

mod apt;
mod concurrency;
mod corruption;
mod ensure;
mod initramfs;
mod kernels;
mod machine;
mod storage;
mod trimmed;

#[path = "../support/builders.rs"]
mod builders;
