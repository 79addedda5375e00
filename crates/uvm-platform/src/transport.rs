//! The seam under guest streams: what carries ports between host and guest.

use tokio::sync::watch;

use crate::BoxFuture;
use crate::error::PlatformError;
use crate::stream::{GuestListener, GuestStream, Port};

/// Whether a transport is up. Each time it comes up it is a new epoch: streams of an older one have ended in reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not yet up, or lost.
    Down {
        /// Why.
        why: String,
    },
    /// Both ends have shaken hands.
    Up {
        /// Counts from 1.
        epoch: u64,
    },
}

/// Carries streams between host and guest, by port, in both directions.
///
/// Every implementation gives each stream its own bounded window (a stalled one never blocks another), lets control
/// traffic overtake bulk, and tells reset from end of file ([`StreamIo`](crate::stream::StreamIo)).
pub trait GuestTransport: Send + Sync + 'static {
    /// Lets the guest dial `port`.
    ///
    /// # Errors
    /// The port is taken, or the transport is gone.
    fn listen(&self, port: Port) -> Result<GuestListener, PlatformError>;
    /// Dials `port` in the guest. Cancel-safe: a half-made stream is reset.
    fn dial(&self, port: Port) -> BoxFuture<'_, Result<GuestStream, PlatformError>>;
    /// Follows the link. The sender lives as long as the transport.
    fn link(&self) -> watch::Receiver<Link>;
    /// Waits until no stream is open and nothing is in flight, as a save of the VM's state needs it.
    fn quiesce(&self) -> BoxFuture<'_, Result<(), PlatformError>>;
    /// `true` if a saved and restored VM can go on using it.
    fn survives_save(&self) -> bool;
    /// `true` if the guest's memory must be shared with the owner.
    fn needs_shared_ram(&self) -> bool;
}
