//! Hyper-V sockets, played on the loopback interface: what the program asks the system for by the family, the protocol
//! and the addresses of Hyper-V is checked, and done with TCP.

#![expect(unsafe_code, reason = "C interfaces; each block says why it is sound")]

use std::ffi::c_void;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Once;

use uvm_wire::Guid;
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, INVALID_SOCKET, IPPROTO_TCP, SOCK_STREAM, SOCKADDR, SOCKADDR_IN, SOCKET, SOCKET_ERROR, WSAEADDRINUSE,
    WSAEADDRNOTAVAIL, WSAECONNREFUSED, WSAEFAULT, WSAEPROTONOSUPPORT, WSAPROTOCOL_INFOW, WSASetLastError, WSASocketW,
    accept, bind, closesocket, connect, getsockname,
};
use windows_sys::core::GUID;

use crate::books::with;
use crate::system::RUNTIME_ID;
use crate::{as_handle, imports};

/// Puts these sockets in the place of the system's, once.
pub(crate) fn put_in_place() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let replaced: [(&str, *const c_void); 5] = [
            ("WSASocketW", socket_in_place as *const c_void),
            ("bind", bind_in_place as *const c_void),
            ("connect", connect_in_place as *const c_void),
            ("accept", accept_in_place as *const c_void),
            ("closesocket", closesocket_in_place as *const c_void),
        ];
        for (function, replacement) in replaced {
            // SAFETY: each is declared as the function whose name stands beside it, and this library is never unloaded
            // by the program, which may get callbacks at any time.
            unsafe { imports::replace("ws2_32.dll", function, replacement) };
        }
    });
}

/// Dials a service of the host, as a VM's guest.
pub(crate) fn dial(system: usize, service: Guid) -> io::Result<TcpStream> {
    let listening = with(|books| {
        let found = books.sockets.iter().find(|(_, listens)| **listens == Some(service));
        found.map(|(socket, _)| *socket)
    });
    let socket = listening.ok_or(io::ErrorKind::ConnectionRefused)?;
    let mut address = SOCKADDR_IN::default();
    let mut length = INTERNET_LENGTH;
    // SAFETY: the address is valid for a write of that length. A socket that was closed meanwhile gives an error.
    if unsafe { getsockname(socket, (&raw mut address).cast(), &raw mut length) } != 0 {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, u16::from_be(address.sin_port)))?;
    belongs_to(system, &stream)?;
    Ok(stream)
}

/// Listens for the host on a service, as a VM's guest.
pub(crate) fn listen(system: usize, service: Guid) -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    with(|books| {
        let system = books.systems.get_mut(&system).ok_or(io::ErrorKind::NotConnected)?;
        system.services.insert(service, port);
        Ok(listener)
    })
}

/// Has a stream of the guest end with its VM.
pub(crate) fn belongs_to(system: usize, stream: &TcpStream) -> io::Result<()> {
    let stream = stream.try_clone()?;
    with(|books| match books.systems.get_mut(&system) {
        Some(system) if system.state != "Stopped" => {
            system.streams.push(stream);
            Ok(())
        }
        _ => Err(io::ErrorKind::NotConnected.into()),
    })
}

/// The address of a service in a VM, as the system's headers have it.
#[repr(C)]
struct HyperVAddress {
    family: u16,
    reserved: u16,
    vm: GUID,
    service: GUID,
}

fn guid(guid: GUID) -> Guid {
    let ends = u64::from_be_bytes(guid.data4);
    let starts = u128::from(guid.data1) << 96 | u128::from(guid.data2) << 80 | u128::from(guid.data3) << 64;
    Guid::from_u128(starts | u128::from(ends))
}

/// The service, if this is an address of Hyper-V's and the socket is one of its; or why it cannot be used. `None`: it
/// is none of our business.
///
/// # Safety
/// The address is valid for reads of its length.
unsafe fn service(socket: SOCKET, address: *const SOCKADDR, length: i32) -> Option<Result<Guid, i32>> {
    let is_ours = with(|books| books.sockets.contains_key(&socket));
    // SAFETY: every address begins with its family.
    let is_hyper_v = unsafe { (*address).sa_family } == AF_HYPERV;
    if is_ours != is_hyper_v {
        with(|books| books.violation("a socket and an address of different families:", as_handle(socket)));
        return Some(Err(WSAEFAULT));
    }
    if !is_ours {
        return None;
    }
    if length != HYPER_V_LENGTH {
        with(|books| books.violation("the address of a Hyper-V socket has a wrong length:", as_handle(socket)));
        return Some(Err(WSAEFAULT));
    }
    // SAFETY: the length says that all of it is there.
    let address = unsafe { address.cast::<HyperVAddress>().read_unaligned() };
    let of_a_vm = address.reserved == 0
        && guid(address.vm).to_string() == RUNTIME_ID
        && with(|books| books.systems.values().any(|system| system.is_vm));
    Some(if of_a_vm { Ok(guid(address.service)) } else { Err(WSAEADDRNOTAVAIL) })
}

fn fails(error: i32) -> i32 {
    // SAFETY: any number may be set.
    unsafe { WSASetLastError(error) };
    SOCKET_ERROR
}

fn loopback(port: u16) -> SOCKADDR_IN {
    let mut address = SOCKADDR_IN { sin_family: AF_INET, sin_port: port.to_be(), ..SOCKADDR_IN::default() };
    address.sin_addr.S_un.S_addr = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
    address
}

unsafe extern "system" fn socket_in_place(
    family: i32,
    kind: i32,
    protocol: i32,
    information: *const WSAPROTOCOL_INFOW,
    group: u32,
    flags: u32,
) -> SOCKET {
    if family != i32::from(AF_HYPERV) {
        // SAFETY: as the caller says.
        return unsafe { WSASocketW(family, kind, protocol, information, group, flags) };
    }
    if (kind, protocol) != (SOCK_STREAM, HV_PROTOCOL_RAW) {
        fails(WSAEPROTONOSUPPORT);
        return INVALID_SOCKET;
    }
    // SAFETY: no information is given.
    let socket = unsafe { WSASocketW(i32::from(AF_INET), kind, IPPROTO_TCP, std::ptr::null(), group, flags) };
    if socket != INVALID_SOCKET {
        with(|books| books.sockets.insert(socket, None));
    }
    socket
}

unsafe extern "system" fn bind_in_place(socket: SOCKET, address: *const SOCKADDR, length: i32) -> i32 {
    // SAFETY: the caller gives an address of that length.
    let service = match unsafe { service(socket, address, length) } {
        // SAFETY: as the caller says.
        None => return unsafe { bind(socket, address, length) },
        Some(Err(error)) => return fails(error),
        Some(Ok(service)) => service,
    };
    if with(|books| books.sockets.values().any(|listens| *listens == Some(service))) {
        return fails(WSAEADDRINUSE);
    }
    let address = loopback(0);
    // SAFETY: the address is valid for reads of its length.
    let bound = unsafe { bind(socket, (&raw const address).cast(), INTERNET_LENGTH) };
    if bound == 0 {
        with(|books| books.sockets.insert(socket, Some(service)));
    }
    bound
}

unsafe extern "system" fn connect_in_place(socket: SOCKET, address: *const SOCKADDR, length: i32) -> i32 {
    // SAFETY: the caller gives an address of that length.
    let service = match unsafe { service(socket, address, length) } {
        // SAFETY: as the caller says.
        None => return unsafe { connect(socket, address, length) },
        Some(Err(error)) => return fails(error),
        Some(Ok(service)) => service,
    };
    let port = with(|books| books.systems.values().find_map(|system| system.services.get(&service).copied()));
    let Some(port) = port else { return fails(WSAECONNREFUSED) };
    let address = loopback(port);
    // SAFETY: the address is valid for reads of its length.
    unsafe { connect(socket, (&raw const address).cast(), INTERNET_LENGTH) }
}

unsafe extern "system" fn accept_in_place(socket: SOCKET, address: *mut SOCKADDR, length: *mut i32) -> SOCKET {
    // SAFETY: as the caller says.
    let accepted = unsafe { accept(socket, address, length) };
    with(|books| {
        if accepted != INVALID_SOCKET && books.sockets.contains_key(&socket) {
            books.sockets.insert(accepted, None);
        }
    });
    accepted
}

unsafe extern "system" fn closesocket_in_place(socket: SOCKET) -> i32 {
    // Before the system can give the number to another.
    with(|books| books.sockets.remove(&socket));
    // SAFETY: as the caller says.
    unsafe { closesocket(socket) }
}

const INTERNET_LENGTH: i32 = 16;
const HYPER_V_LENGTH: i32 = 36;
const _: () = assert!(size_of::<SOCKADDR_IN>() == INTERNET_LENGTH as usize);
const _: () = assert!(size_of::<HyperVAddress>() == HYPER_V_LENGTH as usize);

const AF_HYPERV: u16 = 34;
const HV_PROTOCOL_RAW: i32 = 1;
