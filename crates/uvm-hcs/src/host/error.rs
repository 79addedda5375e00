//! How a call to the host fails.

use std::fmt;

use uvm_wire::Hresult;

use crate::document::result::ResultDetail;

/// A call to the host that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HcsError {
    /// What was tried, as the object of "cannot": `start compute system`.
    pub intent: &'static str,
    /// With what: a system's id, a path.
    pub object: String,
    /// The result.
    pub code: Hresult,
    /// What the service said besides.
    pub detail: ResultDetail,
}

impl HcsError {
    /// The service was told to stop what has stopped.
    pub const ALREADY_STOPPED: Hresult = Hresult::SYSTEM_ALREADY_STOPPED;
    /// There is no such system.
    pub const NOT_FOUND: Hresult = Hresult::SYSTEM_NOT_FOUND;
    /// There is such a system already.
    pub const ALREADY_EXISTS: Hresult = Hresult::SYSTEM_ALREADY_EXISTS;
    /// It is under way, and will be told by a notification.
    pub const PENDING: Hresult = Hresult::from_bits(0xc037_0103);
    /// The system ended by itself, in a way it should not.
    pub const UNEXPECTED_EXIT: Hresult = Hresult::from_bits(0xc037_0106);
    /// There is no such network object.
    pub const NETWORK_NOT_FOUND: Hresult = Hresult::from_bits(0x803b_0002);

    /// A failure with what the service said of it.
    pub fn new(intent: &'static str, object: impl Into<String>, code: Hresult, detail: &str) -> Self {
        Self { intent, object: object.into(), code, detail: ResultDetail::read(detail) }
    }

    /// `true` if what was named is not there.
    pub fn is_not_found(&self) -> bool {
        let by_code = matches!(self.code, Self::NOT_FOUND | Self::NETWORK_NOT_FOUND | Hresult::NOT_FOUND);
        // The older requests of the network service tell it by this text alone.
        by_code || self.detail.error_message.starts_with("Element not found")
    }

    /// `true` if a system that was to end has ended, or will.
    pub fn is_ending(&self) -> bool {
        matches!(self.code, Self::ALREADY_STOPPED | Self::NOT_FOUND | Self::PENDING)
    }
}

impl fmt::Display for HcsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.intent, self.object, self.code)?;
        let meaning = match self.code {
            Self::ALREADY_STOPPED => " (it has stopped already)",
            Self::NOT_FOUND => " (there is none of this id)",
            Self::ALREADY_EXISTS => " (the id is taken)",
            Self::PENDING => " (it is under way)",
            Self::UNEXPECTED_EXIT => " (it exited unexpectedly)",
            Self::NETWORK_NOT_FOUND => " (there is no such network object)",
            _ => "",
        };
        write!(f, "{meaning}{}", self.detail)
    }
}

impl std::error::Error for HcsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_with_what_and_why() {
        let detail = r#"{"ErrorMessage":"The parameter is incorrect."}"#;
        let error = HcsError::new("start compute system", "vm", Hresult::from_bits(0x8007_0057), detail);
        assert_eq!(error.to_string(), "cannot start compute system vm: 0x80070057; The parameter is incorrect.");
        assert!(!error.is_ending());
        for (code, text) in [
            (HcsError::ALREADY_STOPPED, "cannot end vm: 0xc0370110 (it has stopped already)"),
            (HcsError::NOT_FOUND, "cannot end vm: 0xc037010e (there is none of this id)"),
            (HcsError::PENDING, "cannot end vm: 0xc0370103 (it is under way)"),
        ] {
            let error = HcsError::new("end", "vm", code, "");
            assert!(error.is_ending());
            assert_eq!(error.to_string(), text);
        }
        assert!(HcsError::new("find", "vm", HcsError::NOT_FOUND, "").is_not_found());
        assert!(HcsError::new("delete", "ns", Hresult::FAIL, "Element not found. ").is_not_found());
        assert!(!HcsError::new("delete", "ns", Hresult::FAIL, "denied").is_not_found());
    }
}
