//! What the kernel knows of a process, without asking the process.

use std::fs;
use std::time::Duration;

use crate::spawn::RunAs;

/// One look at a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    /// The kernel's letter: `R`, `S`, `D`, `T` (stopped), `Z`...
    pub(crate) state: char,
    pub(crate) processor_time: Duration,
    pub(crate) resident_bytes: u64,
}

impl ProcessInfo {
    /// `None` if there is no such process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ticks = rustix::param::clock_ticks_per_second();
        Self::parse(&stat, ticks, rustix::param::page_size() as u64)
    }

    fn parse(stat: &str, ticks_per_second: u64, page_size: u64) -> Option<Self> {
        // The name, in parentheses, may hold anything; what follows the last one is numbers.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Fields 14 and 15 of proc(5) are user and system time, 24 the resident pages; the list here begins with field 3.
        let ticks = number(11)?.checked_add(number(12)?)?;
        Some(Self {
            state: fields.first()?.chars().next()?,
            processor_time: Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second.max(1)),
            resident_bytes: number(21)?.saturating_mul(page_size),
        })
    }

    /// The state in words, where it explains why nothing happens.
    pub(crate) fn standstill(&self) -> Option<&'static str> {
        match self.state {
            'T' | 't' => Some("it is stopped (SIGSTOP or a debugger)"),
            'D' => Some("it waits in the kernel, uninterruptibly"),
            'Z' | 'X' => Some("it has died"),
            _ => None,
        }
    }
}

/// Whom a process opens files as; `None` if there is no such process.
pub(crate) fn runs_as(pid: u32) -> Option<RunAs> {
    parse_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn parse_status(status: &str) -> Option<RunAs> {
    let ids = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().map(|id| id.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    // Real, effective, saved, and that of file systems.
    let of_files = |key| ids(key)?.get(3).copied();
    Some(RunAs { uid: of_files("Uid:")?, gid: of_files("Gid:")?, groups: ids("Groups:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_process_opens_files_as_is_read_with_all_its_groups() {
        let status = "Name:\tUid: 7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t36 107 \nNStgid:\t9\n";
        let expected = RunAs { uid: 4, gid: 8, groups: vec![36, 107] };
        assert_eq!(parse_status(status), Some(expected));
        assert_eq!(
            parse_status("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t \n").map(|as_| as_.groups),
            Some(vec![])
        );
        assert_eq!(parse_status("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n"), None);
        let this = runs_as(std::process::id()).expect("it lives");
        assert_eq!(this.uid, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn the_own_process_is_known() {
        let info = ProcessInfo::of(std::process::id()).expect("we are here");
        assert!(info.resident_bytes > 100_000, "{info:?}");
        assert_eq!(info.standstill(), None);
        assert_eq!(ProcessInfo::of(u32::MAX), None);
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) T (b) T 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 99 1000 3 18446744073709551615";
        let info = ProcessInfo::parse(stat, 100, 4096).expect("parses");
        assert_eq!((info.state, info.processor_time, info.resident_bytes), ('T', Duration::from_secs(2), 12_288));
        assert!(info.standstill().is_some());
        assert_eq!(ProcessInfo::parse("7 (a", 100, 4096), None);
        assert_eq!(ProcessInfo::parse("7 (a) R 1 2", 100, 4096), None);
    }
}
