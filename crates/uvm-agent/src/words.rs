//! Splitting a command line into words, as a shell does it, without expanding anything.

/// A quote or a backslash at the end of the line has nothing to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command line ends inside a quotation or behind a backslash")]
pub(crate) struct Unfinished;

/// The words of `line`: separated by white space; `'...'` is taken as it is, in `"..."` a backslash quotes `"`, `\`, `$`
/// and the grave accent, elsewhere it quotes any character.
pub(crate) fn split(line: &str) -> Result<Vec<String>, Unfinished> {
    let mut words = Vec::new();
    // `None` between words: an empty pair of quotes is a word too.
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(Unfinished)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or(Unfinished)? {
                        '"' => break,
                        '\\' => match chars.next().ok_or(Unfinished)? {
                            c @ ('"' | '\\' | '$' | '`') => word.push(c),
                            c => word.extend(['\\', c]),
                        },
                        c => word.push(c),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next().ok_or(Unfinished)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        for (line, words) in [
            ("", &[][..]),
            ("  \t ", &[]),
            ("ls -l /tmp", &["ls", "-l", "/tmp"]),
            ("sh -c 'echo $HOME; exit 3'", &["sh", "-c", "echo $HOME; exit 3"]),
            (r#"a"b c"d '' """#, &["ab cd", "", ""]),
            (r#"\ x "\$\"\n" '\'"#, &[" x", r#"$"\n"#, r"\"]),
        ] {
            assert_eq!(split(line).expect(line), words, "{line}");
        }
        for line in ["'", "\"a", "a\\", "\"\\"] {
            assert_eq!(split(line), Err(Unfinished), "{line}");
        }
    }

    proptest::proptest! {
        #[test]
        fn quoted_words_come_back(words: Vec<String>) {
            let line: Vec<String> = words.iter().map(|w| format!("'{}'", w.replace('\'', r"'\''"))).collect();
            assert_eq!(split(&line.join(" ")), Ok(words));
        }
    }
}
