//! What a Windows path begins with: a drive, a share, a device.

/// What a path begins with, before any directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix<'a> {
    /// Nothing: the path depends on the current drive.
    None,
    /// `C:`.
    Drive(char),
    /// `\\server\share`.
    Share {
        /// The server.
        server: &'a str,
        /// What it shares; empty if the path ends before.
        share: &'a str,
    },
    /// `\\.\name`: something in the namespace of devices.
    Device(&'a str),
    /// `\\?\` and a drive, a `UNC\server\share` or a device. Windows takes what is behind it as it is.
    Verbatim(&'a str),
}

impl Prefix<'_> {
    /// The prefix with backslashes, without one behind it.
    pub(super) fn to_text(self) -> String {
        match self {
            Self::None => String::new(),
            Self::Drive(letter) => format!("{letter}:"),
            Self::Share { server, share: "" } => format!(r"\\{server}"),
            Self::Share { server, share } => format!(r"\\{server}\{share}"),
            Self::Device("") => r"\\.".into(),
            Self::Device(name) => format!(r"\\.\{name}"),
            Self::Verbatim(rest) => format!(r"\\?\{rest}"),
        }
    }
}

/// `text` without `\\?\`, if there is a way to write it so.
pub(super) fn without_verbatim(text: &str) -> Option<String> {
    let rest = text.strip_prefix(VERBATIM)?;
    if let Some(share) = after_unc(rest) {
        return Some(format!(r"\\{share}"));
    }
    let is_on_drive = matches!(parse_prefix(rest), (Prefix::Drive(_), 2)) && rest[2..].starts_with('\\');
    is_on_drive.then(|| rest.to_owned())
}

pub(super) fn is_separator(c: char) -> bool {
    matches!(c, '\\' | '/')
}

/// The prefix of `text`, and how many bytes of it that is.
pub(super) fn parse_prefix(text: &str) -> (Prefix<'_>, usize) {
    if let Some(rest) = text.strip_prefix(VERBATIM) {
        // The root is one name, or UNC and two.
        let names = if after_unc(rest).is_some() { 3 } else { 1 };
        let end = rest.match_indices('\\').nth(names - 1).map_or(rest.len(), |(at, _)| at);
        return (Prefix::Verbatim(&rest[..end]), VERBATIM.len() + end);
    }
    let bytes = text.as_bytes();
    match bytes {
        [letter, b':', ..] if letter.is_ascii_alphabetic() => (Prefix::Drive(char::from(*letter)), 2),
        [b'\\' | b'/', b'\\' | b'/', third, ..] if !is_separator(char::from(*third)) => double_separator(text),
        _ => (Prefix::None, 0),
    }
}

/// What begins with two separators and a name.
fn double_separator(text: &str) -> (Prefix<'_>, usize) {
    let name_end = |from: usize| text[from..].find(is_separator).map_or(text.len(), |at| from + at);
    let first_end = name_end(2);
    let first = &text[2..first_end];
    let second_start = text[first_end..].find(|c| !is_separator(c)).map_or(text.len(), |at| first_end + at);
    let second_end = name_end(second_start);
    let second = &text[second_start..second_end];
    // Without a second name, separators that follow are the root.
    let length = if second.is_empty() { first_end } else { second_end };
    match first {
        // Spelt with slashes, `\\?\` is not verbatim but another name of the devices.
        "." | "?" => (Prefix::Device(second), length),
        server => (Prefix::Share { server, share: second }, length),
    }
}

/// What is behind `UNC\`, which stands for the two backslashes of a share.
fn after_unc(rest: &str) -> Option<&str> {
    let (unc, share) = rest.split_at_checked(4)?;
    unc.eq_ignore_ascii_case(r"UNC\").then_some(share)
}

const VERBATIM: &str = r"\\?\";
