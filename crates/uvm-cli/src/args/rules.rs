//! What holds between options: of two that are right by themselves, one may be too much.

use clap::{CommandFactory, Parser};
use std::collections::BTreeSet;
use std::ffi::OsString;

use super::{Cli, Command};
use crate::paths;

/// The command line, with what its parts alone do not tell checked, too.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(words)?;
    let Command::Run(args) = &cli.command else { return Ok(cli) };
    let conflict = |why: String| Err(conflict_of_run(why));
    if let Some(port) = twice(args.virtual_sockets.iter().map(|socket| socket.port)) {
        return conflict(format!("port {port} is given twice by '--vsock': one socket for each port is allowed"));
    }
    // However each is written: one that is not there is told of later.
    let files: Vec<_> =
        args.layers.iter().map(|layer| layer.canonicalize().unwrap_or_else(|_| layer.clone())).collect();
    if let Some(layer) = twice(&files) {
        return conflict(format!("'--layer {}' is given twice: each image is one layer", layer.display()));
    }
    let shares = args.shares.iter().map(|share| &share.guest_path);
    let disks = args.disks.iter().filter_map(|disk| disk.guest_path.as_ref());
    let sockets = args.sockets.iter().map(|socket| &socket.guest_path);
    let in_guest: Vec<_> = shares.chain(disks).chain(sockets).collect();
    if !args.layers.is_empty()
        && let Some((path, own)) = in_guest.iter().find_map(|path| Some((path, paths::hidden_by(path)?)))
    {
        return conflict(format!(
            "{path} in the guest is hidden with '--layer': {own} is the layers' or the guest's own there; a share, disk or \
             socket may be anywhere but at / and in /proc, /sys and /dev"
        ));
    }
    if let Some(path) = twice(in_guest) {
        return conflict(format!(
            "{path} in the guest is given twice: one share, disk or socket for each path is allowed"
        ));
    }
    Ok(cli)
}

/// With the usage of `uvm run`, not of the whole program.
fn conflict_of_run(why: String) -> clap::Error {
    let mut program = Cli::command();
    program.build();
    let kind = clap::error::ErrorKind::ArgumentConflict;
    match program.find_subcommand_mut("run") {
        Some(run) => run.error(kind, why),
        None => program.error(kind, why),
    }
}

fn twice<T: Ord + Copy>(all: impl IntoIterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    all.into_iter().find(|one| !seen.insert(*one))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn a_port_has_one_socket() {
        let words = |second| ["uvm", "run", "--vsock", "7:/a", "--vsock", second, "ls"].map(Into::into);
        let Command::Run(run) = parse(words("8:/a")).expect("valid").command else { panic!("run") };
        assert_eq!(run.virtual_sockets.len(), 2);
        let error = parse(words("7:/b")).expect_err("twice").to_string();
        assert!(error.contains("port 7 is given twice") && error.contains("Usage: uvm run "), "{error}");
    }

    #[test]
    fn a_layer_is_one_layer() {
        let words = |second| ["uvm", "run", "--layer", "a.img", "--layer", second, "ls"].map(Into::into);
        let Command::Run(run) = parse(words("b.img")).expect("valid").command else { panic!("run") };
        assert_eq!(run.layers, ["a.img", "b.img"].map(PathBuf::from));
        let error = parse(words("a.img")).expect_err("twice").to_string();
        assert!(error.contains("'--layer a.img' is given twice"), "{error}");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let [directory, name] =
            [file.path().parent(), file.path().file_name().map(Path::new)].map(|part| part.expect("one"));
        let again = directory.join(".").join(name);
        let words = [
            "uvm".as_ref(),
            "run".as_ref(),
            "--layer".as_ref(),
            file.path().as_os_str(),
            "--layer".as_ref(),
            again.as_os_str(),
        ];
        let error = parse(words.map(OsString::from)).expect_err("twice").to_string();
        assert!(error.contains("is given twice"), "{error}");
    }

    #[test]
    fn a_path_in_the_guest_is_for_one_thing() {
        let words = |second| ["uvm", "run", "--share", ".:/a", second, "b:/a/", "ls"].map(Into::into);
        for option in ["--share", "--disk", "--socket"] {
            let error = parse(words(option)).expect_err("twice").to_string();
            assert!(error.contains("/a in the guest is given twice"), "{option}: {error}");
        }
        let unmounted =
            ["uvm", "run", "--disk", "a", "--disk", "b", "--share", ".:/a", "--share", ".:/b"].map(Into::into);
        assert!(parse(unmounted).is_ok());
    }

    #[test]
    fn what_layers_would_hide_is_refused() {
        for (option, value, own) in
            [("--share", ".:/proc", "/proc"), ("--disk", "a:/:ro", "/"), ("--socket", "a:/dev/log", "/dev")]
        {
            let words = ["uvm", "run", option, value, "ls"].map(Into::into);
            assert!(parse(words.clone()).is_ok(), "{value} without layers");
            let layers = ["--layer", "a.img"].map(Into::into);
            let words = words[..2].iter().cloned().chain(layers).chain(words[2..].iter().cloned());
            let error = parse(words).expect_err("hidden").to_string();
            assert!(error.contains("is hidden with '--layer'") && error.contains(own), "{error}");
        }
    }
}
