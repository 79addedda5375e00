//! Whom a request is for: a container, or the VM itself.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The `ContainerId` of a message: the id of a container, [`UVM`](Self::UVM) for the VM itself, or nothing.
///
/// A peer may send any text here, and a guest must be able to answer that no container has that id; so any text is a
/// `ContainerId`. Before one becomes a name in the guest, [`check_new`](Self::check_new) it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(Cow<'static, str>);

impl ContainerId {
    /// The VM itself: the GUID of zeros.
    pub const UVM: Self = Self(Cow::Borrowed("00000000-0000-0000-0000-000000000000"));
    /// Nobody: what `NegotiateProtocol` carries.
    pub const NONE: Self = Self(Cow::Borrowed(""));

    /// The longest id of a new container, in bytes: it becomes the name of one directory.
    pub const MAX_LEN: usize = 255;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the VM itself.
    pub fn is_uvm(&self) -> bool {
        *self == Self::UVM
    }

    /// Checks that a new container may have this id: 1 to 255 of `A-Z a-z 0-9 _ + . -`, but not `.`, `..` or the VM's.
    ///
    /// # Errors
    /// [`InvalidContainerId`], which quotes the id and says what is allowed.
    pub fn check_new(&self) -> Result<(), InvalidContainerId> {
        let text = self.as_str();
        let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'+' | b'.' | b'-');
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        if fits && text.bytes().all(allowed) && text != "." && text != ".." && !self.is_uvm() {
            Ok(())
        } else {
            Err(InvalidContainerId { text: text.chars().take(Self::MAX_LEN).collect() })
        }
    }
}

impl From<String> for ContainerId {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl From<&str> for ContainerId {
    fn from(text: &str) -> Self {
        Self(Cow::Owned(text.to_owned()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// No new container may have this id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no container id: 1 to 255 of A-Z a-z 0-9 _ + . - are allowed, but not \".\", \"..\" or the VM's own id"
)]
pub struct InvalidContainerId {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_containers_have_ids_that_are_one_path_component() {
        for good in ["a", "wb996526550", "A_b+c.d-e", "...", &"f".repeat(255)] {
            assert_eq!(ContainerId::from(good).check_new(), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "a\0", "ü", ContainerId::UVM.as_str(), &"f".repeat(256)] {
            let error = ContainerId::from(bad).check_new().expect_err(bad);
            assert!(error.to_string().contains("1 to 255"), "{error}");
        }
    }

    #[test]
    fn a_refused_id_is_not_quoted_at_any_length() {
        let error = ContainerId::from("/".repeat(1 << 20)).check_new().unwrap_err();
        assert!(error.to_string().len() < 512);
    }
}
