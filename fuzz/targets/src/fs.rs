//! A virtio-fs share whose guest is hostile: requests as it likes them, and what is none.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use tempfile::TempDir;
use uvm_fs::guard::{Access, Owners};
use uvm_fs::raw::Guest;

const SECRET: &str = "nobody's business";
const INIT: u32 = 26;
const LOOKUP: u32 = 1;

/// One for all inputs, which are run one after the other.
static PLACE: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

/// Puts the share, and what is next to it, in order.
fn prepare(place: &Path) {
    let share = place.join("share");
    if share.exists() {
        fs::remove_dir_all(&share).expect("nothing in the share keeps root or its owner from removing it");
    }
    fs::create_dir_all(share.join("d")).expect("a directory");
    fs::write(share.join("f"), "inside").expect("a file");
    fs::write(place.join("secret"), SECRET).expect("a file");
    std::os::unix::fs::symlink("../secret", share.join("l")).expect("a link");
}

/// A session: for each request its operation, the number of a file, the length of its body and the body. The first byte says
/// whether the share can be written, and whether headers are true.
///
/// # Panics
/// When something outside of the share was touched, or in one that is read-only.
pub fn fs_requests(data: &[u8]) {
    let Some((&how, mut rest)) = data.split_first() else { return };
    let place = PLACE.path();
    prepare(place);
    let access = if how & 1 == 0 { Access::ReadWrite } else { Access::ReadOnly };
    let owners = Owners::One { uid: 7, gid: 7 };
    let guest = Guest::of(&place.join("share"), access, owners, 64).expect("a share");
    let mut start = Vec::new();
    for word in [7_u32, 38, 0x2_0000, u32::MAX, u32::MAX] {
        start.extend_from_slice(&word.to_ne_bytes());
    }
    start.resize(64, 0);
    guest.ask(INIT, 0, &start).expect("negotiated");
    for name in ["f", "d", "l"] {
        guest.ask(LOOKUP, 1, format!("{name}\0").as_bytes()).expect("it is there");
    }
    while let [operation, node, length, after @ ..] = rest {
        let (body, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        if how & 2 == 0 {
            // Whatever is answered.
            let _ = guest.ask(u32::from(*operation), u64::from(*node), body);
        } else {
            guest.send(body);
        }
    }
    assert_eq!(fs::read_to_string(place.join("secret")).expect("the secret"), SECRET);
    assert_eq!(fs::read_dir(place).expect("the place").count(), 2, "the share and the secret");
    if access == Access::ReadOnly {
        assert_eq!(fs::read_to_string(place.join("share/f")).expect("the file"), "inside");
        assert_eq!(fs::read_dir(place.join("share")).expect("the share").count(), 3);
    }
}
