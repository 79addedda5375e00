//! What a connection keeps of one stream.

use std::task::Waker;

use super::block::Block;
use super::flow::Part;
use super::queue::ReceiveQueue;
use crate::config::Priority;
use crate::error::StreamError;
use crate::frame::ResetReason;

/// One direction towards the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// No more will be written; what is pending goes first, then FIN.
    Finishing,
    /// FIN was sent.
    Finished,
}

/// Where a stream is in its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// Dialled here, not yet answered.
    Dialled,
    /// Dialled there, in a listener's backlog.
    Waiting,
    /// Accepted by either end.
    Done,
}

/// Frames without data that wait to be sent for a stream, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) open: bool,
    pub(super) accept: bool,
    /// Bytes to give; 0 for none.
    pub(super) credit: u32,
    pub(super) fin: bool,
    pub(super) reset: Option<ResetReason>,
}

impl Due {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; each combination occurs")]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) port: u32,
    pub(super) handshake: Handshake,
    pub(super) priority: Priority,
    /// A handle exists.
    pub(super) held: bool,
    /// Why it was cut, if it was. Its id is then dead on the wire.
    pub(super) cut: Option<StreamError>,

    pub(super) sending: Sending,
    /// Bytes that may still be written.
    pub(super) credit: u32,
    /// The next DATA frame, room for its header included.
    pub(super) pending: Option<Block>,
    pub(super) due: Due,
    /// The last DATA frame was a full one: it carries bulk.
    pub(super) sent_full: bool,
    /// The handle went while data or FIN were still to be sent: a reset follows FIN, if the other end still sends then.
    pub(super) reset_after_fin: bool,

    /// FIN was received.
    pub(super) received_fin: bool,
    /// Nobody will read: bytes are dropped as they come.
    pub(super) discard: bool,
    pub(super) queue: ReceiveQueue,
    /// What the other end may send, and what was received and not given back, together.
    pub(super) window: u32,
    /// Bytes the other end may still send.
    pub(super) allowance: u32,
    pub(super) part: Part,
    /// Bytes read and not yet given back.
    pub(super) unreturned: u32,

    /// It stands in the queue of streams with frames due.
    pub(super) in_control: bool,
    /// It stands in a queue of streams with data pending.
    pub(super) in_ready: bool,

    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Stream {
    pub(super) fn new(id: u32, port: u32, handshake: Handshake, credit: u32, window: u32) -> Self {
        Self {
            id,
            port,
            handshake,
            priority: Priority::default(),
            held: false,
            cut: None,
            sending: Sending::Open,
            credit,
            pending: None,
            due: Due::default(),
            sent_full: false,
            reset_after_fin: false,
            received_fin: false,
            discard: false,
            queue: ReceiveQueue::default(),
            window,
            allowance: window,
            part: Part::default(),
            unreturned: 0,
            in_control: false,
            in_ready: false,
            reader: None,
            writer: None,
        }
    }

    /// Nothing remains to be done for it.
    pub(super) fn is_done(&self) -> bool {
        let silent = self.cut.is_some() || (self.sending == Sending::Finished && self.received_fin);
        !self.held && silent && self.pending.is_none() && self.due.is_empty() && !self.in_control && !self.in_ready
    }
}
