//! Random operations on one file, each compared with what a model in memory says: after the manner of Apple's fsx.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use uvm_test_guest::digest::digest;
use uvm_test_guest::pattern::{Direction, Pattern};

use crate::kind::Kind;
use crate::mapped;

/// The file is never longer.
const LONGEST: usize = 256 * 1024;
/// Bytes of one operation at most. More than a page, and not a divisor of a message.
const MOST: usize = 70_000;
/// Operations that are told when something is wrong.
const TAIL: usize = 40;

/// What is done to the file.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Write { at: usize, length: usize },
    Append { length: usize },
    Read { at: usize, length: usize },
    Resize { to: usize },
    MapRead { at: usize, length: usize },
    MapWrite { at: usize, length: usize },
    Allocate { at: usize, length: usize },
    Punch { at: usize, length: usize },
    Sync,
    Reopen,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Does `operations` of them, and prints the digest of what the file has to hold in the end.
pub(crate) fn run(kind: Kind, path: &Path, seed: u64, operations: u64) -> io::Result<()> {
    let mut run = Run {
        path: path.to_owned(),
        file: open(path, true)?,
        model: Vec::new(),
        random: Pattern::new(seed, 0, Direction::Up),
        tail: VecDeque::new(),
    };
    for number in 0..operations {
        let operation = run.choose(kind);
        run.tail.push_back(format!("{number}: {operation}, of {} bytes", run.model.len()));
        if run.tail.len() > TAIL {
            run.tail.pop_front();
        }
        run.apply(operation).map_err(|e| run.told(seed, number, &e))?;
    }
    run.finish().map_err(|e| run.told(seed, operations, &e))?;
    println!("seed {seed}, {operations} operations, {} bytes, digest {:016x}", run.model.len(), digest(&run.model));
    Ok(())
}

fn open(path: &Path, new: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(new).open(path)
}

struct Run {
    path: PathBuf,
    file: File,
    /// What the file has to hold.
    model: Vec<u8>,
    random: Pattern,
    tail: VecDeque<String>,
}

impl Run {
    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        (u64::from_ne_bytes(bytes) % limit as u64) as usize
    }

    /// A range that begins within `end` and may pass it; both cut at the longest the file may be.
    fn range(&mut self, end: usize) -> (usize, usize) {
        let at = self.below(end.max(1));
        // Small ones, and ones of several pages.
        let most = if self.below(2) == 0 { 600 } else { MOST };
        let length = 1 + self.below(most);
        (at, length.min(LONGEST - at))
    }

    fn choose(&mut self, kind: Kind) -> Operation {
        let size = self.model.len();
        let (at, length) = self.range(LONGEST);
        let (inside, read) = self.range(size);
        let mapped = read.min(size - inside.min(size));
        match self.below(100) {
            0..25 => Operation::Write { at, length },
            25..35 if size + length <= LONGEST => Operation::Append { length },
            35..45 => Operation::Resize { to: self.below(LONGEST) },
            45..55 if kind.is_complete() && mapped > 0 => Operation::MapRead { at: inside, length: mapped },
            55..65 if kind.is_complete() && mapped > 0 => Operation::MapWrite { at: inside, length: mapped },
            65..70 if kind.is_complete() => Operation::Allocate { at, length },
            70..76 if kind.is_complete() => Operation::Punch { at, length },
            76..78 => Operation::Sync,
            78..82 => Operation::Reopen,
            _ => Operation::Read { at: inside, length: read },
        }
    }

    /// Bytes that are like no others.
    fn fresh(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.grow(at + bytes.len());
        self.model[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn grow(&mut self, to: usize) {
        self.model.resize(self.model.len().max(to), 0);
    }

    fn apply(&mut self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Write { at, length } => {
                let bytes = self.fresh(length);
                self.file.write_all_at(&bytes, at as u64)?;
                self.put(at, &bytes);
            }
            Operation::Append { length } => {
                let bytes = self.fresh(length);
                // Another handle: what one wrote, the other reads.
                OpenOptions::new().append(true).open(&self.path)?.write_all(&bytes)?;
                self.put(self.model.len(), &bytes);
            }
            Operation::Read { at, length } => self.compare(at, length)?,
            Operation::Resize { to } => {
                self.file.set_len(to as u64)?;
                self.model.resize(to, 0);
            }
            Operation::MapRead { at, length } => {
                let mut bytes = vec![0; length];
                mapped::read(&self.file, at, &mut bytes)?;
                same(at, &self.model[at..at + length], &bytes)?;
            }
            Operation::MapWrite { at, length } => {
                let bytes = self.fresh(length);
                mapped::write(&self.file, at, &bytes)?;
                self.put(at, &bytes);
            }
            Operation::Allocate { at, length } => {
                fallocate(&self.file, FallocateFlags::empty(), at as u64, length as u64)?;
                self.grow(at + length);
            }
            Operation::Punch { at, length } => {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&self.file, flags, at as u64, length as u64)?;
                let size = self.model.len();
                self.model[at.min(size)..(at + length).min(size)].fill(0);
            }
            Operation::Sync => self.file.sync_all()?,
            Operation::Reopen => self.file = open(&self.path, false)?,
        }
        let (wanted, came) = (self.model.len() as u64, self.file.metadata()?.len());
        if wanted != came {
            return Err(io::Error::other(format!("the file is to have {wanted} bytes and has {came}")));
        }
        Ok(())
    }

    /// Reads from the file what is asked for, or what there is of it, as a program would: until nothing more comes.
    fn compare(&self, at: usize, length: usize) -> io::Result<()> {
        let mut bytes = vec![0; length];
        let mut read = 0;
        while read < length {
            match self.file.read_at(&mut bytes[read..], (at + read) as u64)? {
                0 => break,
                n => read += n,
            }
        }
        let size = self.model.len();
        let wanted = &self.model[at.min(size)..(at + length).min(size)];
        if read != wanted.len() {
            return Err(io::Error::other(format!("{} bytes were to be read at {at}, and {read} were", wanted.len())));
        }
        same(at, wanted, &bytes[..read])
    }

    /// All of it, by this handle, and by another once it is written.
    fn finish(&mut self) -> io::Result<()> {
        self.compare(0, LONGEST + 1)?;
        self.file.sync_all()?;
        self.file = open(&self.path, false)?;
        self.compare(0, LONGEST + 1)
    }

    fn told(&self, seed: u64, number: u64, error: &io::Error) -> io::Error {
        let tail: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        io::Error::other(format!("seed {seed}, operation {number}: {error}; the last ones:\n{}", tail.join("\n")))
    }
}

/// Compares what is to be at an offset with what is there.
fn same(at: usize, wanted: &[u8], came: &[u8]) -> io::Result<()> {
    match wanted.iter().zip(came).position(|(wanted, came)| wanted != came) {
        None => Ok(()),
        Some(first) => {
            let wrong = wanted.iter().zip(came).filter(|(wanted, came)| wanted != came).count();
            let (place, wanted, came) = (at + first, wanted[first], came[first]);
            let text = format!("byte {place} is to be {wanted:#04x} and is {came:#04x}; {wrong} bytes are wrong");
            Err(io::Error::other(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_the_same_for_a_seed_and_a_wrong_byte_is_told() {
        let dir = std::env::temp_dir().join(format!("uvm-fsx-{}", std::process::id()));
        std::fs::create_dir(&dir).expect("new");
        let of = |name: &str, seed| {
            run(Kind::Local, &dir.join(name), seed, 300).expect("holds");
            digest(&std::fs::read(dir.join(name)).expect("there"))
        };
        let digests = [of("a", 7), of("b", 7), of("c", 8)];
        std::fs::remove_dir_all(dir).expect("mine");
        assert!(digests[0] == digests[1] && digests[0] != digests[2], "{digests:?}");
        let error = same(100, b"abc", b"aXY").expect_err("two are wrong").to_string();
        assert_eq!(error, "byte 101 is to be 0x62 and is 0x58; 2 bytes are wrong");
    }
}
