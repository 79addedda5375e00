//! Filling frames from, and draining them into, something else.

use std::future::poll_fn;
use std::io::{self, ErrorKind};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uvm_mux::MuxStream;

use crate::pair::{Pair, kind};

async fn joined(pair: &Pair) -> (MuxStream, MuxStream) {
    let mut listener = pair.guest.listen(1).expect("free");
    let (near, far) = tokio::join!(pair.owner.dial(1), listener.accept());
    (near.expect("accepted"), far.expect("dialled"))
}

#[tokio::test]
async fn a_relay_fills_frames_and_drains_them_piece_by_piece() {
    let pair = Pair::new().await;
    let (mut near, mut far) = joined(&pair).await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i * 7 / 5) as u8).collect();
    let expected = sent.clone();
    let filling = tokio::spawn(async move {
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let n = poll_fn(|cx| near.poll_fill(cx, |room| io::Read::read(&mut rest, room))).await.expect("written");
            assert!(n > 0);
        }
        near.shutdown().await.expect("half-closed");
        near
    });
    let mut received = Vec::new();
    loop {
        let drained = poll_fn(|cx| {
            far.poll_drain(cx, |piece| {
                let n = piece.len().min(1000);
                received.extend_from_slice(&piece[..n]);
                Ok(n)
            })
        });
        if drained.await.expect("read") == 0 {
            break;
        }
    }
    assert!(received == expected);
    drop(filling.await.expect("no panic"));
}

#[tokio::test]
async fn a_relay_whose_other_side_would_block_loses_nothing() {
    let pair = Pair::new().await;
    let (mut near, mut far) = joined(&pair).await;
    let blocked = |_: &mut [u8]| Err(ErrorKind::WouldBlock.into());
    near.write_all(b"before").await.expect("written");
    assert_eq!(kind(poll_fn(|cx| near.poll_fill(cx, blocked)).await), Some(ErrorKind::WouldBlock));
    near.write_all(b" after").await.expect("written");
    near.shutdown().await.expect("half-closed");
    let blocked = |_: &[u8]| Err(ErrorKind::WouldBlock.into());
    assert_eq!(kind(poll_fn(|cx| far.poll_drain(cx, blocked)).await), Some(ErrorKind::WouldBlock));
    let mut all = String::new();
    far.read_to_string(&mut all).await.expect("read");
    assert_eq!(all, "before after");
    assert_eq!(kind(poll_fn(|cx| near.poll_fill(cx, |_| Ok(1))).await), Some(ErrorKind::BrokenPipe));
}

#[tokio::test]
async fn halves_live_on_two_tasks_and_vectored_writes_are_one_frame() {
    let pair = Pair::new().await;
    let (near, mut far) = joined(&pair).await;
    let (mut reader, mut writer) = near.into_split();
    let reading = tokio::spawn(async move {
        let mut all = String::new();
        reader.read_to_string(&mut all).await.map(|_| all)
    });
    let parts = [io::IoSlice::new(b"head "), io::IoSlice::new(b""), io::IoSlice::new(b"body")];
    assert_eq!(writer.write_vectored(&parts).await.expect("written"), 9);
    let mut bytes = [0; 64];
    let n = far.read(&mut bytes).await.expect("read");
    assert_eq!(&bytes[..n], b"head body");
    far.write_all(b"reply").await.expect("written");
    far.shutdown().await.expect("half-closed");
    assert_eq!(reading.await.expect("no panic").expect("read"), "reply");
    writer.shutdown().await.expect("half-closed");
}

#[tokio::test]
async fn a_dropped_reader_does_not_stall_the_other_end_and_a_dropped_writer_resets() {
    let pair = Pair::new().await;
    let (near, mut far) = joined(&pair).await;
    let (reader, writer) = near.into_split();
    drop(reader);
    far.write_all(&vec![1; 1_000_000]).await.expect("it is dropped at the other end");
    drop(writer);
    assert_eq!(kind(far.read_u8().await), Some(ErrorKind::ConnectionReset));
}
