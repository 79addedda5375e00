//! What the kernel's command line tells init, behind `--`: `-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 ...`.
//!
//! The shape is that of the original: its /init takes `-e PORT` (boot entropy) and a program; its vsockexec takes `-i`,
//! `-o`, `-e PORT` (where the program's standard streams go) and a program; its agent takes flags. Here one process is all
//! three, so the line is read in one go.

use std::path::Path;

/// The whole line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitLine {
    /// Where boot entropy is to be read.
    pub entropy_port: Option<u32>,
    /// Where the program's standard streams go: input, output, error.
    pub streams: [Option<u32>; 3],
    /// What to run.
    pub program: Program,
}

/// What init runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// This agent.
    Agent(AgentFlags),
    /// Something else, with arguments: then no agent serves the VM.
    Other(Vec<String>),
}

/// The agent's flags that mean something here; the others of the original are taken and ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFlags {
    /// The most verbose level that is logged. Default: debug.
    pub log_level: Level,
    /// One JSON object an entry, or text. Default: text.
    pub log_json: bool,
    /// Kernel messages of this level or a graver one are forwarded. Default: 4, warnings.
    pub kmsg_level: u8,
}

impl Default for AgentFlags {
    fn default() -> Self {
        Self { log_level: Level::Debug, log_json: false, kmsg_level: 4 }
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

/// A line that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("init: {0}")]
pub struct BadLine(String);

impl InitLine {
    /// Reads the arguments of init, without its own name. None at all means the agent with its defaults.
    ///
    /// # Errors
    /// A flag without its port, a port that is no number, no program.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, BadLine> {
        let mut words = arguments.iter().map(AsRef::as_ref).peekable();
        let mut line = Self { entropy_port: None, streams: [None; 3], program: Program::Agent(AgentFlags::default()) };
        if words.peek().is_none() {
            return Ok(line);
        }
        while let Some(word) = words.next_if(|word| word.starts_with('-')) {
            match word.trim_start_matches('-') {
                "e" => line.entropy_port = Some(port(word, words.next())?),
                _ => return Err(BadLine(format!("unknown flag {word}; -e PORT is allowed"))),
            }
        }
        let mut program = words.next();
        if program.is_some_and(|program| named(program, "vsockexec")) {
            while let Some(word) = words.next_if(|word| word.starts_with('-')) {
                let stream = match word.trim_start_matches('-') {
                    "i" => 0,
                    "o" => 1,
                    "e" => 2,
                    _ => return Err(BadLine(format!("vsockexec: unknown flag {word}; -i, -o, -e PORT are allowed"))),
                };
                line.streams[stream] = Some(port(word, words.next())?);
            }
            program = words.next();
        }
        let program = program.ok_or_else(|| BadLine("no program is named".into()))?;
        line.program = if named(program, "gcs") {
            Program::Agent(AgentFlags::parse(words)?)
        } else {
            Program::Other(std::iter::once(program).chain(words).map(str::to_owned).collect())
        };
        Ok(line)
    }
}

fn named(program: &str, name: &str) -> bool {
    Path::new(program).file_name().is_some_and(|file| file == name)
}

fn port(flag: &str, value: Option<&str>) -> Result<u32, BadLine> {
    let value = value.ok_or_else(|| BadLine(format!("flag {flag} needs a port")))?;
    value.parse().map_err(|_| BadLine(format!("flag {flag}: {value:?} is no port")))
}

/// Flags that stand alone; every other flag has a value.
const SWITCHES: [&str; 4] = ["v4", "use-inouterr", "disable-time-sync", "scrub-logs"];

impl AgentFlags {
    fn parse<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Self, BadLine> {
        let mut flags = Self::default();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else { break };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None if SWITCHES.contains(&flag) => (flag, None),
                None => (flag, words.next()),
            };
            let bad = || BadLine(format!("gcs: flag {word}: {:?} cannot be used", value.unwrap_or_default()));
            match name {
                "loglevel" => flags.log_level = value.and_then(Level::parse).ok_or_else(bad)?,
                "log-format" => {
                    flags.log_json = match value {
                        Some("json") => true,
                        Some("text") => false,
                        _ => return Err(bad()),
                    }
                }
                "kmsgLogLevel" => flags.kmsg_level = value.and_then(|v| v.parse().ok()).ok_or_else(bad)?,
                // The original's agents of other years know more than we do: a flag we do not know must not end the VM.
                _ => {}
            }
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<InitLine, BadLine> {
        InitLine::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn the_originals_default_line_is_understood() {
        let line = parse("-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel info").expect("valid");
        let flags = AgentFlags { log_level: Level::Info, log_json: true, kmsg_level: 4 };
        let expected =
            InitLine { entropy_port: Some(1), streams: [None, None, Some(109)], program: Program::Agent(flags) };
        assert_eq!(line, expected);
    }

    #[test]
    fn both_streams_and_todays_flags() {
        let line = parse(
            "-e 1 /bin/vsockexec -o 109 -e 110 /bin/gcs -v4 --loglevel=trace -kmsgLogLevel 6 -disable-time-sync \
             -core-dump-location /x -log-format text",
        )
        .expect("valid");
        assert_eq!(line.streams, [None, Some(109), Some(110)]);
        let flags = AgentFlags { log_level: Level::Trace, log_json: false, kmsg_level: 6 };
        assert_eq!(line.program, Program::Agent(flags));
    }

    #[test]
    fn any_other_program_is_run_as_it_is() {
        let line = parse("-e 1 /bin/vsockexec -e 109 /bin/sh -c true").expect("valid");
        assert_eq!(line.program, Program::Other(vec!["/bin/sh".into(), "-c".into(), "true".into()]));
        let line = parse("/bin/true").expect("valid");
        assert_eq!((line.entropy_port, line.streams), (None, [None; 3]));
    }

    #[test]
    fn no_arguments_mean_the_agent() {
        assert_eq!(parse("").expect("valid").program, Program::Agent(AgentFlags::default()));
    }

    #[test]
    fn nonsense_names_the_word() {
        for (line, word) in [
            ("-e", "needs a port"),
            ("-e x /bin/gcs", "\"x\""),
            ("-q /bin/gcs", "-q"),
            ("-e 1", "no program"),
            ("-e 1 /bin/vsockexec -e 109", "no program"),
            ("/bin/vsockexec -z 1 /bin/gcs", "-z"),
            ("/bin/gcs -loglevel loud", "\"loud\""),
            ("/bin/gcs -log-format xml", "\"xml\""),
            ("/bin/gcs -kmsgLogLevel", "-kmsgLogLevel"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
