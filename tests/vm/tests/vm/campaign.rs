//! Long campaigns and their short forms: `cargo xtask soak NAME` sets `UVM_SOAK`, a normal test run does not.

use std::io::Write;

/// How long a VM takes from creation to closing, roughly, in milliseconds: the range of random moments.
pub(crate) const BOOT_MS: u64 = 8_000;

/// `full` rounds in a campaign, `short` in a normal test run.
pub(crate) fn rounds(short: u32, full: u32) -> u32 {
    match std::env::var("UVM_SOAK") {
        Ok(number) => number.parse().unwrap_or(full),
        Err(_) => short,
    }
}

/// Says something in a campaign's log.
pub(crate) fn note(text: &str) {
    if std::env::var_os("UVM_SOAK").is_some() {
        // Past the test harness, which would keep it until the end.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// Random numbers that a campaign can repeat: the seed is `UVM_SEED`, or 1.
pub(crate) struct Random(u64);

impl Random {
    /// Another sequence for each `name`.
    pub(crate) fn seeded(name: &str) -> Self {
        let seed: u64 = std::env::var("UVM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        note(&format!("{name}: seed {seed}"));
        let mixed = name.bytes().fold(seed, |state, byte| state.wrapping_mul(31).wrapping_add(byte.into()));
        Self(mixed | 1)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit.max(1)
    }
}
