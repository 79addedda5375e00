//! All that the command's VM has besides its own: shares, sockets and disks, each after what it lies in.

use std::path::Path;

use uvm::{PipeMount, ScsiMount, Share, UtilityVm, UvmError};

use super::{disks, layers, pipes, shares};
use crate::args::RunArgs;
use crate::report;

/// One of the things that the options name, by its number among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Disk(usize),
    Share(usize),
    Socket(usize),
}

impl Thing {
    /// Where the guest has it, if it is anywhere.
    fn guest_path(self, args: &RunArgs) -> Option<&str> {
        match self {
            Self::Disk(number) => args.disks.get(number)?.guest_path.as_deref(),
            Self::Share(number) => args.shares.get(number).map(|share| share.guest_path.as_str()),
            Self::Socket(number) => args.sockets.get(number).map(|socket| socket.guest_path.as_str()),
        }
    }
}

/// All of them, in the order in which they are plugged in: disks, so that the first is the guest's first, shares and sockets; but
/// none before one that it lies in, which would cover it. By their names: links of the guest lead where they lead.
fn order(args: &RunArgs) -> Vec<Thing> {
    let disks = (0..args.disks.len()).map(Thing::Disk);
    let shares = (0..args.shares.len()).map(Thing::Share);
    let sockets = (0..args.sockets.len()).map(Thing::Socket);
    let mut left: Vec<Thing> = disks.chain(shares).chain(sockets).collect();
    let mut ordered = Vec::with_capacity(left.len());
    // One that lies in none that is left there always is: of several, the one with the shortest path.
    while let Some(next) = left.iter().position(|thing| !left.iter().any(|other| lies_in(args, *thing, *other))) {
        ordered.push(left.remove(next));
    }
    ordered
}

/// Whether the guest has one thing within another.
fn lies_in(args: &RunArgs, inner: Thing, outer: Thing) -> bool {
    let paths = inner.guest_path(args).zip(outer.guest_path(args));
    inner != outer && paths.is_some_and(|(inner, outer)| inner != outer && Path::new(inner).starts_with(outer))
}

/// What is plugged in. It ends when it is dropped, or with the VM.
#[derive(Default)]
pub(crate) struct Plugged(Vec<Entry>);

struct Entry {
    handle: Handle,
    /// It is a disk, or lies in one.
    of_a_disk: bool,
}

enum Handle {
    Disk(ScsiMount),
    Share(Share),
    Socket(PipeMount),
}

impl Handle {
    async fn release(&self) -> Result<(), UvmError> {
        match self {
            Self::Disk(disk) => disk.release().await,
            Self::Share(share) => share.release().await,
            Self::Socket(socket) => socket.release().await,
        }
    }
}

impl Plugged {
    /// Plugs all of it in.
    pub(crate) async fn plug(&mut self, vm: &UtilityVm, args: &RunArgs) -> anyhow::Result<()> {
        let things = order(args);
        for thing in &things {
            if let Some(path) = thing.guest_path(args) {
                layers::must_be_seen(vm, &args.layers, path).await?;
            }
            let handle = match *thing {
                Thing::Disk(number) => Handle::Disk(disks::attach(vm, &args.layers, &args.disks[number]).await?),
                Thing::Share(number) => Handle::Share(shares::mount(vm, args, number, &args.shares[number]).await?),
                Thing::Socket(number) => Handle::Socket(pipes::offer(vm, args, &args.sockets[number]).await?),
            };
            let is_disk = |thing: &Thing| matches!(thing, Thing::Disk(_));
            let in_a_disk = || things.iter().any(|outer| is_disk(outer) && lies_in(args, *thing, *outer));
            self.0.push(Entry { handle, of_a_disk: is_disk(thing) || in_a_disk() });
        }
        Ok(())
    }

    /// Whether something of it is a disk.
    pub(crate) fn has_disks(&self) -> bool {
        self.0.iter().any(|entry| matches!(entry.handle, Handle::Disk(_)))
    }

    /// The command has ended: what it wrote is brought to the disks. Where others in the guest still use one, all of the
    /// guest is shut down for it. Whether the disks have everything.
    pub(crate) async fn settled(&self, vm: &UtilityVm) -> bool {
        let mut all = true;
        // What lies in a disk was plugged in after it.
        for Entry { handle, .. } in self.0.iter().rev().filter(|entry| entry.of_a_disk) {
            if let Err(e) = handle.release().await {
                tracing::debug!(error = report::chain(&e), "a disk is still in use");
                all = false;
            }
        }
        if all {
            return true;
        }
        let ended = vm.shutdown().await;
        if let Err(e) = &ended {
            report::error(e);
        }
        ended.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Command};

    fn ordered(words: &str) -> Vec<Thing> {
        let words = ["uvm", "run"].into_iter().chain(words.split(' ')).map(Into::into);
        let Command::Run(args) = args::parse(words).expect("valid").command else { panic!("run") };
        order(&args)
    }

    #[test]
    fn what_lies_in_another_comes_after_it_and_all_else_in_its_order() {
        use Thing::{Disk, Share, Socket};
        assert_eq!(ordered("--share .:/b --share .:/a --disk d:/c --disk e"), [Disk(0), Disk(1), Share(0), Share(1)]);
        let nested = "--disk d:/data --share .:/data/src --socket s:/data/src/s --disk e:/data/src/out/e --share .:/";
        assert_eq!(ordered(nested), [Share(1), Disk(0), Share(0), Disk(1), Socket(0)]);
        // A name that begins like another lies in none.
        assert_eq!(ordered("--disk d:/data-1 --share .:/data"), [Disk(0), Share(0)]);
        assert_eq!(ordered("--disk d:/x/y --disk e:/x"), [Disk(1), Disk(0)]);
    }
}
