//! Between QEMU and a share's helper: what QEMU says of the device is passed on and remembered, so that another process can
//! take the device over when the helper has died.
//!
//! QEMU 7.2 takes the end of the connection for the end of the device, and what the guest has asked is never answered then.
//! Only the few messages that set the device up pass through here; requests and data go through the guest's memory, which
//! this process does not map. Their descriptors it holds.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use super::vhost_user::{
    GET_FEATURES, GET_PROTOCOL_FEATURES, GET_VRING_BASE, Message, NEEDS_ANSWER, SET_FEATURES, SET_MEM_TABLE, SET_OWNER,
    SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR,
    SET_VRING_KICK, SET_VRING_NUM,
};

/// Who serves the device.
pub(super) struct Server {
    pub(super) connection: UnixStream,
    /// Ends it, when it has stalled.
    pub(super) end: Box<dyn Fn() + Send>,
}

/// Starts the relay on a thread of its own, which ends with QEMU's end of the connection. Returns that end, and where those
/// who take over are sent to; when that is dropped, the end of the helper is QEMU's end, too. Who has not answered QEMU for
/// `patience` is ended: QEMU stands still meanwhile, with the whole VM.
pub(super) fn start(helper: Server, patience: Duration) -> io::Result<(OwnedFd, mpsc::Sender<Server>)> {
    start_with(helper, Patience { answer: patience, successor: SUCCESSOR_WITHIN })
}

fn start_with(helper: Server, patience: Patience) -> io::Result<(OwnedFd, mpsc::Sender<Server>)> {
    let (qemu, theirs) = UnixStream::pair()?;
    let (successors, next) = mpsc::channel();
    let relay = move || {
        let mut device = Device::default();
        let mut helper = Some(helper);
        while let Some(current) = helper {
            match device.relay(&qemu, &current.connection, patience.answer) {
                End::Qemu => return,
                End::Helper => {}
                End::Stalled => (current.end)(),
            }
            drop(current);
            helper = device.succeeded_by(&next, patience.successor);
        }
    };
    thread::Builder::new().name("uvm-share".into()).stack_size(STACK).spawn(relay)?;
    Ok((theirs.into(), successors))
}

/// What is waited for how long.
#[derive(Clone, Copy)]
struct Patience {
    answer: Duration,
    successor: Duration,
}

/// What the thread needs: a message at a time.
const STACK: usize = 128 * 1024;
/// How long after a helper's end somebody may still come to take over. QEMU stands still if it waits for an answer then, with
/// the whole VM: starting a process takes a fraction of this, and with the end of its connection QEMU at least goes on.
const SUCCESSOR_WITHIN: Duration = Duration::from_secs(5);
/// What who has not answered in time is given once more.
const GRACE: Duration = Duration::from_millis(250);
/// How long one who takes over may take to be told all.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// What is remembered of the device as a whole, in the order in which one who takes over is told; and of each queue.
const OF_DEVICE: [u32; 4] = [SET_OWNER, SET_FEATURES, SET_PROTOCOL_FEATURES, SET_MEM_TABLE];
const OF_QUEUE: [u32; 7] =
    [SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_ENABLE];

/// Whose end it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Qemu,
    Helper,
    /// The helper's, which is still to be brought about.
    Stalled,
}

/// What QEMU has said of the device.
#[derive(Debug, Default)]
struct Device {
    whole: BTreeMap<u32, Message>,
    queues: BTreeMap<(u32, u32), Message>,
    /// What has been passed on and waits for its answer.
    asked: Option<Message>,
}

/// The device's: one for what is urgent, and one for requests.
const QUEUES: u32 = 2;

impl Device {
    /// Passes messages on until one of the two is gone, says what is none, or leaves QEMU without an answer.
    fn relay(&mut self, qemu: &UnixStream, helper: &UnixStream, patience: Duration) -> End {
        let (mut until, mut graced) = (Instant::now() + patience, false);
        // A message that does not come to its end, or is not taken, is no answer either.
        let limits = [helper.set_read_timeout(Some(patience)), helper.set_write_timeout(Some(patience))];
        if limits.iter().any(Result::is_err) {
            return End::Stalled;
        }
        loop {
            let mut both = [PollFd::new(qemu, PollFlags::IN), PollFd::new(helper, PollFlags::IN)];
            let left = until.saturating_duration_since(Instant::now());
            let left = self.asked.as_ref().and_then(|_| Timespec::try_from(left).ok());
            match poll(&mut both, left.as_ref()) {
                // Both may have been frozen: then the answer is there a moment later.
                Ok(0) if graced => return End::Stalled,
                Ok(0) => (until, graced) = (Instant::now() + GRACE, true),
                Ok(_) => graced = false,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return End::Qemu,
            }
            let [of_qemu, of_helper] = both.map(|fd| fd.revents());
            if !of_helper.is_empty() {
                let answer = match Message::read(helper) {
                    Ok(Some(answer)) => answer,
                    Err(e) if is_late(&e) => return End::Stalled,
                    Ok(None) | Err(_) => return End::Helper,
                };
                if answer.write(qemu, answer.flags).is_err() {
                    return End::Qemu;
                }
                self.asked = None;
            }
            if !of_qemu.is_empty() {
                let Ok(Some(message)) = Message::read(qemu) else { return End::Qemu };
                let passed_on = message.write(helper, message.flags);
                until = Instant::now() + patience;
                if self.remember(message).is_err() {
                    return End::Qemu;
                }
                match passed_on {
                    Ok(()) => {}
                    Err(e) if is_late(&e) => return End::Stalled,
                    Err(_) => return End::Helper,
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
            if message.queue() >= QUEUES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.queues.insert((message.queue(), message.request), message);
        }
        Ok(())
    }

    /// The first who takes over. One may have died before its turn, so what fails with one is tried with the next, until
    /// nobody has come for as long as `patience`.
    fn succeeded_by(&self, next: &mpsc::Receiver<Server>, patience: Duration) -> Option<Server> {
        let until = Instant::now() + patience;
        loop {
            let successor = next.recv_timeout(until.saturating_duration_since(Instant::now())).ok()?;
            match self.hand_over(&successor.connection) {
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
        // As the guest tells that it has asked; and as the one before would have told that it has answered, had it not died
        // in between. Neither is harm where it is not so, and a full counter wakes, too.
        let told = self.queues.iter().filter(|((_, request), _)| [SET_VRING_KICK, SET_VRING_CALL].contains(request));
        for counter in told.flat_map(|(_, message)| &message.descriptors) {
            wake(counter);
        }
        Ok(())
    }
}

/// Whether a connection's limit is what has ended a read or a write.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Adds one to a counter. What it is, QEMU has chosen: one that would have to be waited for is left alone.
fn wake(counter: &OwnedFd) {
    let mut one = [PollFd::new(counter, PollFlags::OUT)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut one, Some(&at_once)).is_ok() && one.iter().all(|fd| fd.revents() == PollFlags::OUT) {
        let _ = rustix::io::write(counter, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::vhost_user::{GET_CONFIG, HEADER_LEN};
    use super::*;

    /// A connection to somebody who serves the device, and the other end.
    fn server() -> (Server, UnixStream) {
        let (connection, helper) = UnixStream::pair().expect("a pair");
        (Server { connection, end: Box::new(|| ()) }, helper)
    }

    /// The same, and what tells that it is to end.
    fn server_to_end() -> (Server, UnixStream, mpsc::Receiver<()>) {
        let (mut server, helper) = server();
        let (ended, end) = mpsc::channel();
        server.end = Box::new(move || ended.send(()).expect("somebody listens"));
        (server, helper, end)
    }

    /// Longer than a test takes.
    const LONG: Duration = Duration::from_secs(600);

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
        let (first, helper) = server();
        let (end, successors) = start(first, LONG).expect("a thread");
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
        let (second, successor) = server();
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
    fn nothing_is_kept_of_a_queue_that_the_device_does_not_have() {
        let mut device = Device::default();
        device.remember(number(1, SET_VRING_NUM)).expect("one of the two");
        device.remember(number(2, SET_VRING_NUM)).expect_err("a third one");
    }

    #[test]
    fn without_anybody_to_take_over_qemu_hears_of_the_end() {
        let (first, helper) = server();
        let (end, successors) = start(first, LONG).expect("a thread");
        let qemu = UnixStream::from(end);
        drop((helper, successors));
        assert!(Message::read(&qemu).expect("the end").is_none());
    }

    #[test]
    fn one_who_is_waited_for_in_vain_is_the_end() {
        let (first, helper) = server();
        let (end, successors) =
            start_with(first, Patience { answer: LONG, successor: Duration::from_millis(50) }).expect("a thread");
        let qemu = UnixStream::from(end);
        qemu.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        Message::plain(GET_FEATURES).write(&qemu, 1).expect("written");
        next(&helper);
        drop(helper);
        assert!(Message::read(&qemu).expect("the end").is_none());
        drop(successors);
    }

    #[test]
    fn one_who_does_not_answer_is_ended_and_the_next_is_asked() {
        let (first, helper, end) = server_to_end();
        let patience = Duration::from_secs(2);
        let (theirs, successors) = start(first, patience).expect("a thread");
        let qemu = UnixStream::from(theirs);
        // What is answered, and what QEMU does not wait for, may take its time.
        Message::plain(GET_FEATURES).write(&qemu, 1).expect("written");
        answers(&helper, 1);
        next(&qemu);
        number(0, SET_VRING_NUM).write(&qemu, 1).expect("written");
        assert_eq!(next(&helper).request, SET_VRING_NUM);
        assert!(end.recv_timeout(2 * patience).is_err(), "nobody waits for it");
        Message::plain(GET_CONFIG).write(&qemu, 1).expect("written");
        end.recv_timeout(LONG).expect("it is ended");
        let (second, successor) = server();
        successors.send(second).expect("it listens");
        let told = answers(&successor, 5);
        assert_eq!(told, [GET_FEATURES, GET_PROTOCOL_FEATURES, SET_VRING_NUM, GET_FEATURES, GET_CONFIG]);
        assert_eq!(next(&qemu).request, GET_CONFIG);
    }

    #[test]
    fn one_who_stops_in_the_midst_of_an_answer_is_ended() {
        let (first, mut helper, end) = server_to_end();
        let (theirs, successors) = start(first, Duration::from_millis(50)).expect("a thread");
        let qemu = UnixStream::from(theirs);
        helper.write_all(&[0; 4]).expect("written");
        end.recv_timeout(LONG).expect("it is ended");
        drop(successors);
        assert!(Message::read(&qemu).expect("the end").is_none());
    }

    #[test]
    fn one_who_has_died_meanwhile_is_passed_over() {
        let (first, helper) = server();
        let (end, successors) = start(first, LONG).expect("a thread");
        let qemu = UnixStream::from(end);
        Message::plain(GET_CONFIG).write(&qemu, 1).expect("written");
        next(&helper);
        let (dead, gone) = server();
        drop(gone);
        let (second, successor) = server();
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
        let (first, helper) = server();
        let (end, successors) = start(first, LONG).expect("a thread");
        let mut qemu = UnixStream::from(end);
        qemu.write_all(&[0xff; HEADER_LEN]).expect("written");
        assert!(Message::read(&helper).expect("the end").is_none());
        assert!(!matches!(Message::read(&qemu), Ok(Some(_))), "its connection has ended");
        drop(successors);
    }
}
