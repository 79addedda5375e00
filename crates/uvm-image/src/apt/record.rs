//! apt's record of a package.

use std::fmt;

use crate::digest::Sha256;

/// A package that can be downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    pub(crate) size: u64,
    pub(crate) sha256: Sha256,
    pub(crate) depends: Vec<Dependency>,
}

/// One thing a package depends on; of alternatives, the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// The one version that serves, if there is only one.
    pub(crate) exactly: Option<String>,
}

impl Package {
    /// Reads the first record in `text`. `None` if there is none; the reason if it cannot be used.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        let lines = text.lines().skip_while(|line| line.trim().is_empty()).take_while(|line| !line.trim().is_empty());
        let fields: Vec<_> =
            lines.filter(|line| !line.starts_with([' ', '\t'])).filter_map(|line| line.split_once(':')).collect();
        if fields.is_empty() {
            return None;
        }
        let field = |wanted: &str| {
            let value =
                fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim());
            value.ok_or_else(|| format!("it has no field {wanted}"))
        };
        let parse = || {
            let (name, version) = (field("Package")?, field("Version")?);
            if !is_name(name) || !is_version(version) {
                return Err(format!("{name:?} {version:?} are no name and version of a package"));
            }
            Ok(Self {
                name: name.to_owned(),
                version: version.to_owned(),
                architecture: field("Architecture")?.to_owned(),
                size: field("Size")?.parse().map_err(|_| "its size is no number".to_owned())?,
                sha256: field("SHA256")?.parse().map_err(|_| "its SHA256 is none".to_owned())?,
                depends: field("Depends").map(dependencies).unwrap_or_default(),
            })
        };
        Some(parse())
    }

    /// The file name under which it is kept.
    pub(crate) fn file_name(&self) -> String {
        let safe = |text: &str| text.replace(|c: char| !(c.is_ascii_alphanumeric() || "+-.~".contains(c)), "_");
        format!("{}_{}_{}.deb", self.name, safe(&self.version), safe(&self.architecture))
    }
}

/// Name and version, as in messages.
impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

/// `a (= 1), b:any | c, d (>= 2)`.
fn dependencies(text: &str) -> Vec<Dependency> {
    let first = |entry: &str| {
        let entry = entry.split('|').next()?.trim();
        let (name, rest) = entry.split_once([' ', '(']).unwrap_or((entry, ""));
        let name = name.split(':').next()?;
        let exactly = rest.trim_start_matches('(').trim_end_matches(')').strip_prefix("= ").map(str::trim);
        let exactly = exactly.filter(|version| is_version(version)).map(str::to_owned);
        is_name(name).then(|| Dependency { name: name.to_owned(), exactly })
    };
    text.split(',').filter_map(first).collect()
}

/// Debian's rule for package names; none of them can be taken for an option.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
        && text.len() <= 200
}

fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+:~-".contains(c))
        && text.len() <= 200
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: &str = "\
Package: linux-image-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Architecture: amd64
Depends: linux-image-6.1.0-56-amd64 (= 6.1.192-2), kmod:any | busybox, linux-base (>= 4.3~)
Description: Linux for 64-bit PCs (meta-package)
 more: of it
Size: 1480
SHA256: 45457bcfc86c87585800b5656bdf2773b063a3bb95486b0e820d51e870491f8d

Package: linux-image-amd64
Version: 6.1.176-1
";

    #[test]
    fn the_first_record_is_read() {
        let package = Package::parse(META).unwrap().unwrap();
        assert_eq!(package.to_string(), "linux-image-amd64 6.1.192-2");
        assert_eq!((package.size, package.file_name().as_str()), (1480, "linux-image-amd64_6.1.192-2_amd64.deb"));
        let dependency =
            |name: &str, exactly: Option<&str>| Dependency { name: name.into(), exactly: exactly.map(str::to_owned) };
        assert_eq!(
            package.depends,
            [
                dependency("linux-image-6.1.0-56-amd64", Some("6.1.192-2")),
                dependency("kmod", None),
                dependency("linux-base", None)
            ]
        );
    }

    #[test]
    fn no_record_and_unusable_records_are_told_apart() {
        assert_eq!(Package::parse("\n\n"), None);
        let without = |field: &str| META.lines().filter(|line| !line.starts_with(field)).collect::<Vec<_>>().join("\n");
        for field in ["Package", "Version", "Architecture", "Size", "SHA256"] {
            let second_record_starts = if field == "Package" || field == "Version" { "6.1.176" } else { "\u{0}" };
            let text = without(field).replace(second_record_starts, "x");
            let error = Package::parse(&text).unwrap().unwrap_err();
            assert!(error.contains(field), "{field}: {error}");
        }
        for (good, bad) in
            [("linux-image-amd64", "--option"), ("6.1.192-2", "-o x"), ("1480", "many"), ("45457", "XXXXX")]
        {
            Package::parse(&META.replacen(good, bad, 1)).unwrap().unwrap_err();
        }
    }

    #[test]
    fn file_names_hold_no_separators() {
        let epoch = META.replacen("6.1.192-2", "1:6.1.192-2", 2);
        assert_eq!(Package::parse(&epoch).unwrap().unwrap().file_name(), "linux-image-amd64_1_6.1.192-2_amd64.deb");
    }
}
