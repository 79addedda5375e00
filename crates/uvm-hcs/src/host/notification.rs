//! What the service tells of a system by itself.

use serde::Deserialize;
use uvm_wire::Hresult;

/// Something the service tells of a system or a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// What happened.
    pub kind: NotificationKind,
    /// With which result.
    pub status: Hresult,
    /// JSON with more of it; may be empty.
    pub data: String,
}

impl Notification {
    /// A notification without data.
    pub fn new(kind: NotificationKind, status: Hresult) -> Self {
        Self { kind, status, data: String::new() }
    }

    /// An event of the compute core library, which numbers them differently and tells the result in the data.
    pub fn from_event(event: u32, data: String) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Told {
            status: i32,
        }
        let kind = match event {
            1 => NotificationKind::SystemExited,
            2 => NotificationKind::CrashInitiated,
            3 => NotificationKind::CrashReport,
            4 => NotificationKind::RdpEnhancedModeStateChanged,
            5 => NotificationKind::SiloJobCreated,
            6 => NotificationKind::GuestConnectionClosed,
            0x1_0000 => NotificationKind::ProcessExited,
            0x200_0000 => NotificationKind::ServiceDisconnect,
            other => NotificationKind::Other(other),
        };
        // Data of another shape has no result in it.
        let told: Told = serde_json::from_str(&data).unwrap_or_default();
        Self { kind, status: Hresult::from_bits(told.status.cast_unsigned()), data }
    }
}

/// Defines the kinds with their numbers.
macro_rules! kinds {
    ($($(#[$meta:meta])* $name:ident = $number:literal,)*) => {
        /// A kind of notification.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum NotificationKind {
            $($(#[$meta])* $name,)*
            /// One that is not known here.
            Other(u32),
        }

        impl NotificationKind {
            /// The kind of this number.
            pub const fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// Its number.
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Other(number) => number,
                }
            }
        }
    };
}

kinds! {
    /// A system has ended.
    SystemExited = 1,
    /// Its creation has ended.
    CreateCompleted = 2,
    /// Its start has ended.
    StartCompleted = 3,
    /// Its pause has ended.
    PauseCompleted = 4,
    /// Its resume has ended.
    ResumeCompleted = 5,
    /// Its guest crashed, and here is how.
    CrashReport = 6,
    /// A job for its processes was made.
    SiloJobCreated = 7,
    /// Its state was saved.
    SaveCompleted = 8,
    /// A remote desktop session changed.
    RdpEnhancedModeStateChanged = 9,
    /// It could not be shut down.
    ShutdownFailed = 10,
    /// Its properties are known.
    GetPropertiesCompleted = 11,
    /// A change of it has ended.
    ModifyCompleted = 12,
    /// Its guest begins to crash.
    CrashInitiated = 13,
    /// The service lost its connection to the guest.
    GuestConnectionClosed = 14,
    /// A process has ended.
    ProcessExited = 0x1_0000,
    /// The service itself is gone.
    ServiceDisconnect = 0x100_0000,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_in_the_terms_of_notifications() {
        let exit = Notification::from_event(1, r#"{"Status":-1070137082,"ExitType":"UnexpectedExit"}"#.into());
        assert_eq!((exit.kind, exit.status.bits()), (NotificationKind::SystemExited, 0xc037_0106));
        for (event, data, kind) in [
            (2, "", NotificationKind::CrashInitiated),
            (6, "{}", NotificationKind::GuestConnectionClosed),
            (0x1_0000, "[]", NotificationKind::ProcessExited),
            (0x200_0000, "nonsense", NotificationKind::ServiceDisconnect),
            (0x100_0000, "", NotificationKind::Other(0x100_0000)),
        ] {
            let notification = Notification::from_event(event, data.into());
            assert_eq!((notification.kind, notification.status), (kind, Hresult::OK));
        }
    }

    #[test]
    fn every_number_is_of_one_kind() {
        for number in (0..=20).chain([0x1_0000, 0x100_0000, u32::MAX]) {
            assert_eq!(NotificationKind::from_number(number).number(), number);
        }
        assert_eq!(NotificationKind::from_number(1), NotificationKind::SystemExited);
        assert_eq!(NotificationKind::from_number(15), NotificationKind::Other(15));
    }
}
