//! Why something cannot be plugged into a VM, or not unplugged.

use std::sync::Arc;

use uvm_platform::{LastWords, PlatformError};

use crate::bridge::BridgeError;

/// Why something cannot be plugged into a VM, unplugged, or found. Whoever waited for the same gets a clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// The VM has no SCSI controller. Nothing was changed.
    #[error("no SCSI controllers configured for this utility VM")]
    NoScsiControllers,
    /// The VM has no port that PCI devices are plugged into. Nothing was changed.
    #[error("no PCI ports configured for this utility VM")]
    NoPciPorts,
    /// All places for such a thing are taken. Nothing was changed.
    #[error("no available location: all {count} {what} are taken")]
    NoAvailableLocation {
        /// What there is no more of.
        what: &'static str,
        /// How many there are.
        count: usize,
    },
    /// The layer is larger than the VM's memory-backed devices. Nothing was changed.
    #[error("layer of {bytes} bytes: the VM's memory-backed devices take at most {max}")]
    LayerTooLarge {
        /// Its size, in whole pages.
        bytes: u64,
        /// The largest that fits.
        max: u64,
    },
    /// It is not there, or not any more.
    #[error("not attached")]
    NotAttached,
    /// It is there, but not as it was asked for now. Nothing was changed.
    #[error("already attached otherwise: {how}")]
    AttachedOtherwise {
        /// How it is attached, and how it was asked for.
        how: String,
    },
    /// The network namespace was added before. Nothing was changed.
    #[error("network namespace already added")]
    NamespaceAlreadyAdded,
    /// The network namespace was not added to the VM. Nothing was changed.
    #[error("network namespace not found")]
    NamespaceNotFound,
    /// Adapters are in the network namespace, or on their way. It is still there.
    #[error("network namespace in use by {adapters} adapters")]
    NamespaceInUse {
        /// How many.
        adapters: usize,
    },
    /// The host has no such thing, which the guest has to be told of. Nothing was changed.
    #[error("the host has no such {what}")]
    NotOnHost {
        /// What it does not have.
        what: &'static str,
    },
    /// The VM needs it. Nothing was changed.
    #[error("the VM needs it: {why}")]
    Pinned {
        /// What for.
        why: &'static str,
    },
    /// Guests of this system have no such thing. Nothing was changed.
    #[error("not supported: {what} of a {os} guest")]
    NotForThisGuest {
        /// What was asked for.
        what: &'static str,
        /// The guest's system.
        os: &'static str,
    },
    /// The agent in the guest has no such thing, as one of the original has not. Nothing was changed.
    #[error("not supported by the agent in the guest: {what}")]
    NotForThisAgent {
        /// What was asked for.
        what: &'static str,
    },
    /// Something given cannot be used. Nothing was changed.
    #[error("{what} {value:?}: {allowed}")]
    BadInput {
        /// What it is.
        what: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The guest has to be told, and nobody holds the connection to it. Nothing was changed.
    #[error("nobody holds the connection to the guest, which has to be told")]
    NoGuestConnection,
    /// The host refused or failed.
    #[error("it failed on the host")]
    Host(#[source] PlatformError),
    /// The guest refused or failed. What the host had done was undone.
    #[error("it failed in the guest")]
    Guest(#[source] Arc<BridgeError>),
    /// The guest did not answer. What the host had done was undone, unless the host did not answer that, either: then it is
    /// left half attached, which is undone when something is added the next time.
    #[error("the guest did not answer{last_words}")]
    Silent {
        /// What the VM said and did meanwhile.
        last_words: Arc<LastWords>,
        /// Which request, and how long that was waited for.
        source: Arc<BridgeError>,
    },
    /// It could not be undone or unplugged before: it is of no use, and can only be released, by its handle or its path. What
    /// no handle has is tried to be removed whenever something is added; it was, and failed again.
    #[error("left half attached by what went wrong before; it can only be released")]
    Broken {
        /// What went wrong.
        #[source]
        why: Arc<ResourceError>,
    },
}
