//! Hyper-V sockets: one family of the system's sockets, with a VM and a service for an address.

use std::io;
use std::net::TcpStream;
use std::os::windows::io::{AsRawHandle, AsRawSocket, FromRawHandle, OwnedHandle, OwnedSocket};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::sync::mpsc;
use uvm_platform::stream::PollAccept;
use uvm_platform::{BoxFuture, GuestStream, PlatformError};
use uvm_wire::Guid;
use windows_sys::Win32::Foundation::{WAIT_FAILED, WAIT_OBJECT_0};
use windows_sys::Win32::Networking::WinSock::{FD_ACCEPT, WSAEventSelect};
use windows_sys::Win32::System::Threading::{CreateEventW, INFINITE, ResetEvent, SetEvent, WaitForMultipleObjects};
use windows_sys::core::GUID;

use super::blocking::blocking;
use super::{system_error, system_guid};
use crate::blocking_stream::BlockingStream;
use crate::host::{HcsError, HvSockets};

/// The Hyper-V sockets of this machine.
pub(super) struct HyperVSockets;

impl HvSockets for HyperVSockets {
    fn listen(&self, vm: Guid, service: Guid) -> Result<Box<dyn PollAccept>, HcsError> {
        let failed = |error: io::Error| system_error("listen on hvsocket", &format!("{vm}:{service}"), &error);
        listen(vm, service).map(|listener| Box::new(listener) as Box<dyn PollAccept>).map_err(failed)
    }

    fn connect(&self, vm: Guid, service: Guid) -> BoxFuture<'_, Result<GuestStream, HcsError>> {
        Box::pin(blocking("dial hvsocket", move |intent| {
            let connected = || -> io::Result<GuestStream> {
                let socket = new_socket()?;
                socket.connect(&address(vm, service)?)?;
                stream(socket)
            };
            connected().map_err(|error| system_error(intent, &format!("{vm}:{service}"), &error))
        }))
    }
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::from(i32::from(AF_HYPERV)), Type::STREAM, Some(Protocol::from(HV_PROTOCOL_RAW)))
}

/// A service in a VM.
fn address(vm: Guid, service: Guid) -> io::Result<SockAddr> {
    let address = HyperVAddress { family: AF_HYPERV, reserved: 0, vm: system_guid(vm), service: system_guid(service) };
    // SAFETY: the storage is larger than the address and aligned for any; the length is that of what is written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage.cast::<HyperVAddress>().write(address);
            *length = ADDRESS_LENGTH;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Moves a connected socket's bytes by threads.
fn stream(socket: Socket) -> io::Result<GuestStream> {
    let socket = TcpStream::from(OwnedSocket::from(socket));
    BlockingStream::new(socket).map(GuestStream::new)
}

/// An event of the system.
struct Event(OwnedHandle);

impl Event {
    fn new() -> io::Result<Self> {
        // SAFETY: no security is given, and no name; it is reset by hand and not set at first.
        let event = unsafe { CreateEventW(std::ptr::null(), 1, 0, std::ptr::null()) };
        if event.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is open, and nobody else has it.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(event) }))
    }

    fn set(&self) {
        // SAFETY: it is open. Setting one that is set is no failure.
        unsafe { SetEvent(self.0.as_raw_handle()) };
    }

    fn reset(&self) {
        // SAFETY: it is open.
        unsafe { ResetEvent(self.0.as_raw_handle()) };
    }
}

/// Accepts on a thread of its own until it is dropped.
struct Listener {
    accepted: mpsc::Receiver<io::Result<GuestStream>>,
    stop: Arc<Event>,
}

fn listen(vm: Guid, service: Guid) -> io::Result<Listener> {
    let socket = new_socket()?;
    socket.bind(&address(vm, service)?)?;
    socket.listen(BACKLOG)?;
    let (stop, dialled) = (Arc::new(Event::new()?), Event::new()?);
    select(&socket, Some(&dialled))?;
    let (sender, accepted) = mpsc::channel(BACKLOG as usize);
    let stopped = Arc::clone(&stop);
    thread::Builder::new().name("uvm-hcs-accept".into()).spawn(move || {
        if let Err(error) = accept_all(&socket, &dialled, &stopped, &sender) {
            // A listener that is gone does not want it.
            let _ = sender.blocking_send(Err(error));
        }
    })?;
    Ok(Listener { accepted, stop })
}

/// Has the event set when somebody dials; or no event any more.
fn select(socket: &Socket, event: Option<&Event>) -> io::Result<()> {
    let (event, what) = match event {
        Some(event) => (event.0.as_raw_handle() as isize, FD_ACCEPT.cast_signed()),
        None => (0, 0),
    };
    // SAFETY: the socket is open, and the event is too, or none.
    if unsafe { WSAEventSelect(socket.as_raw_socket() as usize, event, what) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn accept_all(
    socket: &Socket,
    dialled: &Event,
    stop: &Event,
    sender: &mpsc::Sender<io::Result<GuestStream>>,
) -> io::Result<()> {
    let events = [stop.0.as_raw_handle(), dialled.0.as_raw_handle()];
    loop {
        // SAFETY: both events are open as long as this function runs.
        match unsafe { WaitForMultipleObjects(events.len() as u32, events.as_ptr(), 0, INFINITE) } {
            WAIT_FAILED => return Err(io::Error::last_os_error()),
            WAIT_OBJECT_0 => return Ok(()),
            _ => dialled.reset(),
        }
        loop {
            let dialled = match socket.accept() {
                Ok((dialled, _)) => dialled,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Whoever dialled has hung up already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(error) => return Err(error),
            };
            // It has the listener's ways from its birth.
            let made =
                select(&dialled, None).and_then(|()| dialled.set_nonblocking(false)).and_then(|()| stream(dialled));
            match made {
                Ok(stream) => {
                    if sender.blocking_send(Ok(stream)).is_err() {
                        return Ok(());
                    }
                }
                Err(error) => tracing::warn!(%error, "a stream that the guest dialled is lost"),
            }
        }
    }
}

impl PollAccept for Listener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<GuestStream, PlatformError>> {
        self.accepted.poll_recv(cx).map(|accepted| match accepted {
            Some(accepted) => accepted.map_err(|error| PlatformError::host("accept", error)),
            None => Err(PlatformError::WrongState { intent: "accept", state: "gone" }),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.set();
    }
}

/// The address of a service in a VM.
#[repr(C)]
struct HyperVAddress {
    family: u16,
    reserved: u16,
    vm: GUID,
    service: GUID,
}

const ADDRESS_LENGTH: i32 = 36;
const _: () = assert!(size_of::<HyperVAddress>() == ADDRESS_LENGTH as usize);

const AF_HYPERV: u16 = 34;
const HV_PROTOCOL_RAW: i32 = 1;
/// Streams that wait to be accepted.
const BACKLOG: i32 = 64;
