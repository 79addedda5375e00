//! The machine that is measured on: what it is, and how busy it is with other things.

use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What decides the figures besides the code.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Machine {
    date: String,
    processors: usize,
    qemu: String,
    load_average: String,
}

impl Machine {
    pub(crate) fn look() -> anyhow::Result<Self> {
        let qemu = output("qemu-system-x86_64", &["--version"])?;
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            date: output("date", &["-u", "+%Y-%m-%d %H:%M"])?,
            processors: thread::available_parallelism()?.get(),
            qemu: qemu.split_whitespace().nth(3).unwrap_or_default().to_owned(),
            load_average: load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, processors, qemu, load_average } = self;
        write!(f, "{date} UTC, {processors} processors, QEMU {qemu}, load average {load_average}")
    }
}

fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// The share of the processors' time that nobody uses while this program waits: 1 on a machine without other work.
pub(crate) fn idle_share() -> anyhow::Result<f64> {
    let before = Ticks::now()?;
    thread::sleep(Duration::from_secs(2));
    Ok(Ticks::now()?.idle_since(&before))
}

/// Processor time since boot, of all processors.
struct Ticks {
    idle: f64,
    all: f64,
}

impl Ticks {
    fn now() -> anyhow::Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?).context("/proc/stat")
    }

    fn parse(stat: &str) -> Option<Self> {
        let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        // user nice system idle iowait irq softirq steal; what follows is counted in user time already.
        let ticks: Vec<f64> = numbers.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { idle: ticks.get(3)? + ticks.get(4)?, all: ticks.iter().sum() })
    }

    fn idle_since(&self, before: &Self) -> f64 {
        let share = (self.idle - before.idle) / (self.all - before.all).max(1.0);
        (share * 1000.0).round() / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_disks_is_idle_and_stolen_time_is_not() {
        let before = Ticks::parse("cpu  100 0 100 1000 0 0 0 0 50 0\ncpu0 1 2 3").expect("numbers");
        let after = Ticks::parse("cpu  110 0 110 1060 10 0 0 10 60 0").expect("numbers");
        assert!((after.idle_since(&before) - 0.7).abs() < 1e-9);
        assert!(Ticks::parse("cpu  a b").is_none());
    }
}
