//! The longest waits, one per kind of operation.

use std::time::Duration;

use crate::vm::Accelerator;

/// The longest waits of one VM, one per kind of operation. An expired one fails its own operation only.
///
/// Plain data with public fields: change what you need after [`Deadlines::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlines {
    /// One call to the host: a QMP command, an HCS operation, and all steps of a change of a VM together; of a virtio-fs share,
    /// whose process may have to be ended first, those of each stage. Default: 10 s.
    pub host_call: Duration,
    /// One request to the guest agent, from sent to answered. Default: 30 s; under TCG times [`Self::TCG_FACTOR`].
    pub rpc: Duration,
    /// From a process's start to the last of its standard streams being dialled. Default: 10 s; under TCG times
    /// [`Self::TCG_FACTOR`].
    pub stdio_dial: Duration,
    /// All of start: spawn, boot, entropy, log, bridge, negotiation. Default: 120 s.
    pub start: Duration,
    /// An orderly shutdown, from request to exit. Default: 30 s.
    pub shutdown: Duration,
    /// Terminate, from request to exit. Default: 5 s.
    pub terminate: Duration,
    /// All of close: terminate, wait, remove what the VM left. Default: 15 s.
    pub close: Duration,
}

impl Deadlines {
    /// How much longer a guest may take when its instructions are emulated.
    pub const TCG_FACTOR: u32 = 4;

    /// These deadlines as they hold on `accelerator`: what waits for guest code scales, what waits for the host does not.
    #[must_use]
    pub fn on(self, accelerator: Accelerator) -> Self {
        match accelerator {
            Accelerator::Tcg => Self {
                rpc: self.rpc.saturating_mul(Self::TCG_FACTOR),
                stdio_dial: self.stdio_dial.saturating_mul(Self::TCG_FACTOR),
                ..self
            },
            Accelerator::Kvm | Accelerator::HyperV | Accelerator::None => self,
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            host_call: Duration::from_secs(10),
            rpc: Duration::from_secs(30),
            stdio_dial: Duration::from_secs(10),
            start: Duration::from_secs(120),
            shutdown: Duration::from_secs(30),
            terminate: Duration::from_secs(5),
            close: Duration::from_secs(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_waits_for_guest_code_scales_under_emulation() {
        let base = Deadlines::default();
        let tcg = base.on(Accelerator::Tcg);
        assert_eq!((tcg.rpc, tcg.stdio_dial), (base.rpc * 4, base.stdio_dial * 4));
        assert_eq!(Deadlines { rpc: base.rpc, stdio_dial: base.stdio_dial, ..tcg }, base);
        assert_eq!(base.on(Accelerator::Kvm), base);
    }
}
