//! Finding the guest agent that goes into the initramfs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::data_dir::DataDir;
use crate::error::{BadProgram, ImageError};
use crate::program::Program;

/// What an agent's version follows in its executable: this text, the version (1 to 64 of `A-Z a-z 0-9 . _ + ~ -`),
/// and a zero byte. In Rust:
///
/// ```
/// #[used]
/// static VERSION: &str = concat!("uvm-agent-version:", env!("CARGO_PKG_VERSION"), "\0");
/// ```
///
/// It is read from the file, because nothing made for the guest is run on the host.
pub const VERSION_MARKER: &str = "uvm-agent-version:";

/// Which agent goes into the initramfs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AgentSource {
    /// The first of these that can run in the guest:
    ///
    /// 1. `$UVM_AGENT` (if it is set, the others are not looked at),
    /// 2. `uvm-agent` beside the running program,
    /// 3. `x86_64-unknown-linux-musl/agent/uvm-agent` in Cargo's target directory, if the running program is in one,
    /// 4. `agent/uvm-agent` in the data directory.
    #[default]
    Search,
    /// This file.
    Path(PathBuf),
}

/// An agent that can run in the guest.
pub(crate) struct Agent {
    pub(crate) program: Program,
    pub(crate) version: String,
}

impl Agent {
    /// Finds and reads the agent.
    pub(crate) fn find(source: &AgentSource, data_dir: &DataDir) -> Result<Self, ImageError> {
        match source {
            AgentSource::Path(path) => Self::read(path),
            AgentSource::Search => {
                Self::search(std::env::var_os("UVM_AGENT"), std::env::current_exe().ok().as_deref(), data_dir)
            }
        }
    }

    fn search(variable: Option<OsString>, exe: Option<&Path>, data_dir: &DataDir) -> Result<Self, ImageError> {
        if let Some(path) = variable.filter(|path| !path.is_empty()) {
            return Self::read(Path::new(&path));
        }
        let mut looked = vec!["$UVM_AGENT: not set".to_owned()];
        let beside = exe.and_then(Path::parent).map(|dir| dir.join("uvm-agent"));
        let built = exe.and_then(target_dir).map(|dir| dir.join(IN_TARGET_DIR));
        for path in beside.into_iter().chain(built).chain([data_dir.agent()]) {
            // `uvm-agent` beside a freshly built `uvm` is often the one built for the host: not static, so it is
            // passed by.
            match Self::read(&path) {
                Ok(agent) => return Ok(agent),
                Err(ImageError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    looked.push(format!("{}: not there", path.display()));
                }
                Err(ImageError::BadProgram { why, .. }) => looked.push(format!("{}: {why}", path.display())),
                Err(ImageError::Io { source, .. }) => looked.push(format!("{}: {source}", path.display())),
                Err(error) => return Err(error),
            }
        }
        Err(ImageError::AgentNotFound { looked })
    }

    fn read(path: &Path) -> Result<Self, ImageError> {
        let program = Program::read(path, "agent")?;
        match version(&program.bytes) {
            Some(version) => Ok(Self { version: version.to_owned(), program }),
            None => Err(ImageError::BadProgram { what: "agent", path: path.to_owned(), why: BadProgram::NoVersion }),
        }
    }
}

/// The target directory of Cargo that `exe` is in: `<target>/[<triple>/]<profile>/[deps/]<exe>`. Not one in which
/// anyone could have put something, such as `/tmp`.
fn target_dir(exe: &Path) -> Option<&Path> {
    use std::os::unix::fs::PermissionsExt;
    let is_target_dir = |dir: &&Path| {
        let open_to_all = dir.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0);
        dir.join("CACHEDIR.TAG").is_file() && !open_to_all
    };
    exe.ancestors().skip(2).take(3).find(is_target_dir)
}

/// The version in an agent's executable. The marker alone, or followed by something else, does not count: the code
/// that looks for markers holds one, too.
fn version(bytes: &[u8]) -> Option<&str> {
    let marker = VERSION_MARKER.as_bytes();
    let starts = bytes.windows(marker.len()).enumerate().filter(|(_, window)| *window == marker).map(|(at, _)| at);
    starts.map(|at| &bytes[at + marker.len()..]).find_map(|rest| {
        let end = rest.iter().take(MAX_VERSION + 1).position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&rest[..end]).ok()?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '~' | '-');
        (!text.is_empty() && text.chars().all(allowed)).then_some(text)
    })
}

const IN_TARGET_DIR: &str = "x86_64-unknown-linux-musl/agent/uvm-agent";
const MAX_VERSION: usize = 64;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::ElfBuilder;

    fn agent(version: &str) -> Vec<u8> {
        ElfBuilder::program(format!("code {VERSION_MARKER}{{}} more {VERSION_MARKER}{version}\0rest").as_bytes())
    }

    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_version_is_what_stands_between_marker_and_zero() {
        assert_eq!(version(b"xx uvm-agent-version:0.1.0-rc.1+g12\0"), Some("0.1.0-rc.1+g12"));
        for bad in
            ["uvm-agent-version:\0", "uvm-agent-version:1.0", "uvm-agent-version:1 0\0", "uvm-agent-version\0", ""]
        {
            assert_eq!(version(bad.as_bytes()), None, "{bad}");
        }
        let long = format!("{VERSION_MARKER}{}\0", "1".repeat(65));
        assert_eq!(version(long.as_bytes()), None);
    }

    #[test]
    fn places_are_looked_at_in_order_and_unfit_ones_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path().join("data")).unwrap();
        let exe = dir.path().join("target/debug/deps/uvm");
        let find = |variable: Option<&Path>| {
            Agent::search(variable.map(Into::into), Some(&exe), &data).map(|agent| agent.version)
        };
        put(&data.agent(), &agent("4"));
        assert_eq!(find(None).unwrap(), "4");
        put(&dir.path().join("target").join(IN_TARGET_DIR), &agent("3"));
        assert_eq!(find(None).unwrap(), "4", "not every directory above is a target directory");
        put(&dir.path().join("target/CACHEDIR.TAG"), b"");
        assert_eq!(find(None).unwrap(), "3");
        let set_mode = |mode| fs::set_permissions(dir.path().join("target"), fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o1777);
        assert_eq!(find(None).unwrap(), "4", "anyone could have put it there");
        set_mode(0o755);
        put(&exe.with_file_name("uvm-agent"), &agent("2"));
        assert_eq!(find(None).unwrap(), "2");
        put(&exe.with_file_name("uvm-agent"), &ElfBuilder::executable().interpreter("/lib/ld.so").build());
        assert_eq!(find(None).unwrap(), "3", "a dynamic one is passed by");
        put(&dir.path().join("mine"), &agent("1"));
        assert_eq!(find(Some(&dir.path().join("mine"))).unwrap(), "1");
        assert_eq!(find(Some(Path::new(""))).unwrap(), "3", "an empty variable is an unset one");
    }

    #[test]
    fn a_variable_that_names_no_agent_is_an_error_and_not_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        put(&data.agent(), &agent("4"));
        let plain = dir.path().join("plain");
        put(&plain, &ElfBuilder::executable().build());
        let error = Agent::search(Some(plain.into()), None, &data).err().unwrap();
        assert!(matches!(error, ImageError::BadProgram { why: BadProgram::NoVersion, .. }), "{error}");
        assert!(Agent::search(Some("/nowhere".into()), None, &data).is_err());
    }

    #[test]
    fn the_error_lists_every_place_and_how_to_build_one() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::at(dir.path()).unwrap();
        put(&dir.path().join("bin/uvm-agent"), b"#!/bin/sh");
        let error = Agent::search(None, Some(&dir.path().join("bin/uvm")), &data).err().unwrap().to_string();
        for part in [
            "$UVM_AGENT: not set",
            "bin/uvm-agent: it is not an ELF",
            "agent/uvm-agent: not there",
            "cargo build -p uvm-agent",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
