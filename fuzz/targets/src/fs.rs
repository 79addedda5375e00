//! A virtio-fs share whose guest is hostile: requests as it likes them, and what is none.

use std::fs;
use std::sync::LazyLock;

use uvm_fs::guard::{Access, Owners};
use uvm_fs::raw::operation::LOOKUP;
use uvm_fs::raw::{Guest, ROOT};

use crate::place::Place;

/// One for all inputs, which are run one after the other.
static PLACE: LazyLock<Place> = LazyLock::new(Place::default);

/// A session: for each request its operation, the number of a file, the length of its body and the body. The first byte says
/// whether the share can be written, and whether headers are true.
///
/// # Panics
/// When something outside of the share was touched, or in one that is read-only.
pub fn fs_requests(data: &[u8]) {
    let Some((&how, mut rest)) = data.split_first() else { return };
    PLACE.prepare();
    let access = if how & 1 == 0 { Access::ReadWrite } else { Access::ReadOnly };
    let owners = Owners::One { uid: 7, gid: 7 };
    let guest = Guest::of(&PLACE.share(), access, owners, 64).expect("a share");
    guest.begin([u32::MAX; 2]).expect("negotiated");
    for name in ["f", "d", "l"] {
        guest.ask(LOOKUP, ROOT, format!("{name}\0").as_bytes()).expect("it is there");
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
    PLACE.check();
    if access == Access::ReadOnly {
        assert_eq!(fs::read_to_string(PLACE.share().join("f")).expect("the file"), "inside");
        assert_eq!(fs::read_dir(PLACE.share()).expect("the share").count(), 3);
    }
}
