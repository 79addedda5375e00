//! Dial, accept, write, half-close, refuse.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_mux::{MuxError, Refusal, StreamError};

use crate::pair::{Pair, kind};

#[tokio::test]
async fn a_dialled_stream_carries_bytes_both_ways_and_half_closes_in_each() {
    let pair = Pair::new().await;
    let mut listener = pair.guest.listen(7).expect("free port");
    let (dialled, accepted) = tokio::join!(pair.owner.dial(7), listener.accept());
    let (mut near, mut far) = (dialled.expect("accepted"), accepted.expect("dialled"));

    near.write_all(b"question").await.expect("written");
    near.shutdown().await.expect("half-closed");
    let mut question = String::new();
    far.read_to_string(&mut question).await.expect("read to the end");
    far.write_all(b"answer").await.expect("written after the other end half-closed");
    far.shutdown().await.expect("half-closed");
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.expect("read to the end");
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    assert_eq!((near.cut_reason(), far.cut_reason()), (None, None));
}

#[tokio::test]
async fn a_dial_that_nobody_listens_for_is_refused() {
    let pair = Pair::new().await;
    let refused = StreamError::Refused(Refusal::NobodyListens);
    let dialled = pair.owner.dial(7).await.map(|_| ());
    assert_eq!(dialled, Err(MuxError::NotAccepted { port: 7, why: refused.clone() }));

    let mut stream = pair.guest.dial_now(8).expect("up");
    assert_eq!(stream.accepted().await, Err(refused));
    assert_eq!(kind(stream.read_u8().await), Some(ErrorKind::ConnectionRefused));
    assert_eq!(kind(stream.write_all(b"x").await), Some(ErrorKind::ConnectionRefused));
}

#[tokio::test]
async fn what_is_written_before_the_answer_arrives_with_it() {
    let pair = Pair::new().await;
    let mut listener = pair.owner.listen(1).expect("free port");
    let mut dialled = pair.guest.dial_now(1).expect("up");
    dialled.write_all(&vec![5; 64 * 1024]).await.expect("a window's worth needs no answer");
    let mut accepted = listener.accept().await.expect("dialled");
    let mut bytes = vec![0; 64 * 1024];
    accepted.read_exact(&mut bytes).await.expect("read");
    assert!(bytes.iter().all(|&byte| byte == 5));
    assert_eq!(dialled.accepted().await, Ok(()));
}

#[tokio::test]
async fn a_dial_that_was_served_and_dropped_at_once_is_a_success_with_its_bytes() {
    let pair = Pair::new().await;
    let mut listener = pair.owner.listen(5).expect("free");
    // One task in one turn: the answer, the bytes, the end and the reset leave together.
    let serve = async {
        let mut stream = listener.accept().await.expect("dialled");
        stream.write_all(b"entropy").await.expect("written");
        stream.shutdown().await.expect("half-closed");
    };
    let (dialled, ()) = tokio::join!(pair.guest.dial(5), serve);
    let mut got = Vec::new();
    dialled.expect("it was accepted").read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"entropy");
}
