//! A 9P server whose client is hostile: by its bytes, and by what it asks for.

use std::sync::{Arc, LazyLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use uvm_p9::protocol::{Entry, HEADER_LEN, Header, Name, Request, Response, flags};
use uvm_p9::tree::{Descriptors, TreeOptions};
use uvm_p9::{Limits, Share, serve};

use crate::place::Place;

/// A type and a body, as a request, as an answer and as entries of a directory: whatever is read is written back.
///
/// # Panics
/// When it is not.
pub fn p9_codec(data: &[u8]) {
    let Some((&kind, body)) = data.split_first() else { return };
    let mut frame = Vec::new();
    if let Ok(request) = Request::decode(kind, body) {
        request.encode(1, &mut frame);
        assert_eq!(&frame[HEADER_LEN..], body, "{request:?}");
    }
    if let Ok(response) = Response::decode(kind, body) {
        response.encode(1, &mut frame);
        assert_eq!(&frame[HEADER_LEN..], body, "{response:?}");
    }
    if let Ok(entries) = Entry::decode_all(body) {
        frame.clear();
        for entry in &entries {
            entry.encode(&mut frame);
        }
        assert_eq!(frame, body);
    }
}

/// One for all inputs, which are run one after the other.
static PLACE: LazyLock<(Place, Runtime)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    (Place::default(), runtime.expect("a runtime"))
});

/// A session as the client likes it: for each request its type, the length of its body and the body.
///
/// # Panics
/// When something outside of the share was touched, or an answer is none.
pub fn p9_session(data: &[u8]) {
    let (place, runtime) = &*PLACE;
    place.prepare();
    let share =
        Share::open("s", TreeOptions::new(place.share()).with_descriptors(Descriptors::new(64))).expect("a share");
    let limits = Limits::default().with_threads(2).with_fids(32).with_locks(8).with_message_size(8192);
    let sent = frames(data);
    runtime.block_on(async {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (mut answers, mut requests) = tokio::io::split(client);
        let asking = async move {
            // The server ends when the protocol is broken.
            let _ = requests.write_all(&sent).await;
            let _ = requests.shutdown().await;
        };
        let listening = async move {
            let mut received = Vec::new();
            let _ = answers.read_to_end(&mut received).await;
            received
        };
        let serving = serve(server, Arc::new(share), limits, std::future::pending());
        let ((), received, _) = tokio::join!(asking, listening, serving);
        check_answers(&received);
    });
    place.check();
}

fn frames(data: &[u8]) -> Vec<u8> {
    let text = |text| Name::new(text).expect("short");
    let mut sent = Vec::new();
    let mut frame = Vec::new();
    Request::Version { message_size: 8192, version: text(flags::VERSION) }.encode(flags::NO_TAG, &mut frame);
    sent.extend_from_slice(&frame);
    let attach = Request::Attach { fid: 0, auth_fid: flags::NO_FID, user: text(b""), share: text(b"s"), uid: 0 };
    attach.encode(0, &mut frame);
    sent.extend_from_slice(&frame);
    let mut rest = data;
    let mut tag = 0_u16;
    while let [kind, length, after @ ..] = rest {
        let (body, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        tag = tag.wrapping_add(1);
        let size = (HEADER_LEN + body.len()) as u32;
        sent.extend_from_slice(&Header { size, kind: *kind, tag }.encode());
        sent.extend_from_slice(body);
    }
    sent
}

fn check_answers(mut received: &[u8]) {
    // The last may be cut where the server ended.
    while let Some((header, rest)) = received.split_first_chunk::<HEADER_LEN>() {
        let header = Header::decode(*header);
        let Some((body, rest)) = rest.split_at_checked(header.size as usize - HEADER_LEN) else { return };
        Response::decode(header.kind, body).expect("an answer");
        received = rest;
    }
}
