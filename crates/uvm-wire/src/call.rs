//! Every call a host can make: its type, its body, and what answers it.

use serde::{Deserialize, Serialize};

use crate::create::{Create, CreateReply};
use crate::encode::EncodeError;
use crate::execute::{ExecuteProcess, ExecuteProcessReply};
use crate::frame::SizeLimit;
use crate::header::MessageType;
use crate::json::{JsonError, from_checked};
use crate::modify::ModifySettings;
use crate::negotiate::{NegotiateProtocol, NegotiateProtocolReply};
use crate::process::{ResizeConsole, SignalProcess, WaitForProcess, WaitForProcessReply};
use crate::properties::{GetProperties, GetPropertiesReply};
use crate::request::{RequestBase, encode_request};
use crate::system::{
    DeleteContainerState, DumpStacks, DumpStacksReply, ShutdownForced, ShutdownGraceful, Start, UpdateContainer,
};

/// The body of a request: the keys behind those of the [`RequestBase`].
pub trait Rpc: Serialize + for<'de> Deserialize<'de> + Into<Call> + sealed::Sealed {
    /// The type of the request; its [`response`](MessageType::response) is that of the answer.
    const MESSAGE_TYPE: MessageType;
    /// What answers it when it succeeds.
    type Reply: Reply;
}

/// The body of a response to a call that succeeded: the keys behind `Result` and `ActivityId`.
pub trait Reply: Serialize + for<'de> Deserialize<'de> + sealed::Sealed {
    /// Makes the reply shorter, by `excess` bytes or more where it can. `false`: it cannot, and is as it was.
    ///
    /// Called only when a response is over the size limit, so a reply of a few numbers need not care.
    fn shrink(&mut self, _excess: usize) -> bool {
        false
    }
}

/// The reply of calls that have nothing to say but that they succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}

impl sealed::Sealed for Done {}
impl Reply for Done {}

/// Calls and replies are those of the protocol; their code relies on each being an object on the wire.
pub(crate) mod sealed {
    pub trait Sealed {}
}

macro_rules! calls {
    ($($(#[$meta:meta])* $name:ident = $message_type:ident -> $reply:ident;)*) => {
        /// The body of any request, as a guest gets it.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Call {
            $($(#[$meta])* $name(Box<$name>),)*
        }

        impl Call {
            /// The type of the request this is the body of.
            pub const fn message_type(&self) -> MessageType {
                match self {
                    $(Self::$name(_) => MessageType::$message_type,)*
                }
            }

            /// Writes the frame of the request with this body.
            pub(crate) fn encode(&self, id: u64, base: &RequestBase, limit: SizeLimit) -> Result<Vec<u8>, EncodeError> {
                match self {
                    $(Self::$name(body) => encode_request(id, base, &**body, limit),)*
                }
            }

            /// What reads the body of a request of this type from a checked text; `None` when there is no such call.
            pub(crate) fn reader(message_type: MessageType) -> Option<fn(&str) -> Result<Self, JsonError>> {
                match message_type {
                    $(MessageType::$message_type => Some(|text| from_checked::<$name>(text).map(Self::from)),)*
                    _ => None,
                }
            }
        }

        $(
            impl sealed::Sealed for $name {}

            impl Rpc for $name {
                const MESSAGE_TYPE: MessageType = MessageType::$message_type;
                type Reply = $reply;
            }

            impl From<$name> for Call {
                fn from(body: $name) -> Self {
                    Self::$name(Box::new(body))
                }
            }
        )*
    };
}

calls! {
    /// Agrees on the protocol version.
    NegotiateProtocol = NEGOTIATE_PROTOCOL -> NegotiateProtocolReply;
    /// Makes a container.
    Create = CREATE -> CreateReply;
    /// Starts a container: nothing to do in Linux guests.
    Start = START -> Done;
    /// Asks a container, or the VM, to end.
    ShutdownGraceful = SHUTDOWN_GRACEFUL -> Done;
    /// Ends a container, or the VM, at once.
    ShutdownForced = SHUTDOWN_FORCED -> Done;
    /// Runs a process, or starts a container's init process.
    ExecuteProcess = EXECUTE_PROCESS -> ExecuteProcessReply;
    /// Waits for a process to end.
    WaitForProcess = WAIT_FOR_PROCESS -> WaitForProcessReply;
    /// Sends a signal to a process.
    SignalProcess = SIGNAL_PROCESS -> Done;
    /// Resizes the terminal of a process.
    ResizeConsole = RESIZE_CONSOLE -> Done;
    /// Reads statistics and process lists of a container.
    GetProperties = GET_PROPERTIES -> GetPropertiesReply;
    /// Adds, removes or updates a resource.
    ModifySettings = MODIFY_SETTINGS -> Done;
    /// Asks the agent for its own stacks.
    DumpStacks = DUMP_STACKS -> DumpStacksReply;
    /// Forgets a container that has ended.
    DeleteContainerState = DELETE_CONTAINER_STATE -> Done;
    /// Changes a container's limits.
    UpdateContainer = UPDATE_CONTAINER -> Done;
}
