//! Writes as many blocks as its argument says to standard output.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

fn main() -> io::Result<()> {
    let blocks = std::env::args().nth(1).and_then(|count| count.parse::<u64>().ok());
    let blocks = blocks.ok_or_else(|| io::Error::other("how many blocks?"))?;
    // Not through a buffer: each block is one system call.
    let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let block = vec![0; uvm_bench_guest::BLOCK];
    for _ in 0..blocks {
        stdout.write_all(&block)?;
    }
    Ok(())
}
