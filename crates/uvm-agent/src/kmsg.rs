//! Kernel messages, forwarded into the agent's log.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;

use crate::flags::Level;
use crate::log::Log;
use crate::sys;

/// The kernel gives one message a read; this is its own longest (`CONSOLE_EXT_LOG_MAX`).
const MAX_MESSAGE: usize = 8192;

/// Forwards messages of `level` and graver ones, for ever. That they cannot be read is an entry of the log.
pub(crate) async fn forward(log: Log, level: u8) {
    if let Err(e) = read_all(log.clone(), level).await {
        log.error("kernel messages are not forwarded", &e);
    }
}

async fn read_all(log: Log, level: u8) -> io::Result<()> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg")?;
    let kmsg = sys::watch(file, Interest::READABLE)?;
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let mut ready = kmsg.readable().await?;
        match read(kmsg.get_ref(), &mut buffer) {
            Ok(count) => {
                if let Some((priority, message)) = parse(&buffer[..count])
                    && priority <= level
                {
                    log.add(level_of(priority), message, &[("source", &"kernel")]);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            // Messages were overwritten before they were read: the next read goes on with the oldest one left.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {}
            Err(e) => return Err(e),
        }
    }
}

fn read(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    file.read(buffer)
}

/// Priority and text of a message of the kernel itself. The format: `PRIORITY,SEQUENCE,TIME,FLAGS[,...];TEXT\n...`.
fn parse(message: &[u8]) -> Option<(u8, String)> {
    let text = String::from_utf8_lossy(message);
    let (head, body) = text.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    // Above the three bits of the level is the facility; 0 is the kernel.
    if priority >> 3 != 0 {
        return None;
    }
    Some((u8::try_from(priority).ok()?, body.lines().next().unwrap_or_default().to_owned()))
}

fn level_of(priority: u8) -> Level {
    match priority {
        0..=3 => Level::Error,
        4 => Level::Warning,
        5 | 6 => Level::Info,
        _ => Level::Debug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_messages_are_taken() {
        assert_eq!(parse(b"4,120,3141592,-;a warning\n SUBSYSTEM=pci\n"), Some((4, "a warning".into())));
        assert_eq!(parse(b"30,1,2,-;from a program\n"), None);
        for nonsense in [&b""[..], b";", b"x,1;y", b"4294967296,1;y", b"4,1"] {
            assert_eq!(parse(nonsense), None);
        }
        assert_eq!(
            [0, 3, 4, 6, 7].map(level_of),
            [Level::Error, Level::Error, Level::Warning, Level::Info, Level::Debug]
        );
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_messages_never_panic(message: Vec<u8>) {
            let _ = parse(&message);
        }
    }
}
