//! Measurements, each against a reference in the same run.

/// Runs the one that is named, or all.
pub(crate) fn run(_arguments: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("nothing is measured yet")
}
