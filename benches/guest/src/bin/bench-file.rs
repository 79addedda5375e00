//! Reads or writes a file from its beginning to its end, and prints MiB/s: `read PATH`, `write PATH MIB`.
//!
//! What is read comes from where the file is, not from this system's memory; what is written is flushed before the time is
//! taken.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::time::Instant;

/// Bytes of one read or write.
const PIECE: usize = 1 << 20;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut piece = vec![b'x'; PIECE];
    let (bytes, began) = match *words.as_slice() {
        ["read", path] => {
            fs::write("/proc/sys/vm/drop_caches", "3")?;
            let (mut file, mut bytes, began) = (File::open(path)?, 0, Instant::now());
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    n => bytes += n,
                }
            }
            (bytes, began)
        }
        ["write", path, mib] => {
            let mib: usize = mib.parse().map_err(io::Error::other)?;
            let (mut file, began) = (File::create(path)?, Instant::now());
            for _ in 0..mib {
                file.write_all(&piece)?;
            }
            file.sync_all()?;
            (mib * PIECE, began)
        }
        _ => return Err(io::Error::other("read PATH, or write PATH MIB?")),
    };
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    let mib = bytes as f64 / PIECE as f64;
    println!("{:.3}", mib / began.elapsed().as_secs_f64());
    Ok(())
}
