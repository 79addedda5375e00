//! What a measurement found: all samples, and the figures drawn from them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::statistics::{median, quantile};

/// One measurement's outcome. Written as JSON, and printed as a table.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Report {
    name: String,
    /// As it was before the first sample.
    machine: Machine,
    /// Idle shares of the machine's processors before and after, all samples between them being ours.
    idle: Vec<f64>,
    settings: serde_json::Map<String, serde_json::Value>,
    /// What could not be measured, and why.
    notes: Vec<String>,
    series: Vec<Series>,
    figures: Vec<Figure>,
}

/// Samples of one quantity, in the order in which they were taken.
#[derive(Debug, Deserialize, Serialize)]
struct Series {
    name: String,
    unit: String,
    samples: Vec<f64>,
}

/// One number, set against a reference and a target.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Figure {
    what: String,
    value: f64,
    unit: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// What a ratio, or a value without a reference, should be.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// How a series becomes one number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Statistic {
    Median,
    P99,
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl Statistic {
    fn of(self, samples: &[f64]) -> Option<f64> {
        match self {
            Self::Median => median(samples),
            Self::P99 => quantile(samples, 0.99),
        }
    }
}

impl Report {
    pub(crate) fn begin(name: &str) -> anyhow::Result<Self> {
        let machine = Machine::look()?;
        let idle = vec![crate::machine::idle_share()?];
        Ok(Self {
            name: name.into(),
            machine,
            idle,
            settings: serde_json::Map::new(),
            notes: Vec::new(),
            series: Vec::new(),
            figures: Vec::new(),
        })
    }

    /// Records how it is measured.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<serde_json::Value>) {
        self.settings.insert(key.into(), value.into());
    }

    /// Says what could not be measured, and why.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a sample to the series `name`.
    pub(crate) fn sample(&mut self, name: &str, unit: &str, value: f64) {
        let value = (value * 1000.0).round() / 1000.0;
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.samples.push(value),
            None => self.series.push(Series { name: name.into(), unit: unit.into(), samples: vec![value] }),
        }
    }

    /// Draws a figure from a series, against the same of `reference` if one is named.
    pub(crate) fn figure(
        &mut self,
        what: &str,
        series: &str,
        statistic: Statistic,
        reference: Option<&str>,
        target: Option<Target>,
    ) -> anyhow::Result<()> {
        let of = |name: &str| {
            let series = self.series.iter().find(|series| series.name == name);
            let series = series.with_context(|| format!("{what}: there is no series {name}"))?;
            let value = statistic.of(&series.samples).with_context(|| format!("{what}: {name} has no samples"))?;
            anyhow::Ok((value, series.unit.clone()))
        };
        let (value, unit) = of(series)?;
        let reference = reference.map(|name| of(name).map(|(value, _)| value)).transpose()?;
        let ratio = reference.map(|reference| value / reference);
        let met = target.map(|target| target.is_met(ratio.unwrap_or(value)));
        self.figures.push(Figure { what: what.into(), value, unit, reference, ratio, target, met });
        Ok(())
    }

    /// To be called after the last sample.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        self.idle.push(crate::machine::idle_share()?);
        Ok(())
    }

    /// Writes `NAME.json` into `directory`.
    pub(crate) fn write(&self, directory: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(format!("{}.json", self.name));
        std::fs::write(&path, self.json()?).with_context(|| path.display().to_string())
    }

    /// Readable, and with one line for each series.
    fn json(&self) -> anyhow::Result<String> {
        let mut text = String::from("{\n");
        for (key, value) in [
            ("name", serde_json::to_value(&self.name)?),
            ("machine", serde_json::to_value(&self.machine)?),
            ("idle", serde_json::to_value(&self.idle)?),
            ("settings", serde_json::to_value(&self.settings)?),
            ("notes", serde_json::to_value(&self.notes)?),
        ] {
            let _ = writeln!(text, "  \"{key}\": {value},");
        }
        let lines = |items: &[serde_json::Value]| {
            items.iter().map(|item| format!("    {item}")).collect::<Vec<_>>().join(",\n")
        };
        let values = |items: serde_json::Value| items.as_array().cloned().unwrap_or_default();
        let figures = lines(&values(serde_json::to_value(&self.figures)?));
        let series = lines(&values(serde_json::to_value(&self.series)?));
        let _ = writeln!(text, "  \"figures\": [\n{figures}\n  ],\n  \"series\": [\n{series}\n  ]\n}}");
        Ok(text)
    }

    /// Reads what [`write`](Self::write) wrote; `None` if there is nothing of that name.
    pub(crate) fn read(directory: &Path, name: &str) -> anyhow::Result<Option<Self>> {
        let path = directory.join(format!("{name}.json"));
        match std::fs::read(&path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).with_context(|| path.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    /// The figures, one a line, for a terminal.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{} ({})\n{}\n", self.name, self.machine, self.idle_text());
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        let rows: Vec<[String; 6]> = self.figures.iter().map(Figure::cells).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row.get(column).map_or(0, String::len));
            cells.chain(HEAD.get(column).map(|head| head.len())).max().unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        for row in std::iter::once(&HEAD.map(str::to_owned)).chain(&rows) {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        }
        text
    }

    /// The same as a section of a page.
    pub(crate) fn markdown(&self) -> String {
        let settings: Vec<String> = self.settings.iter().map(|(key, value)| setting(key, value)).collect();
        let mut text = format!("### {}\n\n{}; {}.", self.name, self.machine, self.idle_text());
        let _ = writeln!(text, " Settings: {}.", settings.join(", "));
        for note in &self.notes {
            let _ = writeln!(text, "\nNote: {note}.");
        }
        let _ = writeln!(text, "\n| {} |\n|{}", HEAD.join(" | "), " --- |".repeat(HEAD.len()));
        for figure in &self.figures {
            let _ = writeln!(text, "| {} |", figure.cells().join(" | "));
        }
        text
    }

    fn idle_text(&self) -> String {
        let idle: Vec<String> = self.idle.iter().map(|share| format!("{:.0}%", 100.0 * share)).collect();
        format!("idle before and after: {}", idle.join(", "))
    }
}

/// What the cells of a figure are.
const HEAD: [&str; 6] = ["figure", "ours", "reference", "ratio", "target", "met?"];

fn setting(key: &str, value: &serde_json::Value) -> String {
    let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    format!("{} {value}", key.replace('_', " "))
}

impl Figure {
    fn cells(&self) -> [String; 6] {
        let unit = &self.unit;
        let number = |value: f64| format!("{value:.*} {unit}", if value < 100.0 { 2 } else { 0 });
        let target = match self.target {
            Some(Target::AtMost(limit)) => format!("<= {limit}"),
            Some(Target::AtLeast(limit)) => format!(">= {limit}"),
            None => String::new(),
        };
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let ratio = self.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let reference = self.reference.map_or(String::new(), number);
        [self.what.clone(), number(self.value), reference, ratio, target, met.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report {
            name: "test".into(),
            machine: Machine::default(),
            idle: vec![1.0],
            settings: serde_json::Map::new(),
            notes: vec![],
            series: vec![],
            figures: vec![],
        };
        for (ours, theirs) in [(10.0, 10.0), (12.0, 9.0), (11.0, 30.0)] {
            report.sample("ours", "ms", ours);
            report.sample("theirs", "ms", theirs);
        }
        report
    }

    #[test]
    fn a_figure_is_a_ratio_of_medians_and_met_or_not() {
        let mut report = report();
        let draw = |report: &mut Report, target| {
            report.figure("x", "ours", Statistic::Median, Some("theirs"), Some(target)).expect("a figure");
            report.figures.last().expect("a figure").met
        };
        assert_eq!(draw(&mut report, Target::AtMost(1.1)), Some(true));
        assert_eq!(draw(&mut report, Target::AtMost(1.09)), Some(false));
        assert_eq!(draw(&mut report, Target::AtLeast(1.1)), Some(true));
        let table = report.table();
        assert!(table.contains("11.00 ms") && table.contains("**no**") && table.contains("<= 1.1"), "{table}");
        let page = report.markdown();
        assert!(page.contains("| x | 11.00 ms | 10.00 ms | 1.10 | <= 1.1 | yes |"), "{page}");
        report.figure("x", "nothing", Statistic::Median, None, None).expect_err("no such series");
    }

    #[test]
    fn the_raw_samples_are_kept_as_json() {
        let mut report = report();
        report.figure("x", "ours", Statistic::P99, None, Some(Target::AtMost(12.0))).expect("a figure");
        let json: serde_json::Value = serde_json::from_str(&report.json().expect("written")).expect("JSON");
        assert_eq!(json["series"][0]["samples"], serde_json::json!([10.0, 12.0, 11.0]));
        assert_eq!(json["figures"][0]["met"], true);
        assert_eq!(json["figures"][0]["target"]["at_most"], 12.0);
        let dir = tempfile::tempdir().expect("a directory");
        report.write(dir.path()).expect("written");
        let read = Report::read(dir.path(), "test").expect("read").expect("there");
        assert_eq!(read.markdown(), report.markdown());
        assert!(Report::read(dir.path(), "other").expect("read").is_none());
    }
}
