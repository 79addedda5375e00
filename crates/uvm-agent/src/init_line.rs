//! What the kernel's command line tells init, behind `--`: `-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 ...`.
//!
//! The shape is that of the original: its /init takes `-e PORT` (boot entropy) and a program; its vsockexec takes `-i`,
//! `-o`, `-e PORT` (where the program's standard streams go), of late `-r` (where output goes is dialled again whenever it is
//! lost), and a program; its agent takes flags. Here one process is all three, so the line is read in one go.

use std::fmt;
use std::iter::Peekable;
use std::path::Path;

use crate::flags::AgentFlags;

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

/// A line that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLine(String);

impl BadLine {
    pub(crate) fn new(text: impl fmt::Display) -> Self {
        Self(text.to_string())
    }
}

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
                _ => return Err(BadLine(format!("init: unknown flag {word}; -e PORT is allowed"))),
            }
        }
        let mut redials = false;
        if words.next_if(|program| named(program, "vsockexec")).is_some() {
            (line.streams, redials) = streams(&mut words)?;
        }
        let program = words.next().ok_or_else(|| BadLine("init: no program is named".into()))?;
        line.program = if named(program, "gcs") {
            // Its log is dialled again in any case.
            Program::Agent(AgentFlags::parse(words)?)
        } else if redials {
            return Err(BadLine(format!("vsockexec: {NO_RELAY} {program:?}")));
        } else {
            Program::Other(std::iter::once(program).chain(words).map(str::to_owned).collect())
        };
        Ok(line)
    }
}

/// What vsockexec is told: where the standard streams go, and a program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecLine {
    /// The ports of input, output and error.
    pub streams: [Option<u32>; 3],
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
}

impl ExecLine {
    /// Reads the arguments of vsockexec, without its own name.
    ///
    /// # Errors
    /// A flag without its port, a port that is no number, no program.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Result<Self, BadLine> {
        let mut words = arguments.iter().map(AsRef::as_ref).peekable();
        let (streams, redials) = streams(&mut words)?;
        let command: Vec<String> = words.map(str::to_owned).collect();
        let program = command.first().ok_or_else(|| BadLine("vsockexec: no program is named".into()))?;
        if redials {
            return Err(BadLine(format!("vsockexec: {NO_RELAY} {program:?}")));
        }
        Ok(Self { streams, command })
    }
}

/// Why `-r` is refused: a program that holds its streams itself cannot be given others in their place.
const NO_RELAY: &str = "flag -r is for the agent that init starts, whose log is dialled again; there is no relay for";

/// The flags of vsockexec: the ports, and whether output is to be dialled again.
fn streams<'a>(words: &mut Peekable<impl Iterator<Item = &'a str>>) -> Result<([Option<u32>; 3], bool), BadLine> {
    let (mut streams, mut redials) = ([None; 3], false);
    while let Some(word) = words.next_if(|word| word.starts_with('-')) {
        let stream = match word.trim_start_matches('-') {
            "i" => 0,
            "o" => 1,
            "e" => 2,
            "r" => {
                redials = true;
                continue;
            }
            _ => return Err(BadLine(format!("vsockexec: unknown flag {word}; -r and -i, -o, -e PORT are allowed"))),
        };
        streams[stream] = Some(port(word, words.next())?);
    }
    Ok((streams, redials))
}

fn named(program: &str, name: &str) -> bool {
    Path::new(program).file_name().is_some_and(|file| file == name)
}

fn port(flag: &str, value: Option<&str>) -> Result<u32, BadLine> {
    let value = value.ok_or_else(|| BadLine(format!("flag {flag} needs a port")))?;
    value.parse().map_err(|_| BadLine(format!("flag {flag}: {value:?} is no port")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Level;

    fn parse(line: &str) -> Result<InitLine, BadLine> {
        InitLine::parse(&line.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn the_originals_default_line_is_understood() {
        let line = parse("-e 1 /bin/vsockexec -e 109 /bin/gcs -v4 -log-format json -loglevel info").expect("valid");
        let flags = AgentFlags { log_level: Level::Info, log_json: true, ..Default::default() };
        let expected =
            InitLine { entropy_port: Some(1), streams: [None, None, Some(109)], program: Program::Agent(flags) };
        assert_eq!(line, expected);
    }

    #[test]
    fn both_streams_and_todays_flags() {
        let line = parse(
            "-e 1 /bin/vsockexec -i 108 -o 109 -e 110 /bin/gcs -v4 --loglevel=trace -kmsgLogLevel 6 \
             -disable-time-sync -log-format text",
        )
        .expect("valid");
        assert_eq!(line.streams, [Some(108), Some(109), Some(110)]);
        let flags = AgentFlags { log_level: Level::Trace, kmsg_level: 6, ..Default::default() };
        assert_eq!(line.program, Program::Agent(flags));
    }

    #[test]
    fn the_agents_log_may_be_dialled_again() {
        let (with, without) = ("-e 1 /bin/vsockexec -r -e 109 /bin/gcs -v4", "-e 1 /bin/vsockexec -e 109 /bin/gcs -v4");
        assert_eq!(parse(with).expect("valid"), parse(without).expect("valid"));
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
            ("/bin/vsockexec -r -e 109 /bin/sh -c true", "flag -r is for the agent"),
            ("/bin/gcs -loglevel loud", "\"loud\""),
            ("/bin/gcs -log-format xml", "\"xml\""),
            ("/bin/gcs -kmsgLogLevel", "-kmsgLogLevel"),
            ("/bin/gcs -v4 -new", "-new"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn vsockexec_by_itself_takes_the_same_flags() {
        let parse = |line: &str| ExecLine::parse(&line.split_whitespace().collect::<Vec<_>>());
        let line = parse("-e 109 -i 4294967295 /bin/gcs -v4").expect("valid");
        let command = vec!["/bin/gcs".into(), "-v4".into()];
        assert_eq!(line, ExecLine { streams: [Some(u32::MAX), None, Some(109)], command });
        for (line, word) in [
            ("", "no program"),
            ("-e", "needs a port"),
            ("-o 4294967296 x", "4294967296"),
            ("-r -e 1 x", "flag -r is for the agent"),
            ("-r -e 1", "no program"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_words_never_panic(words: Vec<String>) {
            let _ = (InitLine::parse(&words), ExecLine::parse(&words));
        }
    }
}
