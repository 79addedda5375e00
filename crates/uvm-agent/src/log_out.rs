//! Where the log goes: to a port of the host, to a file or descriptor, or to the console.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::failure::with_causes;
use crate::link::Link;
use crate::log::{self, Log};

/// Between attempts to hand the log on.
const PAUSE: Duration = Duration::from_millis(100);
/// When nobody listens, the pause grows up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Which transport carries the log.
pub(crate) type Turn = tokio::sync::Mutex<()>;

/// Sends the log to `port`, for ever: a connection that is lost is made again, and no entry is lost with it that was not
/// handed on. That nobody listens is said on the console, once: the VM is worth more than its log.
///
/// Of several transports one carries the log: each dials when it has its `turn`, and keeps it while it is connected.
pub(crate) async fn send(link: Link, port: u32, log: Log, turn: Arc<Turn>) {
    let mut pause = PAUSE;
    let mut said = false;
    loop {
        if link.up().await.is_err() {
            return;
        }
        let taken = turn.lock().await;
        match link.dial(port).await {
            Ok(mut stream) => {
                pause = PAUSE;
                loop {
                    let entry = log.next().await;
                    if stream.write_all(entry.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                        log.put_back(entry);
                        break;
                    }
                }
            }
            Err(e) if !said => {
                said = true;
                log::console(format_args!("nobody takes the log, it is tried again: {}", with_causes(&e)));
            }
            Err(_) => {}
        }
        drop(taken);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Prints the log on the console: the host wants none of it.
pub(crate) async fn print(log: Log) {
    loop {
        log::console(log.next().await.trim_end());
    }
}

/// Opens a log file; what is in it stays.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// Writes the log to `file`, which may block. The end of whoever reads it is the end of the log: what comes then is dropped.
pub(crate) async fn write(file: File, log: Log) {
    if let Err(e) = write_all(file, &log).await {
        log::console(format_args!("the log ends here: {e}"));
    }
    loop {
        log.written();
        log.next().await;
    }
}

async fn write_all(mut file: File, log: &Log) -> io::Result<()> {
    loop {
        let mut text = log.next().await;
        while text.len() < AT_A_TIME
            && let Some(more) = log.try_next()
        {
            text += &more;
        }
        let write = move || file.write_all(text.as_bytes()).map(|()| file);
        file = tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)))?;
        log.written();
    }
}

/// About as much is written in one go.
const AT_A_TIME: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Read;

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::flags::{AgentFlags, Level};
    use crate::test_link::each;

    #[tokio::test]
    async fn a_lost_log_connection_is_made_again_and_loses_no_entry() {
        for (host, link) in each().await {
            let mut listener = host.listen(109);
            let log = Log::new(&AgentFlags::default());
            tokio::spawn(send(link, 109, log.clone(), Arc::default()));
            let mut first = listener.accept().await;
            log.add(Level::Info, "one", &[]);
            let mut buffer = [0; 4096];
            let count = first.read(&mut buffer).await.expect("read");
            assert!(String::from_utf8_lossy(&buffer[..count]).contains("one"));
            drop(first);
            // The entry that finds the connection cut comes on the next one.
            tokio::time::sleep(Duration::from_millis(20)).await;
            log.add(Level::Info, "two", &[]);
            log.add(Level::Info, "three", &[]);
            let mut second = listener.accept().await;
            let mut text = String::new();
            while !text.contains("three") {
                let count = second.read(&mut buffer).await.expect("read");
                assert_ne!(count, 0);
                text += &String::from_utf8_lossy(&buffer[..count]);
            }
            assert!(text.contains("two"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_file_gets_whole_entries_in_their_order() {
        let log = Log::new(&AgentFlags { log_json: true, ..Default::default() });
        let mut file = tempfile::tempfile().expect("a file");
        let writing = tokio::spawn(write(file.try_clone().expect("cloned"), log.clone()));
        for number in 0..100 {
            log.add(Level::Info, number, &[]);
            tokio::task::yield_now().await;
        }
        log.all_written().await;
        writing.abort();
        let mut text = String::new();
        io::Seek::rewind(&mut file).expect("rewound");
        file.read_to_string(&mut text).expect("read");
        let entries = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let numbers: Vec<String> = entries.map(|entry| entry["msg"].as_str().expect("text").to_owned()).collect();
        assert_eq!(numbers, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_ends_the_log_and_nothing_else() {
        let log = Log::new(&AgentFlags::default());
        let (read, write_end) = io::pipe().expect("a pipe");
        drop(read);
        log.add(Level::Info, "nobody reads", &[]);
        let writing = tokio::spawn(write(File::from(std::os::fd::OwnedFd::from(write_end)), log.clone()));
        log.all_written().await;
        log.add(Level::Info, "nor this", &[]);
        log.all_written().await;
        assert!(!writing.is_finished());
    }
}
