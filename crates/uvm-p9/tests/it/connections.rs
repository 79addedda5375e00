//! Clients that do not read what they are answered, and connections that hold back what is written.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use uvm_p9::protocol::{Request, flags};
use uvm_p9::{Limits, ServeError, serve};

use crate::client::{Host, name, open_share};

fn version() -> Vec<u8> {
    let mut message = Vec::new();
    Request::Version { message_size: 8192, version: name(flags::VERSION) }.encode(flags::NO_TAG, &mut message);
    message
}

/// The attack: sessions are begun over and over, and each answer waits for a client that never reads it.
#[test]
fn a_client_that_begins_without_reading_is_cut() {
    let host = Host::new();
    let share = open_share(host.options());
    let limits = Limits::default().with_drain(Duration::from_millis(50));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut client, connection) = tokio::io::duplex(256);
        let server = tokio::spawn(serve(connection, Arc::new(share), limits, std::future::pending()));
        let mut sent = 0;
        while sent < 100_000 && client.write_all(&version()).await.is_ok() {
            sent += 1;
        }
        assert!(sent < 100, "{sent} beginnings were read, and no answer was");
        assert!(matches!(server.await.unwrap(), Err(ServeError::Stuck { .. })));
    });
}
