//! The page with all figures: the part between two marks is written anew from the samples that are kept.

use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::report::Report;

const BEGIN: &str = "<!-- figures: written by `cargo xtask bench` -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Writes the tables of those `names` of which there are samples in `directory` into `page`.
pub(crate) fn update(page: &Path, directory: &Path, names: &[&str]) -> anyhow::Result<()> {
    let mut tables = Vec::new();
    for name in names {
        if let Some(report) = Report::read(directory, name)? {
            tables.push(report.markdown());
        }
    }
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let text = replace(&text, &tables.join("\n")).with_context(|| format!("{} has no marks", page.display()))?;
    fs::write(page, text).with_context(|| page.display().to_string())
}

/// `text` with `tables` between its marks.
fn replace(text: &str, tables: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = format!("# Title\n\n{BEGIN}old\n{END}\nreasons\n");
        let new = replace(&page, "new\n").expect("marks");
        assert_eq!(new, format!("# Title\n\n{BEGIN}\nnew\n\n{END}\nreasons\n"));
        assert_eq!(replace(&new, "new\n").expect("marks"), new);
        assert_eq!(replace("no marks", "new"), None);
        assert_eq!(replace(END, "new"), None);
    }
}
