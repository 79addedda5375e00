//! What may happen.

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Dial {
        end: usize,
        port: u32,
    },
    Accept {
        end: usize,
        port: u32,
    },
    Relisten {
        end: usize,
        port: u32,
    },
    Write {
        end: usize,
        stream: usize,
        len: usize,
    },
    Fill {
        end: usize,
        stream: usize,
        len: usize,
    },
    Read {
        end: usize,
        stream: usize,
        len: usize,
    },
    Drain {
        end: usize,
        stream: usize,
        len: usize,
    },
    Shutdown {
        end: usize,
        stream: usize,
    },
    Reset {
        end: usize,
        stream: usize,
    },
    Release {
        end: usize,
        stream: usize,
    },
    Discard {
        end: usize,
        stream: usize,
    },
    Prioritise {
        end: usize,
        stream: usize,
    },
    Transmit {
        end: usize,
        len: usize,
    },
    Deliver {
        end: usize,
        len: usize,
    },
    /// Bulk on one stream, with all of it carried and read, so that windows grow.
    Pump {
        end: usize,
        stream: usize,
        rounds: usize,
    },
    /// The owner's end closes; another takes its place.
    NewOwner,
    /// The VM is saved and restored under another owner. Bytes on the channel are lost from where it was cut.
    Restore {
        kept: usize,
    },
}

/// An action from 64 random bits: cheaper to draw, and to shrink, than a strategy of strategies.
pub(super) fn action(bits: u64) -> Action {
    let field = |shift: u32, values: u64| (bits >> shift & 0xffff) % values;
    let end = field(0, 2) as usize;
    let stream = field(8, 8) as usize;
    let port = field(16, 3) as u32 + 1;
    let listened = field(16, 2) as u32 + 1;
    let len = if field(1, 2) == 0 { field(32, 64) + 1 } else { field(32, 9000) + 1 } as usize;
    match field(48, 90) {
        0..6 => Action::Dial { end, port },
        6..12 => Action::Accept { end, port: listened },
        12 => Action::Relisten { end, port: listened },
        13..25 => Action::Write { end, stream, len },
        25..29 => Action::Fill { end, stream, len },
        29..41 => Action::Read { end, stream, len },
        41..45 => Action::Drain { end, stream, len },
        45..49 => Action::Shutdown { end, stream },
        49 => Action::Reset { end, stream },
        50..53 => Action::Release { end, stream },
        53 => Action::Discard { end, stream },
        54 => Action::Prioritise { end, stream },
        55..67 => Action::Transmit { end, len },
        67..79 => Action::Deliver { end, len },
        79..82 => Action::Pump { end, stream, rounds: field(32, 40) as usize + 1 },
        82 if field(40, 3) == 0 => Action::NewOwner,
        83 if field(40, 3) == 0 => Action::Restore { kept: field(32, 40_000) as usize },
        _ => Action::Deliver { end, len: usize::MAX },
    }
}
