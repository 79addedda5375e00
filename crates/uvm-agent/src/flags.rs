//! The flags of the agent, those of the original of January 2021 and of August 2026: `/bin/gcs -v4 -log-format json ...`.

use std::path::PathBuf;

use crate::init_line::BadLine;

/// What the flags say, as far as it means something here.
///
/// Taken, checked and without a meaning here are `-v4` (this agent speaks no other version), `-disable-time-sync` (it
/// starts no time service), `-scrub-logs` (it logs no environment and no configuration), and until there are containers
/// `-root-mem-reserve-bytes` and `-gcs-mem-limit-bytes`, which are about the control groups of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFlags {
    /// `-loglevel`: the most verbose level that is logged. Default: debug.
    pub log_level: Level,
    /// `-log-format`: one JSON object an entry, or text. Default: text.
    pub log_json: bool,
    /// `-logfile`: where the log goes instead of standard error.
    pub log_file: Option<PathBuf>,
    /// `-kmsgLogLevel`: kernel messages of this level or a graver one are forwarded. Default: 4, warnings.
    pub kmsg_level: u8,
    /// `-use-inouterr`: the bridge is on standard input and output; everything else is dialled all the same.
    pub bridge_on_stdio: bool,
    /// `-core-dump-location`: what the kernel is told to do with core dumps.
    pub core_pattern: Option<String>,
}

impl Default for AgentFlags {
    fn default() -> Self {
        Self {
            log_level: Level::Debug,
            log_json: false,
            log_file: None,
            kmsg_level: 4,
            bridge_on_stdio: false,
            core_pattern: None,
        }
    }
}

/// How grave a log entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Level {
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

impl Level {
    /// As the log's readers know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => Some(Self::Error),
            "warn" | "warning" => Some(Self::Warning),
            "info" => Some(Self::Info),
            "debug" => Some(Self::Debug),
            "trace" => Some(Self::Trace),
            _ => None,
        }
    }
}

/// Flags that stand alone, or have `=true` or `=false` behind them; every other flag has a value.
const SWITCHES: [&str; 4] = ["v4", "use-inouterr", "disable-time-sync", "scrub-logs"];
/// All others.
const WITH_VALUE: [&str; 8] = [
    "loglevel",
    "log-format",
    "logfile",
    "kmsgLogLevel",
    "root-mem-reserve-bytes",
    "gcs-mem-limit-bytes",
    "core-dump-location",
    "initial-policy-stance",
];

impl AgentFlags {
    /// Reads the flags, by the rules of the originals: `-name value`, `--name=value`; what comes behind the first word
    /// that is no flag, or behind `--`, is not looked at.
    ///
    /// # Errors
    /// A flag that neither year knows, a value that a flag cannot have, and `-initial-policy-stance deny`.
    pub fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Self, BadLine> {
        let mut flags = Self::default();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty() && *flag != "-") else { break };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            if SWITCHES.contains(&name) {
                let on = switch(value).ok_or_else(|| bad(word, value.unwrap_or_default(), "true or false"))?;
                if name == "use-inouterr" {
                    flags.bridge_on_stdio = on;
                }
            } else if WITH_VALUE.contains(&name) {
                let value = value.or_else(|| words.next());
                flags.set(name, value.ok_or_else(|| BadLine::new(format_args!("gcs: flag {word} needs a value")))?)?;
            } else {
                let known = SWITCHES.iter().chain(&WITH_VALUE).map(|name| format!("-{name}")).collect::<Vec<_>>();
                return Err(BadLine::new(format_args!("gcs: unknown flag {word}; allowed are {}", known.join(", "))));
            }
        }
        Ok(flags)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), BadLine> {
        let bad = |allowed| bad(name, value, allowed);
        match name {
            "loglevel" => {
                self.log_level =
                    Level::parse(value).ok_or_else(|| bad("panic, fatal, error, warning, info, debug or trace"))?;
            }
            "log-format" => {
                self.log_json = match value {
                    "json" => true,
                    "text" => false,
                    _ => return Err(bad("text or json")),
                }
            }
            "logfile" => self.log_file = Some(value).filter(|path| !path.is_empty()).map(PathBuf::from),
            "kmsgLogLevel" => {
                let level = number(value).ok_or_else(|| bad("a number"))?;
                // The kernel's levels end at 7.
                self.kmsg_level = u8::try_from(level).unwrap_or(u8::MAX);
            }
            "core-dump-location" => {
                self.core_pattern = Some(value).filter(|pattern| !pattern.is_empty()).map(str::to_owned);
            }
            "initial-policy-stance" => match value {
                "allow" => {}
                // To go on without a policy would be to allow what the host wants denied.
                "deny" => return Err(bad("allow: this agent has no security policy that could lift a denial")),
                _ => return Err(bad("allow or deny")),
            },
            _ => {
                number(value).ok_or_else(|| bad("a number of bytes"))?;
            }
        }
        Ok(())
    }
}

fn bad(flag: &str, value: &str, allowed: &str) -> BadLine {
    let flag = flag.trim_start_matches('-');
    BadLine::new(format_args!("gcs: flag -{flag}: {value:?} is not allowed, but {allowed}"))
}

/// A switch is on by itself. The words are those of Go.
fn switch(value: Option<&str>) -> Option<bool> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Some(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Some(false),
        Some(_) => None,
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<AgentFlags, BadLine> {
        AgentFlags::parse(line.split_whitespace())
    }

    #[test]
    fn the_flags_of_2021() {
        let flags = parse(
            "-v4 -log-format json -loglevel info -logfile /run/log -kmsgLogLevel 6 -use-inouterr \
             -root-mem-reserve-bytes 78643200 -gcs-mem-limit-bytes 0x3200000",
        );
        let expected = AgentFlags {
            log_level: Level::Info,
            log_json: true,
            log_file: Some("/run/log".into()),
            kmsg_level: 6,
            bridge_on_stdio: true,
            core_pattern: None,
        };
        assert_eq!(flags.expect("valid"), expected);
    }

    #[test]
    fn the_flags_that_came_later() {
        let flags = parse(
            "-v4=true --loglevel=trace -disable-time-sync -core-dump-location=/tmp/core.%p -scrub-logs=false \
             -initial-policy-stance allow -use-inouterr=0 --log-format text",
        );
        let core_pattern = Some("/tmp/core.%p".into());
        assert_eq!(flags.expect("valid"), AgentFlags { log_level: Level::Trace, core_pattern, ..Default::default() });
    }

    #[test]
    fn none_are_the_defaults_and_other_words_end_them() {
        let quiet = AgentFlags { log_level: Level::Error, ..Default::default() };
        for (line, flags) in [
            ("", AgentFlags::default()),
            ("-logfile= -core-dump-location=", AgentFlags::default()),
            ("-loglevel fatal word -nonsense", quiet.clone()),
            ("-loglevel panic -- -nonsense", quiet.clone()),
            ("-loglevel error - -nonsense", quiet),
        ] {
            assert_eq!(parse(line), Ok(flags), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_names_the_flag_the_value_and_what_can() {
        for (line, words) in [
            ("-loglevel loud", &["-loglevel", "\"loud\"", "trace"][..]),
            ("-log-format xml", &["-log-format", "\"xml\"", "json"]),
            ("-kmsgLogLevel x", &["-kmsgLogLevel", "\"x\"", "number"]),
            ("-kmsgLogLevel", &["-kmsgLogLevel", "needs a value"]),
            ("-root-mem-reserve-bytes=-1", &["-root-mem-reserve-bytes", "\"-1\"", "bytes"]),
            ("-gcs-mem-limit-bytes 1G", &["-gcs-mem-limit-bytes", "\"1G\"", "bytes"]),
            ("-v4=maybe", &["-v4", "\"maybe\"", "true"]),
            ("-initial-policy-stance deny", &["\"deny\"", "allow", "no security policy"]),
            ("-initial-policy-stance perhaps", &["\"perhaps\"", "deny"]),
            ("-v4 -new-in-2031 x", &["unknown flag -new-in-2031", "-disable-time-sync", "-loglevel"]),
            ("-LogLevel info", &["unknown flag -LogLevel"]),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{line}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_words_never_panic(words: Vec<String>) {
            let _ = AgentFlags::parse(words.iter().map(String::as_str));
        }
    }
}
