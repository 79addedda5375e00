//! What the tasks do: drawn, and made smaller by leaving operations out.

use std::fmt;

use proptest::prelude::*;
use uvm_testkit::memory::{Fault, Kind};

use crate::obedient::Oddity;
use crate::scene::{THINGS, Thing};

/// One operation of a task. What does not fit is passed over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Add(Thing, &'static str),
    /// Of what people have, the one at this place, counted round.
    Release(usize),
    /// The same, and it is waited for no longer than so many milliseconds.
    GiveUp(usize, u64),
    Drop(usize),
    /// By its name, whoever has it.
    Remove(Thing, &'static str),
    /// One of the host's calls goes wrong the next time.
    HostFault(usize, Fault),
    /// The guest does this instead of what it is told, after so many.
    GuestFault(usize, Oddity),
    /// So many milliseconds pass.
    Pause(u64),
}

/// What several tasks do at the same time.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) has_faults: bool,
    pub(super) tasks: Vec<Vec<Operation>>,
}

impl fmt::Debug for Plan {
    /// A line for each task, without what does nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} faults", if self.has_faults { "with" } else { "without" })?;
        for task in &self.tasks {
            let done = task.iter().filter(|operation| !matches!(operation, Operation::Pause(0)));
            writeln!(f, "    {:?}", done.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

impl Plan {
    pub(super) fn operations(&self) -> usize {
        self.tasks.iter().map(Vec::len).sum()
    }
}

const TASKS: usize = 4;
const OPERATIONS_OF_A_TASK: usize = 25;

pub(super) fn plans() -> impl Strategy<Value = Plan> {
    let task = prop::collection::vec(operation(), OPERATIONS_OF_A_TASK);
    let tasks = prop::collection::vec(task, TASKS);
    // Mostly with faults.
    (prop::bool::weighted(0.7), tasks).prop_map(|(has_faults, tasks)| Plan { has_faults, tasks })
}

/// It becomes a pause of no time when it is made smaller.
fn operation() -> impl Strategy<Value = Operation> {
    let which = || prop::sample::select(&FILES[..]);
    let thing = || prop::sample::select(&THINGS[..]);
    let fault = prop::sample::select(&[Fault::Fail, Fault::Hang][..]);
    let oddity = prop::sample::select(&[Oddity::Refuse, Oddity::Ignore][..]);
    prop_oneof![
        2 => (0..20_u64).prop_map(Operation::Pause),
        10 => (thing(), which()).prop_map(|(thing, which)| Operation::Add(thing, which)),
        5 => any::<usize>().prop_map(Operation::Release),
        2 => (any::<usize>(), 0..8_u64).prop_map(|(at, milliseconds)| Operation::GiveUp(at, milliseconds)),
        2 => any::<usize>().prop_map(Operation::Drop),
        1 => (thing(), which()).prop_map(|(thing, which)| Operation::Remove(thing, which)),
        2 => (any::<usize>(), fault).prop_map(|(number, fault)| Operation::HostFault(number, fault)),
        2 => (0..4_usize, oddity).prop_map(|(after, oddity)| Operation::GuestFault(after, oddity)),
    ]
}

/// The names of files, pipes and devices, few, so that they are shared.
pub(super) const FILES: [&str; 3] = ["x", "y", "z"];

/// The words of a call that can go wrong.
pub(super) fn fault(kind: Kind, number: usize) -> &'static str {
    let words: &[&str] = match kind {
        Kind::Fake => &FAKE,
        Kind::Recording => &RECORDING,
    };
    words[number % words.len()]
}

const FAKE: [&str; 15] = [
    "add scsi",
    "undo scsi",
    "remove scsi",
    "add vpmem",
    "undo vpmem",
    "remove vpmem",
    "add plan9",
    "undo plan9",
    "remove plan9",
    "add pipe",
    "undo pipe",
    "remove pipe",
    "add pci",
    "undo pci",
    "remove pci",
];

const RECORDING: [&str; 9] = [
    r#"Scsi/0/Attachments/0","RequestType":"Add""#,
    r#""RequestType":"Remove","Settings":{"Path""#,
    r#""RequestType":"Remove"}"#,
    r#"VirtualPMem/Devices/0","RequestType":"Add""#,
    r#""RequestType":"Remove","Settings":{"HostPath""#,
    r#"Plan9/Shares","RequestType":"Add""#,
    r#""RequestType":"Add"}"#,
    r#""RequestType":"Add","Settings":{"Functions""#,
    "grant vm",
];
