//! A program for guests of tests: at one end of virtual sockets, or of its standard streams.
//!
//! * `dial PORT COUNT BYTES`: dials the host COUNT times at once, sends BYTES on each in writes of 64 KiB, half-closes, reads
//!   to the end; prints how many bytes came on all of them.
//! * `unix PATH COUNT BYTES`: the same over a Unix socket. `ask PATH TEXT` sends TEXT there and prints what comes, to the end.
//! * `echo PORT`: listens, says `ready`, sends back what one connection sends, to the end of file.
//! * `close PORT BYTES`: dials the host, sends BYTES, and is gone.
//! * `exchange PORT SEED STREAMS UP DOWN RECORD`: dials the host STREAMS times and says on each which it is (4 bytes); then
//!   both directions carry their pattern at the same time and end each by itself, after its share of UP and DOWN bytes. How
//!   far each is stands in the file RECORD. Success if all came to its end.
//! * `leave PORT SEED STREAMS UP DOWN RECORD`: the same, but after its share of UP bytes each stream is closed in both
//!   directions, whatever is still to come.
//! * `fsx KIND FILE SEED OPERATIONS`: random operations on a new FILE against a model in memory; prints the digest of what FILE
//!   has to hold. KIND is what serves the files: `local`, `9p` or `virtio-fs`.
//! * `posix KIND DIR NAMES`: checks names, errors, renames, links, content, attributes, and lists of NAMES names in DIR; prints
//!   how many checks there were.
//! * `files DIR`: does with files in DIR what a file system has to do, and cleans up.
//! * `flock HOW`: locks the open file that is its standard input (`lock`, which does not end), tries to (`try`), or unlocks it (`unlock`).
//! * `stdio SEED STREAM STREAMS UP DOWN`: the same as `exchange` for one stream, which is standard input and output.

#[cfg(target_os = "linux")]
mod exchange;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod flock;
#[cfg(target_os = "linux")]
mod fsx;
#[cfg(target_os = "linux")]
mod kind;
#[cfg(target_os = "linux")]
mod mapped;
#[cfg(target_os = "linux")]
mod posix;
#[cfg(target_os = "linux")]
mod simple;

#[cfg(target_os = "linux")]
fn main() -> std::io::Result<()> {
    use exchange::{End, Plan};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
    let small = |at: usize| number(at) as u32;
    let text = |at: usize| arguments.get(at).map_or("", String::as_str);
    let plan = || Plan { seed: number(2), streams: small(3), up: number(4), down: number(5) };
    let record = arguments.get(6).map_or("/dev/null", String::as_str);
    match arguments.first().map(String::as_str) {
        Some("dial") => simple::dial(small(1), small(2), number(3) as usize),
        Some("unix") => simple::unix(text(1), small(2), number(3) as usize),
        Some("ask") => simple::ask(text(1), text(2)),
        Some("echo") => simple::echo(small(1)),
        Some("close") => simple::close(small(1), number(2) as usize),
        Some("exchange") => exchange::sockets(&plan(), small(1), record, End::HalfClose),
        Some("leave") => exchange::sockets(&plan(), small(1), record, End::Close),
        Some("files") => files::exercise(std::path::Path::new(arguments.get(1).map_or(".", String::as_str))),
        Some("flock") => flock::on_input(text(1)),
        Some("fsx") => fsx::run(kind::Kind::parse(text(1))?, text(2).as_ref(), number(3), number(4)),
        Some("posix") => posix::run(kind::Kind::parse(text(1))?, text(2).as_ref(), small(3)),
        Some("stdio") => {
            let plan = Plan { seed: number(1), streams: small(3), up: number(4), down: number(5) };
            exchange::stdio(&plan, small(2))
        }
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "see the source")),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}
