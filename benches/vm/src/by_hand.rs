//! QEMU's monitor and a reference guest that carries out orders, both by hand: what is asked is written, what comes is read.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use uvm::LcowOptions;
use uvm::image::KernelSource;
use uvm_bench_guest::CONTROL_PORT;

use crate::bare::BareQemu;
use crate::command_line::QMP;
use crate::context::{Context, command_line};

/// The guest's program.
pub(crate) const GUEST: &str = "bench-guest-orders";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Boots the guest on our command line, with a port for orders in the multiplexer's place.
pub(crate) async fn boot(context: &Context, options: &LcowOptions) -> anyhow::Result<(BareQemu, Monitor, Guest)> {
    let line = command_line(context, options).await?.with_plain_ports(&[CONTROL_PORT]);
    let files = context.boot_files(KernelSource::Distribution, Some(GUEST))?;
    let mut qemu = BareQemu::spawn(context.host.program(), &line, &files)?;
    let monitor = Monitor::new(qemu.channel(QMP)?)?;
    let guest = Guest::connect(qemu.channel(CONTROL_PORT)?)?;
    Ok((qemu, monitor, guest))
}

/// A monitor.
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
    sent: u64,
    answers: BTreeMap<u64, Value>,
    /// Devices whose end was told and not asked for yet.
    deleted: Vec<String>,
}

impl Monitor {
    /// `socket` has been greeted.
    pub(crate) fn new(socket: UnixStream) -> anyhow::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { reader: BufReader::new(socket), sent: 0, answers: BTreeMap::new(), deleted: Vec::new() })
    }

    /// Sends a command, with a descriptor if it takes one. Its number.
    pub(crate) fn send(&mut self, command: &str, arguments: &Value, fd: Option<BorrowedFd<'_>>) -> anyhow::Result<u64> {
        self.sent += 1;
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments, "id": self.sent }));
        let mut socket = self.reader.get_ref();
        if let Some(fd) = fd {
            let fds = [fd];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ensure!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)), "there is room for one descriptor");
            let bytes = [IoSlice::new(line.as_bytes())];
            let written = sendmsg(socket.as_fd(), &bytes, &mut ancillary, SendFlags::empty())?;
            socket.write_all(line.as_bytes().get(written..).unwrap_or_default())?;
        } else {
            socket.write_all(line.as_bytes())?;
        }
        Ok(self.sent)
    }

    /// Waits for the answer of that number.
    pub(crate) fn answer(&mut self, number: u64) -> anyhow::Result<Value> {
        loop {
            if let Some(answer) = self.answers.remove(&number) {
                if let Some(error) = answer.get("error") {
                    bail!("QEMU: {error}");
                }
                return Ok(answer);
            }
            self.read()?;
        }
    }

    /// A command, and its answer.
    pub(crate) fn call(&mut self, command: &str, arguments: &Value, fd: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
        let number = self.send(command, arguments, fd)?;
        self.answer(number).with_context(|| command.to_owned())?;
        Ok(())
    }

    /// Waits until that device is gone.
    pub(crate) fn deleted(&mut self, device: &str) -> anyhow::Result<()> {
        loop {
            if let Some(index) = self.deleted.iter().position(|deleted| deleted == device) {
                self.deleted.swap_remove(index);
                return Ok(());
            }
            self.read()?;
        }
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let mut line = String::new();
        ensure!(self.reader.read_line(&mut line).context("QEMU's monitor")? > 0, "QEMU is gone");
        let message: Value = serde_json::from_str(&line)?;
        if let Some(number) = message.get("id").and_then(Value::as_u64) {
            self.answers.insert(number, message);
        } else if message.get("event").and_then(Value::as_str) == Some("DEVICE_DELETED") {
            let device = message.pointer("/data/device").and_then(Value::as_str);
            self.deleted.extend(device.map(ToOwned::to_owned));
        }
        Ok(())
    }
}

/// A guest that carries out orders.
pub(crate) struct Guest {
    reader: BufReader<UnixStream>,
    answers: BTreeMap<String, String>,
}

impl Guest {
    /// Waits until it is ready.
    pub(crate) fn connect(socket: UnixStream) -> anyhow::Result<Self> {
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut guest = Self { reader: BufReader::new(socket), answers: BTreeMap::new() };
        guest.done("ready").context("the reference guest did not come up")?;
        Ok(guest)
    }

    /// Tells it what to do; `id` is a word of the caller's.
    pub(crate) fn order(&self, id: &str, order: &str) -> anyhow::Result<()> {
        let mut socket = self.reader.get_ref();
        Ok(socket.write_all(format!("{id} {order}\n").as_bytes())?)
    }

    /// Waits until the order of that word has been carried out. What the program said, if it was to run one.
    pub(crate) fn done(&mut self, id: &str) -> anyhow::Result<String> {
        loop {
            if let Some(answer) = self.answers.remove(id) {
                let said = answer.strip_prefix("ok");
                let said = said.with_context(|| format!("the reference guest, order {id}: {answer}"))?;
                return Ok(said.trim().to_owned());
            }
            let mut line = String::new();
            ensure!(self.reader.read_line(&mut line).context("the reference guest")? > 0, "it is gone");
            let (id, answer) = line.trim_end().split_once(' ').context("an answer without a word")?;
            self.answers.insert(id.to_owned(), answer.to_owned());
        }
    }
}
