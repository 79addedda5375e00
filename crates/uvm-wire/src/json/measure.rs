//! How long a text gets once it is a JSON string, and how to make it shorter.

/// Bytes `text` takes inside a JSON string, the quotes not counted.
pub fn escaped_len(text: &str) -> usize {
    text.bytes().map(escaped_byte_len).sum()
}

/// Cuts the end of `text` off so that it takes at most `limit` bytes inside a JSON string, and marks the cut.
///
/// Cuts between characters. The mark (`[... 1234 more bytes]`) counts as part of the text; where the limit leaves no
/// room even for it, the text ends up empty. Returns whether anything was cut.
pub fn cut_text(text: &mut String, limit: usize) -> bool {
    if escaped_len(text) <= limit {
        return false;
    }
    // The mark is pure ASCII without anything to escape; its number is never longer than that of the whole text.
    let mark = |cut: usize| format!("[... {cut} more bytes]");
    let Some(mut room) = limit.checked_sub(mark(text.len()).len()) else {
        text.clear();
        return true;
    };
    let mut keep = 0;
    for c in text.chars() {
        let cost = if c.is_ascii() { escaped_byte_len(c as u8) } else { c.len_utf8() };
        if cost > room {
            break;
        }
        room -= cost;
        keep += c.len_utf8();
    }
    let cut = text.len() - keep;
    text.truncate(keep);
    text.push_str(&mark(cut));
    true
}

/// As `serde_json` writes it: short escapes where JSON has them, `\u00xx` for other control characters, the rest as is.
const fn escaped_byte_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn real_len(text: &str) -> usize {
        serde_json::to_string(text).unwrap().len() - 2
    }

    #[test]
    fn every_character_has_the_length_it_is_written_with() {
        for c in (0..0x800).filter_map(char::from_u32).chain(['\u{2028}', '\u{ffff}', '\u{1f600}', '\u{10ffff}']) {
            let text = c.to_string();
            assert_eq!(escaped_len(&text), real_len(&text), "{c:?}");
        }
    }

    #[test]
    fn a_cut_text_fits_and_says_how_much_is_missing() {
        let whole = "\u{1}\"ä€\u{1f600}\n".repeat(20);
        for limit in 0..=escaped_len(&whole) {
            let mut text = whole.clone();
            let cut = cut_text(&mut text, limit);
            assert!(real_len(&text) <= limit, "{limit}: {text}");
            assert_eq!(cut, text != whole, "{limit}");
            if let Some((kept, mark)) = text.split_once("[... ") {
                let missing: usize = mark.strip_suffix(" more bytes]").unwrap().parse().unwrap();
                assert!(whole.starts_with(kept));
                assert_eq!(kept.len() + missing, whole.len());
                // Not one character more would have fitted, but for a digit that the mark saves.
                let next = whole[kept.len()..].chars().next().unwrap().to_string();
                assert!(real_len(&text) + real_len(&next) > limit - 1, "{limit}: {text}");
            } else {
                assert!(text.is_empty() || text == whole);
                assert!(limit < "[... 260 more bytes]".len() || text == whole);
            }
        }
    }
}
