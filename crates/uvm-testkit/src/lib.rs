//! What the tests of utility VMs share. Never a normal dependency.
//!
//! | module | concept |
//! | --- | --- |
//! | [`vm`] | a real VM that is checked for leaks when it is closed |
//! | [`leak`] | what a VM may not leave on the host |
//! | [`slot`] | how many VMs tests run at the same time |
//! | [`replay`] | runs cases recorded from the original, and compares |
//! | [`conformance`] | what holds on every host, as one list of cases |
//! | [`memory`], [`guest_end`] | hosts in memory, and the guest's end of their VMs |
//! | [`guest`] | a scripted guest at the other end of a real bridge, for hosts without VMs |

pub mod conformance;
pub mod guest;
pub mod guest_end;
#[cfg(target_os = "linux")]
pub mod leak;
pub mod memory;
pub mod replay;
#[cfg(target_os = "linux")]
pub mod slot;
#[cfg(target_os = "linux")]
pub mod vm;
#[cfg(target_os = "linux")]
mod watchdog;

#[cfg(target_os = "linux")]
pub use vm::TestVm;

/// What a test function returns: any error fails it.
pub type TestResult<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
