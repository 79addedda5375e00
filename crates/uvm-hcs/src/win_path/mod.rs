//! Paths of a Windows host, on every system.
//!
//! `std::path` reads the paths of the system it runs on; documents for the Host Compute Service are made everywhere.
//! All of this is text: links, short names and what is on the disk are not looked at.

mod fold;
mod prefix;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::Path;

pub use prefix::Prefix;

use fold::fold;
use prefix::{is_separator, parse_prefix, without_verbatim};

/// A path of a Windows host, spelt as it was given.
///
/// Two are equal if they name the same place whatever their spelling: letter case, `/`, `.`, `..`, doubled separators,
/// and `\\?\` before a drive or a share do not count.
///
/// ```
/// use uvm_hcs::WinPath;
///
/// let path = WinPath::new(r"C:\boot").join("ROOTFS.VHDX");
/// assert_eq!(path, WinPath::new("c:/boot/./rootfs.vhdx"));
/// assert!(path.has_extension("vhdx"));
/// ```
#[derive(Clone)]
pub struct WinPath(String);

impl WinPath {
    /// The path with this spelling.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A path that was carried through `std` types; `None` if it is not Unicode.
    pub fn from_std(path: &Path) -> Option<Self> {
        path.to_str().map(Self::new)
    }

    /// The path as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the path begins with, before any directory.
    pub fn prefix(&self) -> Prefix<'_> {
        parse_prefix(&self.0).0
    }

    /// `true` if the path does not depend on a current drive or directory.
    pub fn is_absolute(&self) -> bool {
        let (prefix, length) = parse_prefix(&self.0);
        match prefix {
            Prefix::None => false,
            Prefix::Drive(_) => self.0[length..].starts_with(is_separator),
            Prefix::Share { .. } | Prefix::Device(_) | Prefix::Verbatim(_) => true,
        }
    }

    /// The shortest spelling: with backslashes only, without `.`, doubled separators, and `..` where something stands
    /// before it. A path behind `\\?\` stays as it is: there, Windows takes every character as it is.
    #[must_use]
    pub fn clean(&self) -> Self {
        if matches!(self.prefix(), Prefix::Verbatim(_)) {
            return self.clone();
        }
        Self(Parts::of(&self.0).to_text())
    }

    /// The path of `name` beneath this one, clean. A name with a drive or a share stands for itself; one that begins
    /// with a separator stays beneath.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let name_path = Self::new(name);
        if name_path.prefix() != Prefix::None || self.0.is_empty() {
            return name_path.clean();
        }
        let separator = if self.0.ends_with(is_separator) { "" } else { "\\" };
        if matches!(self.prefix(), Prefix::Verbatim(_)) {
            // What is behind such a prefix is not cleaned later, so it is now.
            let below = Parts::of(name.trim_start_matches(is_separator)).to_text();
            return Self(format!("{}{separator}{below}", self.0));
        }
        Self(format!("{}{separator}{}", self.0, name.trim_start_matches(is_separator))).clean()
    }

    /// The directory the path is in, clean; `None` for a root.
    pub fn parent(&self) -> Option<Self> {
        let mut parts = Parts::of(&self.0);
        match parts.names.pop() {
            None | Some("..") => None,
            Some(_) => Some(Self(parts.to_text())),
        }
    }

    /// The last name of the path; `None` for a root, and where that is `..`.
    pub fn file_name(&self) -> Option<&str> {
        Parts::of(&self.0).names.last().copied().filter(|name| *name != "..")
    }

    /// What is behind the last dot of the last name, without the dot; `None` if there is no dot, or only a leading one.
    pub fn extension(&self) -> Option<&str> {
        let (stem, extension) = self.file_name()?.rsplit_once('.')?;
        (!stem.is_empty()).then_some(extension)
    }

    /// Whether the extension is this one, in any letter case.
    pub fn has_extension(&self, wanted: &str) -> bool {
        self.extension().is_some_and(|extension| fold(extension).eq(fold(wanted)))
    }

    /// Where this path is beneath `root`, clean, in its own letter case; `None` if it is not beneath.
    pub fn beneath(&self, root: &Self) -> Option<String> {
        let (own, root) = (Parts::of(&self.0), Parts::of(&root.0));
        let same_start = fold(&own.head).eq(fold(&root.head)) && own.names.len() > root.names.len();
        let is_beneath = same_start && own.names.iter().zip(&root.names).all(|(a, b)| fold(a).eq(fold(b)));
        // What climbs out of where it is named is beneath nothing.
        let below = own.names.get(root.names.len()..).filter(|below| is_beneath && below.first() != Some(&".."))?;
        Some(below.join("\\"))
    }

    /// Whether this is a named pipe of the host itself: `\\.\pipe\NAME`.
    pub fn is_local_pipe(&self) -> bool {
        let is_device = matches!(self.prefix(), Prefix::Device(device) if device.eq_ignore_ascii_case("pipe"));
        is_device && !Parts::of(&self.0).names.is_empty()
    }

    /// What equality compares.
    pub fn key(&self) -> String {
        let plain = without_verbatim(&self.0).map(Self);
        fold(&plain.as_ref().unwrap_or(self).clean().0).collect()
    }
}

impl fmt::Debug for WinPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for WinPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq for WinPath {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.key() == other.key()
    }
}

impl Eq for WinPath {}

impl Hash for WinPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// A path taken apart: prefix and root, then names without `.`, and with `..` at the front only.
struct Parts<'a> {
    head: String,
    names: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (prefix, length) = parse_prefix(text);
        let mut head = prefix.to_text();
        let rest = text.get(length..).unwrap_or_default();
        // A share has no current directory: what it is followed by is always meant from its root.
        let is_rooted = rest.starts_with(is_separator) || matches!(prefix, Prefix::Share { .. });
        if is_rooted && !head.ends_with('\\') {
            head.push('\\');
        }
        if matches!(prefix, Prefix::Verbatim(_)) {
            return Self { head, names: rest.split('\\').filter(|name| !name.is_empty()).collect() };
        }
        let mut names: Vec<&str> = Vec::new();
        for name in rest.split(is_separator) {
            match name {
                "" | "." => {}
                ".." if names.last().is_some_and(|last| *last != "..") => {
                    names.pop();
                }
                ".." if is_rooted => {}
                name => names.push(name),
            }
        }
        Self { head, names }
    }

    fn to_text(&self) -> String {
        let names = self.names.join("\\");
        let is_relative = self.head.is_empty();
        if names.is_empty() && (is_relative || self.head.ends_with(':')) {
            return format!("{}.", self.head);
        }
        // Without this a name that only looks like a drive would become one.
        if is_relative && parse_prefix(&names).0 != Prefix::None {
            return format!(".\\{names}");
        }
        // A device's name and what is beneath it.
        let separator = if is_relative || names.is_empty() || self.head.ends_with(['\\', ':']) { "" } else { "\\" };
        format!("{}{separator}{names}", self.head)
    }
}

#[cfg(test)]
mod tests;
