//! Many streams, both directions at the same time, each byte checked, and how far each is written down.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::thread;

use uvm_test_guest::pattern::{Direction, Pattern, lengths};
use uvm_test_guest::record::{HALF, Half, Stage};

use crate::simple;

/// What both ends agree on.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) streams: u32,
    /// Bytes of all streams together.
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// What follows a stream's last byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    HalfClose,
    /// Of both directions, also of what was not read.
    Close,
}

/// Bytes of a read or write.
const BLOCK: usize = 32 * 1024;
/// There are two threads for each stream.
const STACK: usize = 128 * 1024;

/// Where one direction of a stream is written down.
struct Place {
    file: File,
    at: u64,
    half: Half,
}

impl Place {
    fn new(file: &File, index: usize) -> io::Result<Self> {
        let half = Half { bytes: 0, stage: Stage::Going };
        let mut place = Self { file: file.try_clone()?, at: (index * HALF) as u64, half };
        place.advance(0)?;
        Ok(place)
    }

    fn advance(&mut self, bytes: usize) -> io::Result<()> {
        self.half.bytes += bytes as u64;
        self.file.write_all_at(&self.half.encode(), self.at)
    }

    fn end(&mut self, stage: Stage) -> io::Result<Stage> {
        self.half.stage = stage;
        self.advance(0)?;
        Ok(stage)
    }

    fn fail(&mut self, error: &io::Error) -> io::Result<Stage> {
        self.end(Stage::Failed(error.raw_os_error().unwrap_or_default().cast_unsigned()))
    }
}

/// Sends `length` bytes.
fn send(to: &mut impl Write, mut pattern: Pattern, length: u64, place: &mut Place) -> io::Result<Stage> {
    let mut block = vec![0; BLOCK];
    while pattern.at() < length {
        let n = (length - pattern.at()).min(BLOCK as u64) as usize;
        pattern.fill(&mut block[..n]);
        let mut rest = &block[..n];
        while !rest.is_empty() {
            match to.write(rest) {
                Ok(0) => return place.fail(&io::ErrorKind::WriteZero.into()),
                Ok(taken) => {
                    place.advance(taken)?;
                    rest = &rest[taken..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return place.fail(&e),
            }
        }
    }
    place.end(Stage::Ended)
}

/// Reads to the end of file.
fn receive(from: &mut impl Read, mut pattern: Pattern, place: &mut Place) -> io::Result<Stage> {
    let mut block = vec![0; BLOCK];
    loop {
        match from.read(&mut block) {
            Ok(0) => return place.end(Stage::Ended),
            Ok(n) if pattern.check(&block[..n]).is_err() => return place.end(Stage::Wrong),
            Ok(n) => place.advance(n)?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return place.fail(&e),
        }
    }
}

fn whole(half: Half, length: u64) -> bool {
    half == Half { bytes: length, stage: Stage::Ended }
}

pub(crate) fn sockets(plan: &Plan, port: u32, record: &str, end: End) -> io::Result<()> {
    let file = File::create(record)?;
    let (ups, downs) = (
        lengths(plan.seed, plan.streams, plan.up, Direction::Up),
        lengths(plan.seed, plan.streams, plan.down, Direction::Down),
    );
    // First all of them: behind what others send, the kernel's 2 s for a dial may be over before it has sent it.
    let dial = |number: u32| {
        let mut stream = simple::host(port)?;
        stream.write_all(&number.to_le_bytes())?;
        io::Result::Ok(stream)
    };
    let streams: Vec<_> = (0..plan.streams).map(dial).collect::<io::Result<_>>()?;
    let place = |index| Ok((Place::new(&file, 2 * index)?, Place::new(&file, 2 * index + 1)?));
    let places: Vec<_> = (0..streams.len()).map(place).collect::<io::Result<_>>()?;
    let mut threads = Vec::new();
    let lengths = ups.into_iter().zip(downs);
    for (number, ((mut reader, (mut sent, mut received)), (up, down))) in
        (0..).zip(streams.into_iter().zip(places).zip(lengths))
    {
        let mut writer = reader.try_clone()?;
        let pattern = |direction| Pattern::new(plan.seed, number, direction);
        let (to_send, to_receive) = (pattern(Direction::Up), pattern(Direction::Down));
        let spawn =
            |run: Box<dyn FnOnce() -> io::Result<bool> + Send>| thread::Builder::new().stack_size(STACK).spawn(run);
        threads.push(spawn(Box::new(move || {
            let stage = send(&mut writer, to_send, up, &mut sent)?;
            if stage == Stage::Ended {
                writer.shutdown(if end == End::Close { Shutdown::Both } else { Shutdown::Write })?;
            }
            Ok(whole(sent.half, up))
        }))?);
        threads.push(spawn(Box::new(move || {
            receive(&mut reader, to_receive, &mut received)?;
            Ok(whole(received.half, down))
        }))?);
    }
    let mut all = true;
    for thread in threads {
        all &= thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    if all { Ok(()) } else { Err(io::Error::other("not all streams came to their end")) }
}

pub(crate) fn stdio(plan: &Plan, number: u32) -> io::Result<()> {
    let of = |total, direction| {
        let length = lengths(plan.seed, plan.streams, total, direction).get(number as usize).copied();
        (Pattern::new(plan.seed, number, direction), length.unwrap_or_default())
    };
    let ((up, up_length), (down, down_length)) = (of(plan.up, Direction::Up), of(plan.down, Direction::Down));
    let nowhere = File::options().write(true).open("/dev/null")?;
    let (mut sent, mut received) = (Place::new(&nowhere, 0)?, Place::new(&nowhere, 1)?);
    let reader = thread::spawn(move || -> io::Result<Half> {
        receive(&mut io::stdin().lock(), down, &mut received)?;
        Ok(received.half)
    });
    // Not through the buffer of `io::stdout`, and the end of it is the end of the file.
    let mut stdout = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(&nowhere)?;
    send(&mut stdout, up, up_length, &mut sent)?;
    drop(stdout);
    let half = reader.join().map_err(|_| io::Error::other("a thread panicked"))??;
    if whole(sent.half, up_length) && whole(half, down_length) {
        Ok(())
    } else {
        Err(io::Error::other(format!("sent {:?} of {up_length}, received {half:?} of {down_length}", sent.half)))
    }
}
