//! What the kernel tells of devices: whoever waits for one looks when it has come, and not again and again, which would take
//! the processor from what makes it come.
//!
//! The kernel tells everybody who listens (`lib/kobject_uevent.c`). Its messages may be lost, and it may be built without
//! them, so they are no more than hints: without one, a look follows after a pause.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::log;

/// The kernel's own messages; another group is of programs that pass them on.
const GROUP: u32 = 1;
/// Of a message only the beginning counts, which is a path beneath /sys.
const MESSAGE: usize = 4096;
/// The shortest and the longest pause between looks where the kernel tells nothing.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// And where it does, lest a message was lost.
const PAUSE_WHEN_TOLD: Duration = Duration::from_millis(250);

/// Who waits for which device. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    listening: Listening,
    waiting: Vec<Waiting>,
    /// How many have waited so far: their numbers.
    count: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listening {
    /// Nobody has waited for a device.
    #[default]
    NotYet,
    /// A thread reads what the kernel says.
    Yes,
    /// There is nothing to be heard.
    Never,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    /// What is in the path of the device that is waited for.
    part: String,
    tell: SyncSender<()>,
}

/// Somebody's wait for a device, until it is dropped.
#[derive(Debug)]
pub(super) struct Arrival {
    arrivals: Arrivals,
    number: u64,
    told: Receiver<()>,
    began: Instant,
}

impl Arrivals {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for a device that has `part` in its path beneath /sys. What comes from now on is told, so a look that
    /// follows misses nothing.
    pub(super) fn expect(&self, part: String) -> Arrival {
        let mut books = self.books();
        if books.listening == Listening::NotYet {
            books.listening = match self.listen() {
                Ok(()) => Listening::Yes,
                Err(e) => {
                    log::console(format_args!("the kernel does not tell of devices, so they are looked for: {e}"));
                    Listening::Never
                }
            };
        }
        let (tell, told) = sync_channel(1);
        let number = books.count;
        books.count += 1;
        books.waiting.push(Waiting { number, part, tell });
        drop(books);
        Arrival { arrivals: self.clone(), number, told, began: Instant::now() }
    }

    fn listen(&self) -> std::io::Result<()> {
        let protocol = Some(netlink::KOBJECT_UEVENT);
        let socket =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP))?;
        self.listen_to(socket)
    }

    fn listen_to(&self, socket: OwnedFd) -> std::io::Result<()> {
        let arrivals = self.clone();
        thread::Builder::new().name("arrivals".into()).spawn(move || arrivals.pass_on(&socket)).map(drop)
    }

    /// Tells who waits, until there is nothing more to be heard.
    fn pass_on(&self, socket: &OwnedFd) {
        let mut message = [0; MESSAGE];
        loop {
            match rustix::net::recv(socket, &mut message[..], RecvFlags::empty()) {
                Ok((count @ 1.., _)) => {
                    if let Some(path) = added(&message[..count]) {
                        self.tell(|part| path.contains(part));
                    }
                }
                // Some were lost, of whatever devices.
                Err(Errno::NOBUFS) => self.tell(|_| true),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => break,
            }
        }
        self.books().listening = Listening::Never;
        self.tell(|_| true);
    }

    /// Tells those who wait for such a device.
    fn tell(&self, is_such: impl Fn(&str) -> bool) {
        for waiting in self.books().waiting.iter().filter(|waiting| is_such(&waiting.part)) {
            // One who was told and has not looked yet will.
            let _ = waiting.tell.try_send(());
        }
    }
}

impl Arrival {
    /// Waits until another look may find the device: the kernel has told of it, or a pause is over.
    pub(super) fn wait(&self) {
        let pause = match self.arrivals.books().listening {
            Listening::Yes => PAUSE_WHEN_TOLD,
            // A part of the time that was waited: it is found little later than it comes, and many who look do not keep the
            // kernel from finding theirs.
            Listening::NotYet | Listening::Never => (self.began.elapsed() / 4).clamp(PAUSES.0, PAUSES.1),
        };
        // Told or not: whoever waits looks.
        let _ = self.told.recv_timeout(pause);
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.arrivals.books().waiting.retain(|waiting| waiting.number != self.number);
    }
}

/// The path of a device that a message says was added: `add@/devices/...`, and attributes, each with a zero behind it.
fn added(message: &[u8]) -> Option<&str> {
    let head = message.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(head).ok()?.strip_prefix("add@")
}

#[cfg(test)]
impl Arrivals {
    /// Where the kernel tells nothing.
    pub(super) fn silent() -> Self {
        let arrivals = Self::default();
        arrivals.books().listening = Listening::Never;
        arrivals
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Arrivals that the test tells of by the other end.
    fn told() -> (Arrivals, OwnedFd) {
        let (kernel, ours) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a pair");
        let arrivals = Arrivals::default();
        arrivals.listen_to(ours).expect("a thread");
        arrivals.books().listening = Listening::Yes;
        (arrivals, kernel)
    }

    fn say(kernel: &OwnedFd, message: &str) {
        let sent = rustix::net::send(kernel, message.as_bytes(), rustix::net::SendFlags::empty());
        assert_eq!(sent.map_err(io::Error::from).expect("sent"), message.len());
    }

    #[test]
    fn whoever_waits_for_a_device_is_told_of_it_and_of_no_other() {
        let (arrivals, kernel) = told();
        let [first, second] = ["/0:0:1:5/block/", "/0:0:1:50/block/"].map(|part| arrivals.expect(part.into()));
        say(&kernel, "remove@/devices/host0/0:0:1:5/block/sda\0ACTION=remove\0");
        say(&kernel, "add@/devices/host0/0:0:1:5\0ACTION=add\0DEVPATH=/0:0:1:5/block/sda\0");
        say(&kernel, "add@/devices/host0/0:0:1:50/block/sdb\0ACTION=add\0");
        // Messages are passed on in their order.
        second.told.recv_timeout(Duration::from_secs(30)).expect("told");
        first.told.try_recv().expect_err("nobody told of it");
        say(&kernel, "add@/devices/host0/0:0:1:5/block/sda\0ACTION=add\0");
        first.told.recv_timeout(Duration::from_secs(30)).expect("told");
        drop((first, second));
        assert!(arrivals.books().waiting.is_empty());
    }

    #[test]
    fn whoever_waits_looks_by_himself_where_nothing_can_be_heard() {
        let (arrivals, kernel) = told();
        let arrival = arrivals.expect("/block/pmem0".into());
        drop(kernel);
        arrival.told.recv_timeout(Duration::from_secs(30)).expect("told of the end");
        assert_eq!(arrivals.books().listening, Listening::Never);
    }

    #[test]
    fn the_kernel_can_be_listened_to() {
        let arrivals = Arrivals::default();
        drop(arrivals.expect("/block/".into()));
        assert_eq!(arrivals.books().listening, Listening::Yes);
    }

    #[test]
    fn junk_is_no_device() {
        for junk in [&b""[..], b"\0", b"add", b"libudev\0add@/x", b"add\xff@/x", b"change@/x\0"] {
            assert_eq!(added(junk), None, "{junk:?}");
        }
        assert_eq!(added(b"add@/x"), Some("/x"));
    }
}
