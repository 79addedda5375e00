//! What POSIX and Linux say of names, errors, links, content, attributes and lists of files, checked one by one: after the manner
//! of pjdfstest. Where a share of ours is meant to differ, the check says so; `THREAT_MODEL.md` has the list.

mod attributes;
mod content;
mod directories;
mod links;
mod names;
mod renames;

use std::fmt::Debug;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::kind::Kind;

/// One thing that has to hold, by its name.
type Check = (&'static str, fn(&Place) -> Outcome);

/// Whether it holds.
type Outcome = Result<(), Failure>;

/// What was wanted and what came.
struct Failure(String);

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(format!("wanted success, came {error}"))
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

/// An empty directory for one check.
struct Place {
    dir: PathBuf,
    kind: Kind,
    /// How many names are in a directory that is listed while it changes.
    names: u32,
}

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file with this content.
    fn file(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.at(name);
        fs::write(&path, content)?;
        Ok(path)
    }

    fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.at(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// A symbolic link.
    fn link(&self, name: &str, target: &str) -> io::Result<PathBuf> {
        let path = self.at(name);
        std::os::unix::fs::symlink(target, &path)?;
        Ok(path)
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))
}

/// Two things are the same.
#[allow(clippy::needless_pass_by_value, reason = "both are results of calls, and are written where they are made")]
fn same<T: PartialEq + Debug>(wanted: T, came: T) -> Outcome {
    if wanted == came { Ok(()) } else { Err(Failure(format!("wanted {wanted:?}, came {came:?}"))) }
}

/// Something is refused with this error.
#[allow(clippy::needless_pass_by_value, reason = "both are results of calls, and are written where they are made")]
fn refused<T>(wanted: Errno, came: Result<T, Errno>) -> Outcome {
    match came {
        Err(came) if came == wanted => Ok(()),
        Err(came) => Err(Failure(format!("wanted {:?}, came {:?}", io::Error::from(wanted), io::Error::from(came)))),
        Ok(_) => Err(Failure(format!("wanted {:?}, came success", io::Error::from(wanted)))),
    }
}

/// Something holds.
fn holds(what: &str, came: bool) -> Outcome {
    if came { Ok(()) } else { Err(Failure(format!("wanted {what}, which does not hold"))) }
}

/// A check that takes longer is told, on the error output.
const SLOW: Duration = Duration::from_secs(2);

/// Runs all checks, those of lists with so many names, each in a directory of its own, and prints those that fail and how many there were.
pub(crate) fn run(kind: Kind, dir: &Path, names: u32) -> io::Result<()> {
    let topics =
        [names::CHECKS, renames::CHECKS, links::CHECKS, content::CHECKS, attributes::CHECKS, directories::CHECKS];
    let (mut done, mut failed) = (0, 0);
    for (name, check) in topics.into_iter().flatten() {
        let place = Place { dir: dir.join(name.replace(' ', "-")), kind, names };
        // Two checks of one name fail here.
        fs::create_dir(&place.dir)?;
        let began = Instant::now();
        let cleaned = |outcome: Outcome| outcome.and(fs::remove_dir_all(&place.dir).map_err(Failure::from));
        if let Err(Failure(text)) = cleaned(check(&place)) {
            println!("{name}: {text}");
            failed += 1;
        }
        done += 1;
        if began.elapsed() > SLOW {
            eprintln!("{name} took {:?}", began.elapsed());
        }
    }
    println!("{done} checks, {failed} failed");
    if failed == 0 { Ok(()) } else { Err(io::Error::other(format!("{failed} of {done} checks failed"))) }
}
