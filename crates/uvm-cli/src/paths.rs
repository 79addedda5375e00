//! What of the host a guest gets, and at which path of the guest it is.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;

use crate::args::RunArgs;

/// A disk of the host, and where the guest mounts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) guest_path: Option<String>,
    pub(crate) read_only: bool,
}

/// A directory or file of the host, and where it is in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedPath {
    pub(crate) path: PathBuf,
    pub(crate) guest_path: String,
    pub(crate) read_only: bool,
}

/// A Unix socket of the host, and where it is in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfferedSocket {
    pub(crate) path: PathBuf,
    pub(crate) guest_path: String,
}

/// `PATH[:GUEST][:ro]`; a path of the host may have colons in it.
pub(crate) fn share(text: &str) -> Result<SharedPath, String> {
    let Disk { path, guest_path, read_only } = disk(text)?;
    let guest_path = guest_path.map_or_else(|| same_path(&path), Ok)?;
    Ok(SharedPath { path, guest_path, read_only })
}

/// The same, where the guest may not mount it at all.
pub(crate) fn disk(text: &str) -> Result<Disk, String> {
    let (rest, option) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, ":ro"),
        None => (text, ""),
    };
    let (path, guest_path) = paths(rest, option, "only :ro may, once")?;
    Ok(Disk { path, guest_path, read_only: !option.is_empty() })
}

/// `SOCKET[:GUEST]`.
pub(crate) fn socket(text: &str) -> Result<OfferedSocket, String> {
    let (path, guest_path) = paths(text, "", "nothing may")?;
    let guest_path = guest_path.map_or_else(|| same_path(&path), Ok)?;
    Ok(OfferedSocket { path, guest_path })
}

fn same_path(path: &Path) -> Result<String, String> {
    let full = std::path::absolute(path).map_err(|e| e.to_string())?;
    let text = full.to_str().ok_or("its path is not Unicode: say where it is in the guest")?;
    Ok(plain(text))
}

/// A path of the guest without what it can be written without: as names alone, one after the other. No link of the guest is
/// followed on the way up.
fn plain(guest_path: &str) -> String {
    let mut names = Vec::new();
    for component in Path::new(guest_path).components() {
        match component {
            Component::Normal(name) => names.push(name.to_string_lossy()),
            Component::ParentDir => drop(names.pop()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    format!("/{}", names.join("/"))
}

/// A path of the host, and one of the guest, which begins with a slash and has no colon: what another program takes after
/// one, as `:rw`, is not to become part of the path in silence. `option` was taken off the end; `allowed` is what may be there.
fn paths(text: &str, option: &str, allowed: &str) -> Result<(PathBuf, Option<String>), String> {
    let (path, guest_path) = match text.rsplit_once(":/") {
        Some((path, guest_path)) => (path, Some(format!("/{guest_path}"))),
        None => (text, None),
    };
    if path.is_empty() {
        return Err("a path of the host is needed before the colon".into());
    }
    if let Some((guest_path, more)) = guest_path.as_ref().and_then(|path| path.split_once(':')) {
        return Err(format!("\":{more}{option}\" follows {guest_path}, the path in the guest: {allowed}"));
    }
    if let Some(path) =
        guest_path.as_ref().filter(|path| Path::new(path).components().any(|c| c == Component::ParentDir))
    {
        return Err(format!("{path}, the path in the guest, has \"..\" in it: a path that only goes down is allowed"));
    }
    Ok((path.into(), guest_path.as_deref().map(plain)))
}

/// What the options name on the host, each with what it is to be.
pub(crate) fn named(args: &RunArgs) -> Vec<(&'static str, PathBuf)> {
    let shares = args.shares.iter().map(|share| ("share", share.path.clone()));
    let disks = args.disks.iter().map(|disk| ("disk", disk.path.clone()));
    let sockets = args.sockets.iter().map(|socket| ("socket", socket.path.clone()));
    shares.chain(disks).chain(sockets).collect()
}

/// Fails for what is not there, before a VM is started in vain. Whoever uses it looks again. It may take as long as a file
/// system that does not answer.
pub(crate) fn all_there(named: &[(&str, PathBuf)]) -> anyhow::Result<()> {
    named.iter().try_for_each(|(what, path)| there(what, path))
}

fn there(what: &str, path: &Path) -> anyhow::Result<()> {
    let found = path.metadata();
    let is_missing = found.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory));
    let found = found.with_context(|| match after_colon(path) {
        Some(after) if is_missing => {
            format!("{what} {}: unless that is its name, {}", path.display(), misplaced(what, &after))
        }
        _ => format!("{what} {}", path.display()),
    });
    found.map(drop)
}

/// What may have been meant for something else than the end of a path of the host.
fn after_colon(path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    text.rsplit_once(':').map(|(_, after)| after.to_owned())
}

fn misplaced(what: &str, after: &str) -> String {
    match (what, after) {
        ("socket", _) => {
            format!("\":{after}\" is no path in the guest, which begins with a slash: SOCKET[:GUEST] is allowed")
        }
        (_, "ro") => "\":ro\" comes last, and once: PATH[:GUEST][:ro] is allowed".to_owned(),
        _ => format!(
            "\":{after}\" is neither a path in the guest, which begins with a slash, nor \":ro\": PATH[:GUEST][:ro] is allowed"
        ),
    }
}

/// What of the guest's own a command that has layers for its root sees at a path, or above it, whatever is mounted there.
pub(crate) fn hidden_by(guest_path: &str) -> Option<&'static str> {
    if guest_path == "/" {
        return Some("/");
    }
    ["/proc", "/sys", "/dev"].into_iter().find(|own| Path::new(guest_path).starts_with(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn refused(option: &str, value: &str) -> String {
        args::parse(["uvm", "run", option, value].map(Into::into)).expect_err(value).to_string()
    }

    #[test]
    fn disks_are_paths_and_where_they_are_mounted() {
        let good = |path: &str, guest_path: Option<&str>, read_only| {
            Ok(Disk { path: path.into(), guest_path: guest_path.map(str::to_owned), read_only })
        };
        assert_eq!(disk("a.img"), good("a.img", None, false));
        assert_eq!(disk("/a:b.img:ro"), good("/a:b.img", None, true));
        assert_eq!(disk("a.img:/data"), good("a.img", Some("/data"), false));
        assert_eq!(disk("/dev/disk/by-path/a:0:/mnt/d:ro"), good("/dev/disk/by-path/a:0", Some("/mnt/d"), true));
        for bad in ["", ":ro", ":/data"] {
            let error = refused("--disk", bad);
            assert!(error.contains("PATH[:GUEST][:ro]") && error.contains("a path of the host"), "{error}");
        }
    }

    #[test]
    fn shares_are_at_the_same_path_if_nothing_else_is_said() {
        let good = |path: &str, guest_path: &str, read_only| {
            Ok(SharedPath { path: path.into(), guest_path: guest_path.to_owned(), read_only })
        };
        assert_eq!(share(".:/work"), good(".", "/work", false));
        assert_eq!(share("/srv/data:ro"), good("/srv/data", "/srv/data", true));
        assert_eq!(share("/a:/b:/c:ro"), good("/a:/b", "/c", true));
        assert!(share(":ro").is_err());
    }

    #[test]
    fn sockets_of_the_host_are_at_the_same_path_if_nothing_else_is_said() {
        let good =
            |path: &str, guest_path: &str| Ok(OfferedSocket { path: path.into(), guest_path: guest_path.to_owned() });
        assert_eq!(socket("/run/a:b.sock"), good("/run/a:b.sock", "/run/a:b.sock"));
        assert_eq!(socket("a.sock:/run/b.sock"), good("a.sock", "/run/b.sock"));
        let here = std::env::current_dir().expect("a directory").join("a.sock");
        assert_eq!(socket("a.sock"), good("a.sock", here.to_str().expect("Unicode")));
        assert!(socket(":/run/b.sock").is_err() && socket("").is_err());
    }

    #[test]
    fn nothing_becomes_part_of_a_path_in_the_guest_in_silence() {
        for (option, value, named) in [
            ("--share", ".:/work:rw", "\":rw\" follows /work"),
            ("--share", ".:/work:ro:z", "\":ro:z\" follows /work"),
            ("--share", ".:/work:ro:ro", "\":ro:ro\" follows /work, the path in the guest: only :ro may, once"),
            ("--share", ".:/work:rw:ro", "\":rw:ro\" follows /work"),
            ("--share", ".:/work:", "\":\" follows /work"),
            ("--disk", "a.img:/data:rw", "only :ro may"),
            ("--socket", "a.sock:/run/a.sock:ro", "\":ro\" follows /run/a.sock, the path in the guest: nothing may"),
        ] {
            let error = refused(option, value);
            assert!(error.contains(value) && error.contains(named), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_a_relative_path_in_the_guest_is_told_from_it() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(there("share", dir.path()).is_ok());
        let said = |name: &str| format!("{:#}", there("disk", &dir.path().join(name)).expect_err(name));
        let plain = said("missing.img");
        assert!(plain.starts_with("disk /") && plain.contains("missing.img: No such file"), "{plain}");
        for (name, hint) in [
            (":data", "\":data\" is neither a path in the guest, which begins with a slash, nor \":ro\""),
            (":rw", "\":rw\" is neither"),
            (":", "\":\" is neither"),
            // As in `missing.img:ro:/data`, and `missing.img:ro:ro`.
            (":ro", "\":ro\" comes last, and once: PATH[:GUEST][:ro] is allowed"),
        ] {
            let relative = said(&format!("missing.img{name}"));
            let expected = format!("missing.img{name}: unless that is its name, {hint}");
            assert!(
                relative.contains(&expected) && relative.ends_with("No such file or directory (os error 2)"),
                "{relative}"
            );
        }
        let socket = format!("{:#}", there("socket", &dir.path().join("a.sock:ro")).expect_err("none"));
        assert!(socket.contains("\":ro\" is no path in the guest") && socket.contains("SOCKET[:GUEST]"), "{socket}");
        // What is there by that name is meant.
        std::fs::write(dir.path().join("there:ro"), "").expect("written");
        assert!(there("disk", &dir.path().join("there:ro")).is_ok());
        let below = said("there:ro/more");
        assert!(below.contains("Not a directory"), "{below}");
    }

    #[test]
    fn a_path_in_the_guest_is_names_alone() {
        for (written, path) in [("//sys/", "/sys"), ("/./dev/log", "/dev/log"), ("/", "/"), ("/a//b/.", "/a/b")] {
            assert_eq!(share(&format!(".:{written}")).expect("valid").guest_path, path);
        }
        for bad in ["/x/..", "/srv/../proc/1", "/.."] {
            for option in ["--share", "--disk", "--socket"] {
                let error = refused(option, &format!("a:{bad}"));
                assert!(error.contains(&format!("{bad}, the path in the guest, has \"..\" in it")), "{error}");
            }
        }
        // What the host's path has of it is no matter.
        let above = std::env::current_dir().expect("a directory").parent().expect("not the root").join("x");
        assert_eq!(share("../x").expect("valid").guest_path, above.to_str().expect("Unicode"));
        assert_eq!(share("../x:/y").expect("valid").path, Path::new("../x"));
    }

    #[test]
    fn what_layers_would_hide_is_known() {
        for (path, own) in [("/", "/"), ("/proc", "/proc"), ("/sys/x", "/sys"), ("/dev/log", "/dev")] {
            assert_eq!(hidden_by(path), Some(own), "{path}");
        }
        for path in ["/process", "/srv/proc", "/d"] {
            assert_eq!(hidden_by(path), None, "{path}");
        }
    }
}
