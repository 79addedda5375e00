//! How a call to the host fails.

use std::fmt;

use uvm_platform::GuestFault;
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
    /// What is asked for does not fit the state of a system or a process.
    pub const INVALID_STATE: Hresult = Hresult::from_bits(0xc037_0105);
    /// The process has ended.
    pub const PROCESS_ALREADY_STOPPED: Hresult = Hresult::from_bits(0xc037_011f);
    /// There is no such network object.
    pub const NETWORK_NOT_FOUND: Hresult = Hresult::from_bits(0x803b_0002);

    /// A failure with what the service said of it.
    pub fn new(intent: &'static str, object: impl Into<String>, code: Hresult, detail: &str) -> Self {
        Self { intent, object: object.into(), code, detail: ResultDetail::read(detail) }
    }

    /// `true` if it failed with one of these results. The service's own have two spellings: as results of its newer library
    /// (`0x8037....`), and as system statuses (`0xc037....`).
    pub fn is_any(&self, codes: &[Hresult]) -> bool {
        const STATUS: u32 = 0x4000_0000;
        codes.iter().any(|code| code.bits() & !STATUS == self.code.bits() & !STATUS)
    }

    /// `true` if what was named is not there.
    pub fn is_not_found(&self) -> bool {
        let by_code = self.is_any(&[Self::NOT_FOUND, Self::NETWORK_NOT_FOUND, Hresult::NOT_FOUND]);
        // The older requests of the network service tell it by this text alone.
        by_code || self.detail.error_message.starts_with("Element not found")
    }

    /// `true` if a system that was to end has ended, or will.
    pub fn is_ending(&self) -> bool {
        self.is_any(&[Self::ALREADY_STOPPED, Self::NOT_FOUND, Self::PENDING])
    }

    /// `true` if a process that was to be signalled, or changed, has ended.
    pub fn is_process_gone(&self) -> bool {
        let ended = [Self::PROCESS_ALREADY_STOPPED, Self::INVALID_STATE, Self::ALREADY_STOPPED, Self::NOT_FOUND];
        self.is_any(&ended) || self.code == Hresult::NOT_FOUND
    }

    /// What kind of failure at a container or a process it is.
    pub fn guest_fault(&self) -> GuestFault {
        let kinds: [(GuestFault, &[Hresult]); 5] = [
            (GuestFault::NotFound, &[Self::NOT_FOUND, Hresult::NOT_FOUND, FILE_NOT_FOUND, PATH_NOT_FOUND]),
            (GuestFault::AlreadyExists, &[Self::ALREADY_EXISTS]),
            (GuestFault::PermissionDenied, &[ACCESS_DENIED]),
            (GuestFault::WrongState, &[Self::ALREADY_STOPPED, Self::PROCESS_ALREADY_STOPPED, Self::INVALID_STATE]),
            (GuestFault::Unsupported, &[Hresult::NOT_IMPLEMENTED, NOT_SUPPORTED]),
        ];
        let kind = kinds.iter().find(|(_, codes)| self.is_any(codes));
        kind.map_or(GuestFault::Other, |(fault, _)| *fault)
    }
}

impl fmt::Display for HcsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.intent)?;
        if !self.object.is_empty() {
            write!(f, " {}", self.object)?;
        }
        let known = MEANINGS.iter().find(|(code, _)| self.is_any(&[*code]));
        let meaning = known.map(|(_, meaning)| format!(" ({meaning})")).unwrap_or_default();
        write!(f, ": {}{meaning}{}", self.code, self.detail)
    }
}

impl std::error::Error for HcsError {}

/// What results of the service mean, for messages.
const MEANINGS: [(Hresult, &str); 8] = [
    (HcsError::ALREADY_STOPPED, "it has stopped already"),
    (HcsError::NOT_FOUND, "there is none of this id"),
    (HcsError::ALREADY_EXISTS, "the id is taken"),
    (HcsError::PENDING, "it is under way"),
    (HcsError::UNEXPECTED_EXIT, "it exited unexpectedly"),
    (HcsError::INVALID_STATE, "its state does not allow it"),
    (HcsError::PROCESS_ALREADY_STOPPED, "the process has ended"),
    (HcsError::NETWORK_NOT_FOUND, "there is no such network object"),
];

/// Results of the system, which a guest's failures come as, too.
const FILE_NOT_FOUND: Hresult = Hresult::from_bits(0x8007_0002);
const PATH_NOT_FOUND: Hresult = Hresult::from_bits(0x8007_0003);
const ACCESS_DENIED: Hresult = Hresult::from_bits(0x8007_0005);
const NOT_SUPPORTED: Hresult = Hresult::from_bits(0x8007_0032);

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

    #[test]
    fn what_has_no_name_is_not_named_and_a_result_means_the_same_in_both_spellings() {
        for (error, text) in [
            (HcsError::new("look", "", Hresult::FAIL, ""), "cannot look: 0x80004005"),
            (
                HcsError::new("make", "c1", Hresult::from_bits(0x8037_010f), ""),
                "cannot make c1: 0x8037010f (the id is taken)",
            ),
            (HcsError::new("make", "c1", HcsError::ALREADY_EXISTS, ""), "cannot make c1: 0xc037010f (the id is taken)"),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_failure_in_the_guest_has_a_kind_in_both_spellings_of_its_code() {
        let error = |bits| HcsError::new("use", "it", Hresult::from_bits(bits), "");
        for (bits, fault, is_gone) in [
            (0x8037_010e, GuestFault::NotFound, true),
            (0xc037_010e, GuestFault::NotFound, true),
            (0x8007_0490, GuestFault::NotFound, true),
            (0x8007_0002, GuestFault::NotFound, false),
            (0x8037_010f, GuestFault::AlreadyExists, false),
            (0x8007_0005, GuestFault::PermissionDenied, false),
            (0x8037_011f, GuestFault::WrongState, true),
            (0xc037_0105, GuestFault::WrongState, true),
            (0x8000_4001, GuestFault::Unsupported, false),
            (0x8000_4005, GuestFault::Other, false),
        ] {
            assert_eq!((error(bits).guest_fault(), error(bits).is_process_gone()), (fault, is_gone), "{bits:#x}");
        }
        assert!(error(0x8037_0110).is_ending());
    }
}
