//! How far the guest's end of each stream is, in a file of the guest, so that it is known also when the program was killed.

/// How one direction of a stream stands at the guest's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It goes on, or went on when the program was killed.
    Going,
    /// All was sent and the end of it said, or the end of file was read.
    Ended,
    /// The kernel gave this error.
    Failed(u32),
    /// What came is not what was to come.
    Wrong,
}

/// One direction of a stream: the bytes the kernel took or gave, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    /// Bytes that the kernel took from the program, or that came and were as they should be.
    pub bytes: u64,
    /// How it stands.
    pub stage: Stage,
}

/// Bytes of a [`Half`] in the file.
pub const HALF: usize = 16;

impl Half {
    /// The bytes of it.
    #[must_use]
    pub fn encode(self) -> [u8; HALF] {
        let stage = match self.stage {
            Stage::Going => 0,
            Stage::Ended => 1,
            Stage::Wrong => 2,
            Stage::Failed(errno) => 3 | u64::from(errno) << 32,
        };
        let mut bytes = [0; HALF];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&stage.to_le_bytes());
        bytes
    }

    /// Reads it back; `None` if it is none.
    pub fn decode(bytes: [u8; HALF]) -> Option<Self> {
        let [number, stage] = [0, 8].map(|at| bytes[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)));
        let stage = match (stage & 0xffff_ffff, stage >> 32) {
            (0, 0) => Stage::Going,
            (1, 0) => Stage::Ended,
            (2, 0) => Stage::Wrong,
            (3, errno) => Stage::Failed(errno as u32),
            _ => return None,
        };
        Some(Self { bytes: number, stage })
    }
}

/// One stream at the guest's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// To the host.
    pub up: Half,
    /// From the host.
    pub down: Half,
}

/// Reads the file: one record for each stream. `None` if it is no such file.
pub fn decode(file: &[u8]) -> Option<Vec<Record>> {
    let (halves, rest) = file.as_chunks::<HALF>();
    let halves: Vec<Half> = halves.iter().map(|bytes| Half::decode(*bytes)).collect::<Option<_>>()?;
    let (pairs, odd) = halves.as_chunks::<2>();
    (rest.is_empty() && odd.is_empty()).then(|| pairs.iter().map(|&[up, down]| Record { up, down }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let stages = [Stage::Going, Stage::Ended, Stage::Failed(104), Stage::Wrong];
        let halves = stages.map(|stage| Half { bytes: 1 << 40, stage });
        let file: Vec<u8> = halves.iter().flat_map(|half| half.encode()).collect();
        let records = decode(&file).expect("valid");
        assert_eq!(records.iter().flat_map(|record| [record.up, record.down]).collect::<Vec<_>>(), halves);
        assert_eq!(decode(&file[..file.len() - HALF]), None);
        assert_eq!(decode(&[9; 32]), None);
    }
}
