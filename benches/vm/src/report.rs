//! What a measurement found: all samples, and the figures drawn from them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::machine::Machine;
use crate::statistics::{median, quantile};

/// One measurement's outcome. Written as JSON, and printed as a table.
#[derive(Debug, Serialize)]
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
#[derive(Debug, Serialize)]
struct Series {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
}

/// One number, set against a reference and a target.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// What a ratio, or a value without a reference, should be.
#[derive(Clone, Copy, Debug, Serialize)]
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
    Max,
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
            Self::Max => quantile(samples, 1.0),
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
    pub(crate) fn sample(&mut self, name: &str, unit: &'static str, value: f64) {
        let value = (value * 1000.0).round() / 1000.0;
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.samples.push(value),
            None => self.series.push(Series { name: name.into(), unit, samples: vec![value] }),
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
            anyhow::Ok((value, series.unit))
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

    /// The figures, one a line.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{} ({})\n", self.name, self.machine);
        let idle: Vec<String> = self.idle.iter().map(|share| format!("{:.0}%", 100.0 * share)).collect();
        let _ = writeln!(text, "machine idle before and after: {}", idle.join(", "));
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        let width = self.figures.iter().map(|figure| figure.what.len()).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "{:width$} {:>10} {:6} {:>10} {:>6}  {:8} {}",
            "", "value", "", "reference", "ratio", "target", ""
        );
        for figure in &self.figures {
            let reference = figure.reference.map_or(String::new(), |value| format!("{value:.2}"));
            let ratio = figure.ratio.map_or(String::new(), |value| format!("{value:.2}"));
            let target = match figure.target {
                Some(Target::AtMost(limit)) => format!("<= {limit}"),
                Some(Target::AtLeast(limit)) => format!(">= {limit}"),
                None => String::new(),
            };
            let met = match figure.met {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "",
            };
            let (what, value, unit) = (&figure.what, figure.value, figure.unit);
            let _ = writeln!(text, "{what:width$} {value:10.2} {unit:6} {reference:>10} {ratio:>6}  {target:8} {met}");
        }
        text
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
        assert!(table.contains("11.00 ms") && table.contains("MISSED") && table.contains("<= 1.1"), "{table}");
        report.figure("x", "nothing", Statistic::Median, None, None).expect_err("no such series");
    }

    #[test]
    fn the_raw_samples_are_kept_as_json() {
        let mut report = report();
        report.figure("x", "ours", Statistic::Max, None, Some(Target::AtMost(12.0))).expect("a figure");
        let json: serde_json::Value = serde_json::from_str(&report.json().expect("written")).expect("JSON");
        assert_eq!(json["series"][0]["samples"], serde_json::json!([10.0, 12.0, 11.0]));
        assert_eq!(json["figures"][0]["met"], true);
        assert_eq!(json["figures"][0]["target"]["at_most"], 12.0);
    }
}
