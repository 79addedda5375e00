//! Which of two versions is newer.

use std::cmp::Ordering;

/// Compares two versions or kernel releases the way Debian does: runs of digits as numbers, `~` before everything.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) =
            (take(&mut a, |byte| !byte.is_ascii_digit()), take(&mut b, |byte| !byte.is_ascii_digit()));
        let weights = |text: &[u8]| text.iter().map(|byte| weight(*byte)).chain([0]).collect::<Vec<_>>();
        let (number_a, number_b) = (take(&mut a, u8::is_ascii_digit), take(&mut b, u8::is_ascii_digit));
        let order = weights(text_a).cmp(&weights(text_b)).then_with(|| number(number_a).cmp(&number(number_b)));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Splits off the longest beginning whose bytes all fit.
fn take<'a>(text: &mut &'a [u8], fits: impl Fn(&u8) -> bool) -> &'a [u8] {
    let (head, rest) = text.split_at(text.iter().position(|byte| !fits(byte)).unwrap_or(text.len()));
    *text = rest;
    head
}

/// `~` sorts before the end, the end before letters, letters before everything else.
fn weight(byte: u8) -> i32 {
    match byte {
        b'~' => -1,
        letter if letter.is_ascii_alphabetic() => i32::from(letter),
        other => i32::from(other) + 256,
    }
}

/// A number of any length, comparable: how long it is, and its digits.
fn number(digits: &[u8]) -> (usize, &[u8]) {
    let digits = &digits[digits.iter().take_while(|digit| **digit == b'0').count()..];
    (digits.len(), digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_dpkg_sorts_them() {
        let sorted = [
            "6.1.0-9-amd64",
            "6.1.0-56-amd64",
            "6.1.192-2",
            "6.12.107-1~deb12u1",
            "6.12.107-1",
            "6.12.107-1+b1",
            "6.12.117-1~deb12u1",
            "10.0",
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        for same in [("1.0", "1.0"), ("1.01", "1.1"), ("", "")] {
            assert_eq!(compare(same.0, same.1), Ordering::Equal);
        }
        assert_eq!(compare("1", "1~rc1"), Ordering::Greater);
    }
}
