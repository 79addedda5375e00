//! The guest agent of a utility VM: PID 1, at the other end of the bridge.
//!
//! It is a library so that tests can drive it without a VM; the program is three lines.
//!
//! | module | concept |
//! | --- | --- |
//! | [`init`], [`init_line`], [`flags`] | PID 1 from boot to power-off, and what the kernel's command line tells it |
//! | [`gcs`], [`vsockexec`], [`enter`] | the same program under the init of others, what connects standard streams there, and what makes a directory a root |
//! | `boot`, [`modules`], `port`, `cpus`, `loopback`, `settings` | mounts, modules, the serial port, processors, an interface |
//! | [`link`], `carrier` | streams to the host, and what carries them |
//! | [`agent`] | the state that outlives connections |
//! | [`bridge`], `outbox`, `not_yet` | a connection, what is owed to the host, and what is refused until it can be done |
//! | `transports` | the serial ports that carry connections, and those that show up later |
//! | `storage` | disks, devices, directories and sockets of the host: found, mounted, let go of |
//! | `execute`, [`process`], `relay`, `relays` | starting processes, their table, their streams |
//! | `host_link`, [`log`], `log_out`, `kmsg`, `standard_streams` | entropy, clock, log, and where it goes |
//! | `runtime`, [`shutdown`], `stacks`, `other` | the end, which waits for no thread, a look inside, a program in the agent's place |
//! | `sys` | the system calls that need unsafe code |

#![cfg(target_os = "linux")]

pub mod agent;
mod boot;
pub mod bridge;
mod carrier;
mod cpus;
pub mod enter;
mod execute;
mod failure;
pub mod flags;
pub mod gcs;
mod host_link;
pub mod init;
pub mod init_line;
mod kmsg;
pub mod link;
pub mod log;
mod log_out;
mod loopback;
pub mod modules;
mod not_yet;
mod other;
mod outbox;
mod port;
pub mod process;
mod relay;
mod relays;
mod runtime;
mod settings;
pub mod shutdown;
mod stacks;
mod standard_streams;
mod storage;
mod sys;
#[cfg(test)]
mod test_link;
mod transports;
pub mod vsockexec;
mod words;
