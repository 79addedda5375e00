//! Kernel configurations: reading them, and comparing what was asked for with what came out.

use std::collections::BTreeMap;

/// Values by symbol, without `CONFIG_`. A symbol that "is not set" has [`Value::Off`].
pub type Symbols = BTreeMap<String, Value>;

/// The value of a symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `# CONFIG_X is not set`, or `CONFIG_X=n`.
    Off,
    /// Anything else, as it stands behind the equals sign.
    Is(String),
}

/// Reads a configuration, or a fragment of one. A later line replaces an earlier one. What is neither `CONFIG_X=...`
/// nor `# CONFIG_X is not set` is a comment.
pub fn parse(text: &str) -> Symbols {
    let symbol = |line: &str| {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("# CONFIG_") {
            return Some((rest.strip_suffix(" is not set")?.to_owned(), Value::Off));
        }
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        let value = if value == "n" { Value::Off } else { Value::Is(value.to_owned()) };
        Some((name.to_owned(), value))
    };
    text.lines().filter_map(symbol).filter(|(name, _)| is_symbol(name)).collect()
}

/// What of `wanted` is not in `result`: one text for each symbol. A symbol that `result` does not mention is off.
pub fn differences(wanted: &Symbols, result: &Symbols) -> Vec<String> {
    let show = |value: &Value| match value {
        Value::Off => "n".to_owned(),
        Value::Is(value) => value.clone(),
    };
    let differing = wanted.iter().filter_map(|(name, value)| {
        let found = result.get(name).unwrap_or(&Value::Off);
        (found != value).then(|| format!("CONFIG_{name}={} (became {})", show(value), show(found)))
    });
    differing.collect()
}

/// Timer ticks a second.
pub fn hz(config: &str) -> Option<u32> {
    match parse(config).get("HZ")? {
        Value::Is(value) => value.parse().ok().filter(|hz| (1..=10_000).contains(hz)),
        Value::Off => None,
    }
}

fn is_symbol(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_read_and_comments_are_not() {
        let symbols = parse(
            "# a comment about CONFIG_X=y\nCONFIG_A=y\nCONFIG_S=\"two words\"\n# CONFIG_B is not set\nCONFIG_C=n\n\
             CONFIG_HZ=250\nCONFIG_A=m\n# CONFIG_D is set elsewhere\nCONFIG_=y\n",
        );
        let names: Vec<_> = symbols.keys().map(String::as_str).collect();
        assert_eq!(names, ["A", "B", "C", "HZ", "S"]);
        assert_eq!(symbols["A"], Value::Is("m".into()));
        assert_eq!(symbols["S"], Value::Is("\"two words\"".into()));
        assert_eq!((&symbols["B"], &symbols["C"]), (&Value::Off, &Value::Off));
    }

    #[test]
    fn everything_lost_or_gained_is_named() {
        let wanted = parse("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\nCONFIG_N=64\n");
        let result = parse("CONFIG_A=y\nCONFIG_C=y\nCONFIG_N=8\n");
        assert_eq!(
            differences(&wanted, &result),
            ["CONFIG_B=y (became n)", "CONFIG_C=n (became y)", "CONFIG_N=64 (became 8)"]
        );
        assert_eq!(differences(&wanted, &wanted), [""; 0]);
    }

    #[test]
    fn the_timer_rate_is_found_or_unknown() {
        assert_eq!(hz("CONFIG_HZ_250=y\nCONFIG_HZ=250\n"), Some(250));
        for none in ["", "# CONFIG_HZ is not set", "CONFIG_HZ=many", "CONFIG_HZ=0"] {
            assert_eq!(hz(none), None, "{none}");
        }
    }
}
