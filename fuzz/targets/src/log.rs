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
    let &[piece, before, ref text @ ..] = data else { return };
    let mut text = text.to_vec();
    if let Some(kib @ 1..) = before.checked_sub(0x80) {
        text = [br#"{"msg":""#, vec![b'x'; usize::from(kib) << 10].as_slice(), &text].concat();
    }
    let piece = 1 + usize::from(piece);
    // A read byte by byte looks at an unfinished entry over and over again: as many looks as a short text takes are enough.
    let piece = piece.max(text.len() / 512);
    let mut parser = GuestLogParser::default();
    let mut entries = Vec::new();
    let (mut given, mut too_long) = (0, false);
    for bytes in text.chunks(piece) {
        let (more, failure) = parser.push(bytes);
        entries.extend(more);
        given += bytes.len();
        if let Some(failure) = failure {
            assert!(failure.rest.len() <= MAX_ENTRY + bytes.len(), "{} bytes were kept", failure.rest.len());
            assert!(text[..given].ends_with(&failure.rest), "what is kept is what came last");
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

/// The longest entry that is waited for.
const MAX_ENTRY: usize = 64 * 1024;
