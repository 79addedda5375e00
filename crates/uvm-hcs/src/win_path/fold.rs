//! Letter case, as a Windows file system ignores it.

/// The characters of `text` in upper case, one for one: file systems map single characters, so that `ß` stays, and none
/// outside ASCII becomes one of ASCII.
pub(super) fn fold(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().map(|c| {
        let mut upper = c.to_uppercase();
        match (upper.next(), upper.next()) {
            (Some(upper), None) if c.is_ascii() || !upper.is_ascii() => upper,
            _ => c,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_is_ignored_one_character_for_one() {
        let folded = |text: &str| fold(text).collect::<String>();
        assert_eq!(folded("aZ9_é"), "AZ9_É");
        assert_eq!(folded("straße"), "STRAßE");
        // Both have an upper case in ASCII, which would make other files of them.
        assert_eq!(folded("ſı"), "ſı");
    }
}
