//! The identifier of a utility VM, checked once at the edge.

use std::fmt;
use std::str::FromStr;

/// The identifier of a utility VM: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or a digit.
///
/// It names the VM to the host (a compute system on Windows, a state directory and a cgroup on Linux), so it holds
/// nothing that a path, a command line or a log would have to quote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UvmId(String);

impl UvmId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Checks `text`.
    ///
    /// # Errors
    /// [`InvalidUvmId`], which quotes the text and says what is allowed.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidUvmId> {
        let text = text.into();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts_well && text.len() <= Self::MAX_LEN && text.chars().all(allowed) {
            Ok(Self(text))
        } else {
            Err(InvalidUvmId { text })
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UvmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for UvmId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for UvmId {
    type Err = InvalidUvmId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// The text is no [`UvmId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no utility VM id: 1 to 64 of A-Z a-z 0-9 . _ - are allowed, the first a letter or a digit")]
pub struct InvalidUvmId {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_guids_and_names() {
        for good in ["a", "vm-under-test", "8d3a2c51-7f60-4b1e-9c42-5e8f00000001", "x.y_Z-9", &"a".repeat(64)] {
            assert_eq!(UvmId::new(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
    }

    #[test]
    fn refuses_what_a_path_would_have_to_quote() {
        for bad in ["", ".", "..", ".hidden", "-flag", "a/b", "a b", "a\0b", "ü", "a,b", &"a".repeat(65)] {
            let error = UvmId::new(bad).expect_err(bad);
            assert!(error.to_string().contains("1 to 64"), "{error}");
        }
    }
}
