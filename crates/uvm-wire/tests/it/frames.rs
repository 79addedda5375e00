//! Frames come in pieces of any size, and nothing is held that did not come.

use proptest::collection::vec;
use proptest::prelude::*;
use uvm_wire::frame::SizeLimit;
use uvm_wire::{FrameDecoder, FrameError, Header, MessageType};

fn frame(bits: u32, id: u64, payload: &[u8]) -> Vec<u8> {
    let size = (Header::LEN + payload.len()) as u32;
    let header = Header { message_type: MessageType::from_bits(bits), size, id };
    [&header.to_bytes()[..], payload].concat()
}

type Frames = Vec<(Header, Vec<u8>)>;

/// Feeds `bytes` in pieces: the frames that come out, and the bytes pending at the end or why it ended before.
fn feed(bytes: &[u8], pieces: &[usize], limit: SizeLimit) -> (Frames, Result<usize, FrameError>) {
    let mut decoder = FrameDecoder::new(limit);
    let mut pieces = pieces.iter().copied().cycle();
    let (mut rest, mut came, mut frames) = (bytes, 0, Vec::new());
    while !rest.is_empty() {
        let (mut input, later) = rest.split_at(pieces.next().unwrap_or(1).min(rest.len()));
        came += input.len();
        rest = later;
        loop {
            match decoder.next_frame(&mut input) {
                Ok(Some(frame)) => frames.push((frame.header, frame.payload.to_vec())),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
            assert!(decoder.held() <= limit.bytes());
        }
        assert!(input.is_empty(), "bytes were left although no frame is complete");
        assert!(decoder.held() <= (2 * came).max(512), "{} held after {came} came", decoder.held());
        assert!(decoder.held() <= limit.bytes());
    }
    (frames, Ok(decoder.pending()))
}

proptest! {
    #[test]
    fn frames_are_the_same_however_they_come(
        messages in vec((any::<u32>(), any::<u64>(), vec(any::<u8>(), 0..3000)), 0..8),
        pieces in vec(1_usize..4000, 1..20),
        cut in 0_usize..40,
    ) {
        let mut bytes: Vec<u8> = messages.iter().flat_map(|(bits, id, payload)| frame(*bits, *id, payload)).collect();
        let whole = messages.len();
        // The stream may break off inside the last frame.
        let cut = cut.min(messages.last().map_or(0, |(_, _, payload)| Header::LEN + payload.len()));
        bytes.truncate(bytes.len() - cut);
        let (frames, end) = feed(&bytes, &pieces, SizeLimit::FROM_GUEST);
        let complete = if cut == 0 { whole } else { whole - 1 };
        prop_assert_eq!(frames.len(), complete);
        for ((header, payload), (bits, id, expected)) in frames.iter().zip(&messages) {
            prop_assert_eq!((header.message_type.bits(), header.id), (*bits, *id));
            prop_assert_eq!(payload, expected);
        }
        let pending = bytes.len() - frames.iter().map(|(header, _)| header.size as usize).sum::<usize>();
        prop_assert_eq!(end, Ok(pending));
    }

    #[test]
    fn any_bytes_give_the_same_frames_and_the_same_end(
        mut bytes in vec(any::<u8>(), 0..600),
        sizes in vec(0_u32..80, 0..8),
        pieces in vec(1_usize..100, 1..10),
    ) {
        // Make sizes that are nearly right likely.
        let mut at = 4;
        for size in sizes {
            if let Some(field) = bytes.get_mut(at..at + 4) {
                field.copy_from_slice(&size.to_le_bytes());
            }
            at += size as usize;
        }
        let whole = [bytes.len().max(1)];
        prop_assert_eq!(feed(&bytes, &pieces, SizeLimit::FROM_GUEST), feed(&bytes, &whole, SizeLimit::FROM_GUEST));
    }
}
