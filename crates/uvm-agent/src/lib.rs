//! The guest agent of a utility VM: PID 1, at the other end of the bridge.
//!
//! It is a library so that tests can drive it without a VM; the program is three lines.
//!
//! | module | concept |
//! | --- | --- |
//! | [`init`], [`init_line`] | PID 1 from boot to power-off, and what the kernel's command line tells it |
//! | `boot`, [`modules`], `port`, `cpus`, `loopback` | mounts, modules, the serial port, processors, an interface |
//! | [`agent`] | the state that outlives connections |
//! | [`bridge`], `outbox` | a connection, and what is owed to the host |
//! | `transports` | the ports that carry connections, and those that show up later |
//! | `execute`, [`process`], `relay`, `relays` | starting processes, their table, their streams |
//! | `host_link`, [`log`], `kmsg` | entropy, clock and log |
//! | [`shutdown`], `stacks`, `other` | the end, a look inside, a program in the agent's place |
//! | `sys` | the system calls that need unsafe code |

#![cfg(target_os = "linux")]

pub mod agent;
mod boot;
pub mod bridge;
mod cpus;
mod execute;
mod host_link;
pub mod init;
pub mod init_line;
mod kmsg;
pub mod log;
mod loopback;
pub mod modules;
mod other;
mod outbox;
mod port;
pub mod process;
mod relay;
mod relays;
pub mod shutdown;
mod stacks;
mod sys;
#[cfg(test)]
mod test_link;
mod transports;
mod words;
