//! The one notification: a container has ended.

use serde::{Deserialize, Serialize};

use crate::call::Done;
use crate::encode::{EncodeError, Writer, encode};
use crate::frame::SizeLimit;
use crate::guid::Guid;
use crate::header::MessageType;
use crate::hresult::Hresult;
use crate::ids::ContainerId;
use crate::json::{JsonError, RawJson, from_slice, text};
use crate::object::{is_empty, words};

/// A container has ended: its init process is gone, its output drained, and a wait for it answered.
///
/// Exactly one follows each container that was made, at any time, before or after the answer to the wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerNotification {
    /// The container.
    #[serde(rename = "ContainerId")]
    pub container_id: ContainerId,
    /// That of the request that made the container.
    #[serde(rename = "ActivityId", default, skip_serializing_if = "is_empty")]
    pub activity_id: Option<Guid>,
    /// How it ended. Not to be relied on: a container that dies at once is at times reported as
    /// [`ExitType::UnexpectedExit`] although it was terminated.
    #[serde(rename = "Type")]
    pub exit_type: ExitType,
    /// What it was doing: always [`Operation::None`].
    #[serde(rename = "Operation", default)]
    pub operation: Operation,
    /// Always 0.
    #[serde(rename = "Result", default)]
    pub result: Hresult,
    /// More about it, never sent by Linux guests. On the wire a string that holds JSON.
    #[serde(rename = "ResultInfo", default, with = "text::optional", skip_serializing_if = "is_empty")]
    pub result_info: Option<RawJson>,
}

impl ContainerNotification {
    /// The notification that a Linux guest sends.
    pub fn new(container_id: ContainerId, activity_id: Option<Guid>, exit_type: ExitType) -> Self {
        Self {
            container_id,
            activity_id,
            exit_type,
            operation: Operation::None,
            result: Hresult::OK,
            result_info: None,
        }
    }

    /// Writes its frame.
    ///
    /// # Errors
    /// [`EncodeError`]: the host would not take it, because of an id or a `result_info` of absurd length.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        encode(Writer::Guest, SizeLimit::FROM_GUEST, MessageType::CONTAINER_NOTIFICATION, 0, self, &Done {})
    }

    /// Reads it from a frame's type and payload.
    ///
    /// # Errors
    /// [`NotificationError`]: it is another notification, or does not decode. The peer does not keep to the protocol.
    pub fn decode(message_type: MessageType, payload: &[u8]) -> Result<Self, NotificationError> {
        if message_type != MessageType::CONTAINER_NOTIFICATION {
            return Err(NotificationError::Unknown { message_type });
        }
        from_slice(payload).map_err(|source| NotificationError::Malformed { source })
    }
}

words! {
    /// How a container ended. Linux guests send the first three.
    pub enum ExitType {
        /// The last signal sent to it through the bridge was SIGTERM.
        GracefulExit = "GracefulExit",
        /// The last signal sent to it through the bridge was SIGKILL.
        ForcedExit = "ForcedExit",
        /// Anything else, also a normal exit with status 0.
        UnexpectedExit = "UnexpectedExit",
        /// Nothing happened.
        None = "None",
        /// It restarts.
        Reboot = "Reboot",
        /// It was made.
        Constructed = "Constructed",
        /// It was started.
        Started = "Started",
        /// It was paused.
        Paused = "Paused",
        /// Nobody knows.
        Unknown = "Unknown",
    }
}

words! {
    /// What a container was doing when the notification was made.
    #[derive(Default)]
    pub enum Operation {
        /// Nothing: what Linux guests send.
        #[default]
        None = "None",
        /// It was being made.
        Construct = "Construct",
        /// It was being started.
        Start = "Start",
        /// It was being paused.
        Pause = "Pause",
        /// It was being resumed.
        Resume = "Resume",
        /// It was being shut down.
        Shutdown = "Shutdown",
        /// It was being terminated.
        Terminate = "Terminate",
    }
}

/// A notification that cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotificationError {
    /// There is no such notification.
    #[error("{message_type} is no notification that a guest may send")]
    Unknown {
        /// What the header says the message is.
        message_type: MessageType,
    },
    /// It does not decode.
    #[error("ContainerNotification does not decode")]
    Malformed {
        /// What is wrong with it.
        source: JsonError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_of_another_type_is_refused() {
        let error = ContainerNotification::decode(MessageType::from_bits(0x3010_0201), b"{}").unwrap_err();
        assert_eq!(error.to_string(), "message of type 0x30100201 is no notification that a guest may send");
    }

    #[test]
    fn container_and_type_must_be_there_and_the_activity_a_guid() {
        let decode = |text: &str| ContainerNotification::decode(MessageType::CONTAINER_NOTIFICATION, text.as_bytes());
        let short = decode(r#"{"ContainerId":"c","Type":"Novel","ResultInfo":""}"#).unwrap();
        assert_eq!(short, ContainerNotification::new("c".into(), None, ExitType::Other("Novel".into())));
        for bad in [
            "{}",
            r#"{"ContainerId":"c"}"#,
            r#"{"Type":"None"}"#,
            r#"{"ContainerId":"c","Type":"None","ActivityId":""}"#,
            r#"{"ContainerId":"c","Type":"None","ResultInfo":"{"}"#,
            r#"{"ContainerId":"c","Type":"None","Result":2147483648}"#,
        ] {
            assert!(matches!(decode(bad), Err(NotificationError::Malformed { .. })), "{bad}");
        }
    }
}
