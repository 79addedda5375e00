//! Who has what.

use std::collections::{BTreeMap, BTreeSet};

use uvm_testkit::TestResult;

use super::things::{Handle, Kind, Things};

/// One count of a thing.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) thing: usize,
    pub(super) handle: Handle,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    held: Vec<Held>,
    paths: u64,
    entered: u64,
}

impl Books {
    /// A number that no other path of the guest has.
    pub(super) fn next_path(&mut self) -> u64 {
        self.paths += 1;
        self.paths
    }

    /// A thing that is there several times has one place.
    pub(super) fn enter(&mut self, thing: usize, handle: Handle) -> TestResult {
        let place = handle.place();
        for other in self.held.iter().filter(|held| held.handle.place().is_some()) {
            let is_same = other.thing == thing;
            if is_same != (other.handle.place() == place) {
                return Err(format!("thing {thing} as {handle:?}, and {other:?}").into());
            }
        }
        self.held.push(Held { thing, handle });
        self.entered += 1;
        Ok(())
    }

    /// Any one.
    pub(super) fn take(&mut self, random: u64) -> Option<Held> {
        let index = random.checked_rem(self.held.len() as u64)?;
        Some(self.held.swap_remove(usize::try_from(index).ok()?))
    }

    pub(super) fn take_all(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.held)
    }

    pub(super) fn summary(&self) -> String {
        let mut counts = BTreeMap::new();
        for held in &self.held {
            *counts.entry(held.thing).or_insert(0) += 1;
        }
        let most = counts.values().max().copied().unwrap_or(0);
        format!("{} additions so far, {} things are there, one of them {most} times", self.entered, counts.len())
    }

    /// What the guest is to see, a line each.
    pub(super) fn seen(&self, things: &Things) -> TestResult<BTreeSet<String>> {
        let mut lines = BTreeSet::new();
        for Held { thing, handle } in &self.held {
            let what = things.get(*thing)?;
            let name = what.path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((controller, lun)) = handle.place() {
                lines.insert(format!("disk {controller}:{lun} {name}"));
            }
            let (filesystem, read_only, says) = match what.kind {
                Kind::Disk { filesystem, read_only } => (filesystem, read_only, format!("from {filesystem}")),
                Kind::Layer => ("ext4", true, "from ext4".to_owned()),
                Kind::Share { read_only } => ("9p", read_only, name.into_owned()),
                Kind::Device { read_only } => ("virtiofs", read_only, name.into_owned()),
                Kind::Socket => {
                    lines.insert(format!("socket {}", handle.guest_path().unwrap_or_default()));
                    continue;
                }
                Kind::Blank => continue,
            };
            let path = handle.guest_path().ok_or_else(|| format!("{handle:?} is not mounted"))?;
            let mode = if read_only { "ro" } else { "rw" };
            lines.insert(format!("mount {path} {filesystem} {mode} {says}"));
        }
        Ok(lines)
    }
}
