//! The agent's log, as a hostile guest writes it.
//!
//! The first byte of an input is one less than the size of the pieces that the rest comes in. The second one, from 128 on,
//! is how many KiB of an entry without an end come before: so the limit of an entry is met by inputs of any size.

use uvm::GuestLogParser;

/// A host reads `data` as its guest's log.
///
/// # Panics
/// At a finding.
pub fn log_parser(data: &[u8]) {
    let &[piece, before, ref rest @ ..] = data else { return };
    let mut text = Vec::new();
    if let Some(kib @ 1..) = before.checked_sub(0x80) {
        text = [br#"{"msg":""#, vec![b'x'; usize::from(kib) << 10].as_slice()].concat();
    }
    // An unfinished entry is looked at again with each piece: as many as a short text or a long one has are enough.
    let most_pieces = if text.is_empty() { 512 } else { 8 };
    let piece = (1 + usize::from(piece)).max(rest.len() / most_pieces);
    let cuts: Vec<usize> =
        (0..text.len()).step_by(LONG_PIECE).chain((0..rest.len()).step_by(piece).map(|n| text.len() + n)).collect();
    text.extend_from_slice(rest);
    let ends = cuts.iter().skip(1).copied().chain([text.len()]);
    let mut parser = GuestLogParser::default();
    let mut entries = Vec::new();
    let mut too_long = false;
    for (&start, end) in cuts.iter().zip(ends) {
        let bytes = &text[start..end];
        let (more, failure) = parser.push(bytes);
        entries.extend(more);
        if let Some(failure) = failure {
            assert!(failure.rest.len() <= MAX_ENTRY + bytes.len(), "{} bytes were kept", failure.rest.len());
            assert!(text[..end].ends_with(&failure.rest), "what is kept is what came last");
            too_long = failure.rest.len() > MAX_ENTRY;
            break;
        }
    }
    for entry in &entries {
        assert!(!["level", "msg", "time"].iter().any(|key| entry.fields.contains_key(*key)), "{entry:?}");
    }
    // Where the pieces are cut makes no difference, but to an entry that is too long.
    if !too_long {
        assert_eq!(GuestLogParser::default().push(&text).0, entries);
    }
}

/// The pieces of a long entry: as much as a host reads at once.
const LONG_PIECE: usize = 8 * 1024;
/// The longest entry that is waited for.
const MAX_ENTRY: usize = 64 * 1024;
