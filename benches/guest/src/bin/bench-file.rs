//! Measures a file system from its guest: prints one number. What is read comes from where the files are, not from this
//! system's memory; what is written is flushed before the time is taken.
//!
//! `read PATH` and `write PATH MIB` a file by pieces of 1 MiB: MiB/s; `random PATH READS` of 4 KiB each, `stat DIR` of all
//! names in it, `create DIR FILES` and unlink each: microseconds for each; `list DIR` with its names: milliseconds;
//! `status DIR`, all names of a tree listed and looked at, and each file's beginning read, as `git status` does of a tree
//! that it does not know: milliseconds.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

/// Bytes of one read or write of a file from its beginning to its end.
const PIECE: usize = 1 << 20;
/// Bytes of one read anywhere.
const BLOCK: usize = 4096;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    let began = Instant::now();
    let seconds = || began.elapsed().as_secs_f64();
    let number = match *words {
        ["read", path] => read(path)? / seconds(),
        ["write", path, mib] => {
            let mib = number(mib)?;
            write(path, mib)?;
            as_float(mib) / seconds()
        }
        ["random", path, reads] => {
            let reads = number(reads)?;
            random(path, reads)?;
            seconds() * 1e6 / as_float(reads)
        }
        ["stat", directory] => {
            let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            let began = Instant::now();
            for name in &names {
                fs::symlink_metadata(name)?;
            }
            began.elapsed().as_secs_f64() * 1e6 / as_float(names.len())
        }
        ["create", directory, files] => {
            let files = number(files)?;
            for index in 0..files {
                let path = Path::new(directory).join(format!("created-{index}"));
                File::create_new(&path)?;
                fs::remove_file(&path)?;
            }
            seconds() * 1e6 / as_float(files)
        }
        ["list", directory] => {
            if fs::read_dir(directory)?.count() == 0 {
                return Err(io::Error::other(format!("{directory} is empty")));
            }
            seconds() * 1e3
        }
        ["status", directory] => {
            status(Path::new(directory))?;
            seconds() * 1e3
        }
        _ => return Err(io::Error::other(format!("what is {words:?}?"))),
    };
    println!("{number:.3}");
    Ok(())
}

fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(io::Error::other)
}

#[expect(clippy::cast_precision_loss, reason = "a small number")]
fn as_float(number: usize) -> f64 {
    number as f64
}

/// How many MiB there were.
fn read(path: &str) -> io::Result<f64> {
    let (mut file, mut piece, mut bytes) = (File::open(path)?, vec![0; PIECE], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(as_float(bytes) / as_float(PIECE)),
            count => bytes += count,
        }
    }
}

fn write(path: &str, mib: usize) -> io::Result<()> {
    let (mut file, piece) = (File::create(path)?, vec![b'x'; PIECE]);
    for _ in 0..mib {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

/// The same places each time, far from each other.
fn random(path: &str, reads: usize) -> io::Result<()> {
    let file = File::open(path)?;
    let blocks = file.metadata()?.len() / BLOCK as u64;
    let (mut block, mut at) = ([0; BLOCK], 1_u64);
    for _ in 0..reads {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.read_exact_at(&mut block, ((at >> 33) % blocks.max(1)) * BLOCK as u64)?;
    }
    Ok(())
}

fn status(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            status(&path)?;
        } else {
            File::open(&path)?.read_exact(&mut [0; 16])?;
        }
    }
    Ok(())
}
