//! What the host's and the guest's program of the benchmark agree on.
//!
//! The guest has two virtio-serial ports. On [`PLAIN_PORT`] it obeys one [`Command`] after the other with blocking
//! reads and writes: the yardstick. On [`MUX_PORT`] it runs a mux and serves the ports of [`port`].

/// Name of the plain port.
pub const PLAIN_PORT: &str = "bench.plain";
/// Name of the port that carries the mux.
pub const MUX_PORT: &str = "uvm.mux";
/// Bytes of a message whose round trip is measured.
pub const MESSAGE: usize = 64;
/// Bytes of a bulk write: what the guest's kernel takes at once.
pub const CHUNK: usize = 32 * 1024;

/// Ports of the mux in the guest.
pub mod port {
    /// Sends back what it reads.
    pub const ECHO: u32 = 1;
    /// Reads to the end of file, then sends one byte.
    pub const SINK: u32 = 2;
    /// Reads a number of 8 bytes, little endian, and sends that many bytes.
    pub const SOURCE: u32 = 3;
    /// The same, but through a pipe, as a process's output goes.
    pub const PIPE_SOURCE: u32 = 4;
}

/// What the guest does on the plain port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sends back that many messages.
    Echo(u64),
    /// Reads that many bytes, then sends one.
    Sink(u64),
    /// Sends that many bytes.
    Source(u64),
    /// Powers off.
    Quit,
}

/// Length of a [`Command`] on the port.
pub const COMMAND_LEN: usize = 9;

impl Command {
    /// The bytes of it.
    #[must_use]
    pub fn encode(self) -> [u8; COMMAND_LEN] {
        let (kind, n) = match self {
            Self::Echo(n) => (b'e', n),
            Self::Sink(n) => (b's', n),
            Self::Source(n) => (b'o', n),
            Self::Quit => (b'q', 0),
        };
        let mut bytes = [kind; COMMAND_LEN];
        bytes[1..].copy_from_slice(&n.to_le_bytes());
        bytes
    }

    /// Reads it back; `None` if it is none.
    pub fn decode([kind, n @ ..]: [u8; COMMAND_LEN]) -> Option<Self> {
        let n = u64::from_le_bytes(n);
        Some(match kind {
            b'e' => Self::Echo(n),
            b's' => Self::Sink(n),
            b'o' => Self::Source(n),
            b'q' => Self::Quit,
            _ => return None,
        })
    }
}
