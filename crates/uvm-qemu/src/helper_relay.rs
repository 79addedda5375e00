//! Between QEMU and a share's helper: what QEMU says of the device is passed on and remembered, so that another process can
//! take the device over when the helper has died.
//!
//! QEMU 7.2 takes the end of the connection for the end of the device, and what the guest has asked is never answered then.
//! Only the few messages that set the device up pass through here; requests and data go through the guest's memory, which
//! this process does not map. Their descriptors it holds.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Starts the relay on a thread of its own, which ends with QEMU's end of the connection. Returns that end, and where
/// connections to those who take over are sent to; when that is dropped, the end of the helper is QEMU's end, too.
pub(crate) fn start(helper: UnixStream) -> io::Result<(OwnedFd, mpsc::Sender<UnixStream>)> {
    start_with(helper, SUCCESSOR_WITHIN)
}

fn start_with(helper: UnixStream, patience: Duration) -> io::Result<(OwnedFd, mpsc::Sender<UnixStream>)> {
    let (qemu, theirs) = UnixStream::pair()?;
    let (successors, next) = mpsc::channel();
    let relay = move || {
        let mut device = Device::default();
        let mut helper = Some(helper);
        while let Some(current) = helper {
            if device.relay(&qemu, &current) == End::Qemu {
                return;
            }
            drop(current);
            helper = device.succeeded_by(&next, patience);
        }
    };
    thread::Builder::new().name("uvm-share".into()).stack_size(STACK).spawn(relay)?;
    Ok((theirs.into(), successors))
}

/// What the thread needs: a message at a time.
const STACK: usize = 128 * 1024;
/// Request, flags, length of what follows.
const HEADER_LEN: usize = 12;
/// No message that is used here is longer.
const MOST_BYTES: usize = 4096;
/// No message brings more descriptors: one for each region of memory.
const MOST_DESCRIPTORS: usize = 16;
/// How long after a helper's end somebody may still come to take over. QEMU stands still if it waits for an answer then, with
/// the whole VM: starting a process takes a fraction of this, and with the end of its connection QEMU at least goes on.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(5);
/// How long one who takes over may take to be told all.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// Requests, by their numbers in the protocol (vhost-user).
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;
const GET_MAX_MEM_SLOTS: u32 = 36;

/// What is remembered of the device as a whole, in the order in which one who takes over is told; and of each queue.
const OF_DEVICE: [u32; 4] = [SET_OWNER, SET_FEATURES, SET_PROTOCOL_FEATURES, SET_MEM_TABLE];
const OF_QUEUE: [u32; 7] =
    [SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_ENABLE];
/// What is always answered.
const ANSWERED: [u32; 6] =
    [GET_FEATURES, GET_VRING_BASE, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_CONFIG, GET_MAX_MEM_SLOTS];
/// The flag of a request that is to be answered.
const NEEDS_ANSWER: u32 = 8;

/// Whose end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Qemu,
    Helper,
}

/// A message, and the descriptors that came with it.
#[derive(Debug)]
struct Message {
    request: u32,
    flags: u32,
    payload: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Message {
    /// A request without anything.
    fn plain(request: u32) -> Self {
        Self { request, flags: 1, payload: Vec::new(), descriptors: Vec::new() }
    }

    /// Reads one; `None` at the end of the connection.
    fn read(from: &UnixStream) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        let mut descriptors = Vec::new();
        let mut read = 0;
        // Descriptors come with the first byte.
        while let Some(rest) = header.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match receive(from, rest, &mut descriptors)? {
                0 if read == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
        }
        let word =
            |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let length = word(8) as usize;
        if length > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut payload = vec![0; length];
        let mut from = from;
        from.read_exact(&mut payload)?;
        Ok(Some(Self { request: word(0), flags: word(4), payload, descriptors }))
    }

    fn write(&self, to: &UnixStream, flags: u32) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).map_err(io::Error::other)?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len());
        for word in [self.request, flags, length] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        let descriptors: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(AsFd::as_fd).collect();
        let sent = transmit(to, &bytes, &descriptors)?;
        let mut to = to;
        to.write_all(bytes.get(sent..).unwrap_or_default())
    }

    fn is_answered(&self) -> bool {
        self.flags & NEEDS_ANSWER != 0 || ANSWERED.contains(&self.request)
    }

    /// The queue that one of [`OF_QUEUE`] is about: its number comes first, and for descriptors in the lowest byte.
    fn queue(&self) -> u32 {
        let first = self.payload.first_chunk().map_or(0, |first| u32::from_ne_bytes(*first));
        match self.request {
            SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => first & 0xff,
            _ => first,
        }
    }
}

/// What QEMU has said of the device.
#[derive(Debug, Default)]
struct Device {
    whole: BTreeMap<u32, Message>,
    queues: BTreeMap<(u32, u32), Message>,
    /// What has been passed on and waits for its answer.
    asked: Option<Message>,
}

/// Queues that are remembered at most; the device has two.
const MOST_QUEUES: usize = 16 * OF_QUEUE.len();

impl Device {
    /// Passes messages on until one of the two is gone, or says what is none.
    fn relay(&mut self, qemu: &UnixStream, helper: &UnixStream) -> End {
        loop {
            let mut both = [PollFd::new(qemu, PollFlags::IN), PollFd::new(helper, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return End::Qemu,
            }
            let [of_qemu, of_helper] = both.map(|fd| fd.revents());
            if !of_helper.is_empty() {
                let Ok(Some(answer)) = Message::read(helper) else { return End::Helper };
                if answer.write(qemu, answer.flags).is_err() {
                    return End::Qemu;
                }
                self.asked = None;
            }
            if !of_qemu.is_empty() {
                let Ok(Some(message)) = Message::read(qemu) else { return End::Qemu };
                let passed_on = message.write(helper, message.flags);
                if self.remember(message).is_err() {
                    return End::Qemu;
                }
                if passed_on.is_err() {
                    return End::Helper;
                }
            }
        }
    }

    fn remember(&mut self, message: Message) -> io::Result<()> {
        if message.request == GET_VRING_BASE {
            // The queue stops; nobody is to start it again.
            self.queues.remove(&(message.queue(), SET_VRING_KICK));
        }
        let kept = message.is_answered().then(|| message.copy()).transpose()?;
        if kept.is_some() {
            self.asked = kept;
        }
        if OF_DEVICE.contains(&message.request) {
            self.whole.insert(message.request, message);
        } else if OF_QUEUE.contains(&message.request) {
            self.queues.insert((message.queue(), message.request), message);
            if self.queues.len() > MOST_QUEUES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    /// The first who takes over. One may have died before its turn, so what fails with one is tried with the next, until
    /// nobody has come for as long as `patience`.
    fn succeeded_by(&self, next: &mpsc::Receiver<UnixStream>, patience: Duration) -> Option<UnixStream> {
        let until = Instant::now() + patience;
        loop {
            let successor = next.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            match self.hand_over(&successor) {
                Ok(()) => return Some(successor),
                Err(error) => tracing::debug!(%error, "a process does not take a share's device over"),
            }
        }
    }

    /// Tells one who takes over all that QEMU has said, has it look at the queues, and asks again what was not answered.
    fn hand_over(&self, successor: &UnixStream) -> io::Result<()> {
        let until = Instant::now() + TOLD_WITHIN;
        successor.set_write_timeout(Some(TOLD_WITHIN))?;
        let ask = |request| {
            Message::plain(request).write(successor, 1)?;
            let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            successor.set_read_timeout(Some(left.ok_or(io::ErrorKind::TimedOut)?))?;
            Message::read(successor)?.map(drop).ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        ask(GET_FEATURES)?;
        ask(GET_PROTOCOL_FEATURES)?;
        for message in OF_DEVICE.iter().filter_map(|request| self.whole.get(request)) {
            message.write(successor, message.flags & !NEEDS_ANSWER)?;
        }
        let numbers: Vec<u32> = self.queues.keys().map(|(queue, _)| *queue).collect();
        for queue in numbers.into_iter().collect::<std::collections::BTreeSet<_>>() {
            for message in OF_QUEUE.iter().filter_map(|request| self.queues.get(&(queue, *request))) {
                message.write(successor, message.flags & !NEEDS_ANSWER)?;
            }
        }
        // An answer says that it has come so far.
        ask(GET_FEATURES)?;
        if let Some(asked) = &self.asked {
            // QEMU waits for one answer: a setting that is told twice is the same setting.
            asked.write(successor, asked.flags)?;
        }
        successor.set_read_timeout(None)?;
        successor.set_write_timeout(None)?;
        // As the guest tells that it has asked; and as the one before would have told that it has answered, had it not died
        // in between. Neither is harm where it is not so, and a full counter wakes, too.
        let told = self.queues.iter().filter(|((_, request), _)| [SET_VRING_KICK, SET_VRING_CALL].contains(request));
        for counter in told.flat_map(|(_, message)| &message.descriptors) {
            wake(counter);
        }
        Ok(())
    }
}

/// Adds one to a counter. What it is, QEMU has chosen: one that would have to be waited for is left alone.
fn wake(counter: &OwnedFd) {
    let mut one = [PollFd::new(counter, PollFlags::OUT)];
    let at_once = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut one, Some(&at_once)).is_ok() && one.iter().all(|fd| fd.revents() == PollFlags::OUT) {
        let _ = rustix::io::write(counter, &1_u64.to_ne_bytes());
    }
}

impl Message {
    fn copy(&self) -> io::Result<Self> {
        Ok(Self {
            request: self.request,
            flags: self.flags,
            payload: self.payload.clone(),
            descriptors: self.descriptors.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?,
        })
    }
}

fn receive(from: &UnixStream, into: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(from, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    Ok(received.bytes)
}

fn transmit(to: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    loop {
        match sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            sent => return Ok(sent?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(payload: u64, request: u32) -> Message {
        Message { request, flags: 1, payload: payload.to_ne_bytes().to_vec(), descriptors: Vec::new() }
    }

    fn next(stream: &UnixStream) -> Message {
        Message::read(stream).expect("a message").expect("not the end")
    }

    /// Plays a helper that answers what is asked.
    fn answers(stream: &UnixStream, count: usize) -> Vec<u32> {
        let mut requests = Vec::new();
        while requests.len() < count {
            let message = next(stream);
            if message.is_answered() {
                number(7, message.request).write(stream, 5).expect("written");
            }
            requests.push(message.request);
        }
        requests
    }

    #[test]
    fn one_who_takes_over_is_told_all_and_asked_again() {
        let (first, helper) = UnixStream::pair().expect("a pair");
        let (end, successors) = start(first).expect("a thread");
        let qemu = UnixStream::from(end);
        let kick: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).expect("a counter");
        Message::plain(GET_FEATURES).write(&qemu, 1).expect("written");
        assert_eq!(answers(&helper, 1), [GET_FEATURES]);
        assert_eq!(next(&qemu).payload, 7_u64.to_ne_bytes());
        number(1, SET_FEATURES).write(&qemu, 1).expect("written");
        number(0, SET_VRING_NUM).write(&qemu, 1).expect("written");
        let with_kick = Message { descriptors: vec![kick.try_clone().expect("a copy")], ..number(0, SET_VRING_KICK) };
        with_kick.write(&qemu, 1).expect("written");
        number(3, SET_FEATURES).write(&qemu, 1 | NEEDS_ANSWER).expect("written");
        // It ends without an answer.
        let [_, _, _, last] = std::array::from_fn(|_| next(&helper));
        assert_eq!((last.request, last.flags), (SET_FEATURES, 1 | NEEDS_ANSWER));
        drop(helper);
        let (second, successor) = UnixStream::pair().expect("a pair");
        successors.send(second).expect("it listens");
        let told = answers(&successor, 7);
        let setup = [GET_FEATURES, GET_PROTOCOL_FEATURES, SET_FEATURES, SET_VRING_NUM, SET_VRING_KICK, GET_FEATURES];
        assert_eq!(told[..6], setup);
        assert_eq!(told[6], SET_FEATURES, "asked again");
        assert_eq!(next(&qemu).request, SET_FEATURES);
        let mut woken = [0; 8];
        rustix::io::read(&kick, &mut woken).expect("read");
        assert_eq!(u64::from_ne_bytes(woken), 1);
        // QEMU's end is everybody's.
        drop(qemu);
        assert!(Message::read(&successor).expect("the end").is_none());
    }

    #[test]
    fn without_anybody_to_take_over_qemu_hears_of_the_end() {
        let (first, helper) = UnixStream::pair().expect("a pair");
        let (end, successors) = start(first).expect("a thread");
        let qemu = UnixStream::from(end);
        drop((helper, successors));
        assert!(Message::read(&qemu).expect("the end").is_none());
    }

    #[test]
    fn one_who_is_waited_for_in_vain_is_the_end() {
        let (first, helper) = UnixStream::pair().expect("a pair");
        let (end, successors) = start_with(first, Duration::from_millis(50)).expect("a thread");
        let qemu = UnixStream::from(end);
        qemu.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        Message::plain(GET_FEATURES).write(&qemu, 1).expect("written");
        next(&helper);
        drop(helper);
        assert!(Message::read(&qemu).expect("the end").is_none());
        drop(successors);
    }

    #[test]
    fn one_who_has_died_meanwhile_is_passed_over() {
        let (first, helper) = UnixStream::pair().expect("a pair");
        let (end, successors) = start(first).expect("a thread");
        let qemu = UnixStream::from(end);
        Message::plain(GET_CONFIG).write(&qemu, 1).expect("written");
        next(&helper);
        let (dead, gone) = UnixStream::pair().expect("a pair");
        drop(gone);
        let (second, successor) = UnixStream::pair().expect("a pair");
        successors.send(dead).expect("it listens");
        successors.send(second).expect("it listens");
        drop(helper);
        assert_eq!(answers(&successor, 4), [GET_FEATURES, GET_PROTOCOL_FEATURES, GET_FEATURES, GET_CONFIG]);
        assert_eq!(next(&qemu).request, GET_CONFIG);
    }

    #[test]
    fn what_would_have_to_be_waited_for_is_not_woken() {
        let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
        rustix::io::ioctl_fionbio(&writer, true).expect("set");
        while rustix::io::write(&writer, &[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).expect("set");
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            wake(&writer);
            // Nor one whose other end is gone.
            drop(reader);
            wake(&writer);
            done.send(()).expect("somebody listens");
        });
        ended.recv_timeout(Duration::from_secs(60)).expect("it does not wait");
    }

    #[test]
    fn what_is_no_message_is_the_end() {
        let (first, helper) = UnixStream::pair().expect("a pair");
        let (end, successors) = start(first).expect("a thread");
        let mut qemu = UnixStream::from(end);
        qemu.write_all(&[0xff; HEADER_LEN]).expect("written");
        assert!(Message::read(&helper).expect("the end").is_none());
        assert!(successors.send(helper).is_err() || Message::read(&qemu).is_ok_and(|end| end.is_none()));
    }
}
