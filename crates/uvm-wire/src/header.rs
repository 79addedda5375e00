//! The 16 bytes in front of every message, and what the message type in them means.

use std::fmt;

/// What kind of message a type's top nibble announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageClass {
    /// Host to guest, answered by exactly one response.
    Request,
    /// Guest to host, carries the id of its request.
    Response,
    /// Guest to host, unasked, with id 0.
    Notification,
}

/// Which family of messages a type belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Category {
    /// Containers, processes and devices: everything a Linux guest serves.
    ComputeSystem,
    /// Services of the guest itself. Newer agents (2025-11), Windows guests only.
    ComputeService,
}

/// The `type` field of a header: class, category, number and version in 4, 8, 12 and 8 bits.
///
/// Any 32 bits are a `MessageType`, since a peer may send any; [`name`](Self::name) tells which are known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageType(u32);

impl MessageType {
    /// Makes a container from a configuration.
    pub const CREATE: Self = Self::compute_system_request(1);
    /// Starts a container: a no-op in Linux guests.
    pub const START: Self = Self::compute_system_request(2);
    /// Asks a container, or the VM, to end.
    pub const SHUTDOWN_GRACEFUL: Self = Self::compute_system_request(3);
    /// Ends a container, or the VM, at once.
    pub const SHUTDOWN_FORCED: Self = Self::compute_system_request(4);
    /// Runs a process, or starts a container's init process.
    pub const EXECUTE_PROCESS: Self = Self::compute_system_request(5);
    /// Waits for a process to end.
    pub const WAIT_FOR_PROCESS: Self = Self::compute_system_request(6);
    /// Sends a signal to a process.
    pub const SIGNAL_PROCESS: Self = Self::compute_system_request(7);
    /// Resizes the terminal of a process.
    pub const RESIZE_CONSOLE: Self = Self::compute_system_request(8);
    /// Reads statistics and process lists of a container.
    pub const GET_PROPERTIES: Self = Self::compute_system_request(9);
    /// Adds, removes or updates a resource of the VM or of a container.
    pub const MODIFY_SETTINGS: Self = Self::compute_system_request(10);
    /// Agrees on the protocol version; the first request of a connection.
    pub const NEGOTIATE_PROTOCOL: Self = Self::compute_system_request(11);
    /// Asks the agent for its own stacks.
    pub const DUMP_STACKS: Self = Self::compute_system_request(12);
    /// Forgets a container that has ended and frees its id.
    pub const DELETE_CONTAINER_STATE: Self = Self::compute_system_request(13);
    /// Changes a container's limits. Agents of January 2021; newer ones (2021-05) take `ContainerConstraints` instead.
    pub const UPDATE_CONTAINER: Self = Self::compute_system_request(14);
    /// A reserved number: never sent, never handled.
    pub const LIFECYCLE_NOTIFICATION: Self = Self::compute_system_request(15);
    /// Log forwarding of Windows guests. Newer agents (2025-11).
    pub const MODIFY_SERVICE_SETTINGS: Self = Self(0x1020_0101);
    /// A container has ended: the only notification there is.
    pub const CONTAINER_NOTIFICATION: Self = Self(0x3010_0101);

    /// Every request type with its name, in the order of their numbers.
    pub const REQUESTS: [(Self, &'static str); 16] = [
        (Self::CREATE, "Create"),
        (Self::START, "Start"),
        (Self::SHUTDOWN_GRACEFUL, "ShutdownGraceful"),
        (Self::SHUTDOWN_FORCED, "ShutdownForced"),
        (Self::EXECUTE_PROCESS, "ExecuteProcess"),
        (Self::WAIT_FOR_PROCESS, "WaitForProcess"),
        (Self::SIGNAL_PROCESS, "SignalProcess"),
        (Self::RESIZE_CONSOLE, "ResizeConsole"),
        (Self::GET_PROPERTIES, "GetProperties"),
        (Self::MODIFY_SETTINGS, "ModifySettings"),
        (Self::NEGOTIATE_PROTOCOL, "NegotiateProtocol"),
        (Self::DUMP_STACKS, "DumpStacks"),
        (Self::DELETE_CONTAINER_STATE, "DeleteContainerState"),
        (Self::UPDATE_CONTAINER, "UpdateContainer"),
        (Self::LIFECYCLE_NOTIFICATION, "LifecycleNotification"),
        (Self::MODIFY_SERVICE_SETTINGS, "ModifyServiceSettings"),
    ];

    const CLASS_MASK: u32 = 0xf000_0000;
    const REQUEST: u32 = 0x1000_0000;
    const RESPONSE: u32 = 0x2000_0000;
    const NOTIFICATION: u32 = 0x3000_0000;

    const fn compute_system_request(number: u32) -> Self {
        Self(Self::REQUEST | 0x0010_0000 | number << 8 | 1)
    }

    /// The type with these 32 bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The 32 bits as they stand in a header.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What the top nibble says; `None` for a nibble with no meaning.
    pub const fn class(self) -> Option<MessageClass> {
        match self.0 & Self::CLASS_MASK {
            Self::REQUEST => Some(MessageClass::Request),
            Self::RESPONSE => Some(MessageClass::Response),
            Self::NOTIFICATION => Some(MessageClass::Notification),
            _ => None,
        }
    }

    /// What the category byte says; `None` for one with no meaning.
    pub const fn category(self) -> Option<Category> {
        match self.0 >> 20 & 0xff {
            1 => Some(Category::ComputeSystem),
            2 => Some(Category::ComputeService),
            _ => None,
        }
    }

    /// The message number, unique within class and category.
    pub const fn number(self) -> u16 {
        (self.0 >> 8 & 0xfff) as u16
    }

    /// The version byte: 1 in every message there is.
    pub const fn version(self) -> u8 {
        self.0 as u8
    }

    /// The type that answers this one: the same low 28 bits under the top nibble of a response.
    ///
    /// Holds for any 32 bits, since a guest answers every message it gets, known or not.
    #[must_use]
    pub const fn response(self) -> Self {
        Self(self.0 & !Self::CLASS_MASK | Self::RESPONSE)
    }

    /// The name of the call, for logs: the same for a request and its response. `None` for a type that is not known.
    pub fn name(self) -> Option<&'static str> {
        let request = match self.class()? {
            MessageClass::Notification => {
                return (self == Self::CONTAINER_NOTIFICATION).then_some("ContainerNotification");
            }
            MessageClass::Request => self,
            MessageClass::Response => Self(self.0 & !Self::CLASS_MASK | Self::REQUEST),
        };
        Self::REQUESTS.iter().find(|(known, _)| *known == request).map(|(_, name)| *name)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        match (self.name(), self.class()) {
            (Some(name), Some(MessageClass::Request)) => write!(f, "{name} request"),
            (Some(name), Some(MessageClass::Response)) => write!(f, "{name} response"),
            (Some(name), _) => f.write_str(name),
            (None, _) => write!(f, "message of type 0x{bits:08x}"),
        }
    }
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        write!(f, "MessageType(0x{bits:08x}, {})", self.name().unwrap_or("unknown"))
    }
}

/// The header of one message. On the wire: `type` u32, `size` u32, `id` u64, all little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub message_type: MessageType,
    /// Bytes of the whole message, this header included.
    pub size: u32,
    /// Pairs a response with its request. A host counts up from 0; 0 in a notification.
    pub id: u64,
}

impl Header {
    /// Bytes a header takes.
    pub const LEN: usize = 16;

    /// Reads a header. Whether its size is allowed is judged by [`FrameDecoder`](crate::frame::FrameDecoder).
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let [t0, t1, t2, t3, s0, s1, s2, s3, id @ ..] = *bytes;
        Self {
            message_type: MessageType(u32::from_le_bytes([t0, t1, t2, t3])),
            size: u32::from_le_bytes([s0, s1, s2, s3]),
            id: u64::from_le_bytes(id),
        }
    }

    /// Writes a header.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.message_type.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.size.to_le_bytes());
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_of_the_protocol() {
        let bits: Vec<u32> = MessageType::REQUESTS.iter().map(|(kind, _)| kind.bits()).collect();
        let expected: Vec<u32> = (1..=15).map(|n| 0x1010_0001 | n << 8).chain([0x1020_0101]).collect();
        assert_eq!(bits, expected);
        for (kind, name) in MessageType::REQUESTS {
            assert_eq!(kind.class(), Some(MessageClass::Request));
            assert_eq!(kind.version(), 1);
            assert_eq!(kind.name(), Some(name));
            assert_eq!(kind.response().name(), Some(name));
            assert_eq!(kind.response().class(), Some(MessageClass::Response));
            assert_eq!(kind.response().bits(), kind.bits() + 0x1000_0000);
        }
        assert_eq!(MessageType::DUMP_STACKS.number(), 12);
        assert_eq!(MessageType::DUMP_STACKS.category(), Some(Category::ComputeSystem));
        assert_eq!(MessageType::MODIFY_SERVICE_SETTINGS.category(), Some(Category::ComputeService));
    }

    #[test]
    fn whatever_arrives_has_an_answering_type() {
        for (bits, answer) in [(0x3010_0101, 0x2010_0101), (0xffff_ffff, 0x2fff_ffff), (0, 0x2000_0000)] {
            assert_eq!(MessageType::from_bits(bits).response().bits(), answer);
        }
    }

    #[test]
    fn display_names_what_is_known_and_quotes_the_rest() {
        assert_eq!(MessageType::CREATE.to_string(), "Create request");
        assert_eq!(MessageType::CREATE.response().to_string(), "Create response");
        assert_eq!(MessageType::CONTAINER_NOTIFICATION.to_string(), "ContainerNotification");
        for unknown in [0x1010_0102, 0x1010_1001, 0x1030_0101, 0x3010_0201, 0x4010_0101] {
            let text = MessageType::from_bits(unknown).to_string();
            assert_eq!(text, format!("message of type 0x{unknown:08x}"));
        }
        assert_eq!(MessageType::from_bits(0x4010_0101).class(), None);
        assert_eq!(MessageType::from_bits(0x1030_0101).category(), None);
    }

    #[test]
    fn the_header_of_the_first_request_is_the_recorded_one() {
        let header = Header { message_type: MessageType::NEGOTIATE_PROTOCOL, size: 125, id: 0x0102_0304_0506_0708 };
        let bytes = [0x01, 0x0b, 0x10, 0x10, 0x7d, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(Header::from_bytes(&bytes), header);
    }
}
