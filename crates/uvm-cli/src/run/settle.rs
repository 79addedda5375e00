//! When all that an ended process wrote has come, though others in the guest hold its output open.

use std::time::Duration;

/// How often it is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// After so many ticks in which nothing came, nothing of the process is on its way any more.
const QUIET_TICKS: u32 = 10;
/// Others may write for ever. What the process wrote comes within this many ticks of the caller waiting for it (10 s)...
const ALL_TICKS: u32 = 200;
/// ...or is among the next so many bytes: a pipe holds far less (64 KiB, where nobody asked for more).
const ALL_BYTES: u64 = 8 << 20;

/// One output after the end of its process. While bytes wait for the caller to take them, no time passes: it may be slow.
#[derive(Debug)]
pub(crate) struct Settling {
    began_at: u64,
    came: u64,
    quiet: u32,
    waited: u32,
}

impl Settling {
    /// Begins when `came` bytes have come.
    pub(crate) fn from(came: u64) -> Self {
        Self { began_at: came, came, quiet: 0, waited: 0 }
    }

    /// A tick has passed: by now `came` bytes have come, and some of them wait for the caller. Whether all of the process's
    /// own have.
    pub(crate) fn tick(&mut self, came: u64, waits: bool) -> bool {
        let is_quiet = came == self.came && !waits;
        self.quiet = if is_quiet { self.quiet + 1 } else { 0 };
        self.waited += u32::from(!waits);
        self.came = came;
        self.quiet >= QUIET_TICKS || self.waited >= ALL_TICKS || came - self.began_at > ALL_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tick at which it has settled.
    fn settles_at(ticks: impl IntoIterator<Item = (u64, bool)>) -> Option<usize> {
        let mut settling = Settling::from(100);
        ticks.into_iter().position(|(came, waits)| settling.tick(came, waits))
    }

    #[test]
    fn silence_settles_but_not_a_stalled_caller() {
        assert_eq!(settles_at([(100, false); 20]), Some(9));
        assert_eq!(settles_at(std::iter::repeat_n((100, true), 100_000)), None);
        let stalls = std::iter::repeat_n((200, true), 1000).chain([(200, false); 20]);
        assert_eq!(settles_at(stalls), Some(1009), "the silence begins after the stall");
    }

    #[test]
    fn what_moves_has_not_settled() {
        let slow = (0..190).map(|tick| (100 + tick * 1000, tick % 9 != 0));
        assert_eq!(settles_at(slow), None);
    }

    #[test]
    fn others_do_not_write_for_ever() {
        assert_eq!(settles_at((1..).map(|tick| (100 + tick, false))), Some(199), "a little each time");
        assert_eq!(
            settles_at((1..).map(|tick| (100 + (tick << 20), true))),
            Some(8),
            "faster than the caller takes it"
        );
    }
}
