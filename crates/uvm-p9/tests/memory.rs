//! What open directories hold, as seen from the process: this test is alone in it.

#![cfg(target_os = "linux")]

use std::fs;

use uvm_p9::tree::{Durability, FileAccess, OpenMode, Opened, Tree, TreeOptions};

const MODE: OpenMode = OpenMode {
    access: FileAccess::Read,
    truncate: false,
    append: false,
    durability: Durability::Later,
    directory: true,
};

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
}

/// The attack: directories are opened and read up to one entry, so that the rest of what the kernel gave waits.
#[test]
fn a_directory_that_is_read_in_part_keeps_nothing() {
    let host = tempfile::tempdir().unwrap();
    for n in 0..3000 {
        fs::File::create(host.path().join(format!("{n}"))).unwrap();
    }
    let tree = Tree::open(TreeOptions::new(host.path())).unwrap();
    let open = || {
        let Ok(Opened::Directory(directory)) = tree.open_node(&tree.root(), MODE) else { panic!("a directory") };
        let mut taken = 0;
        let one = |_: uvm_p9::tree::Entry<'_>| {
            taken += 1;
            taken == 1
        };
        directory.read(&tree, 0, 64 * 1024, one).unwrap();
        directory
    };
    drop(open());
    let before = resident();
    let open: Vec<_> = (0..200).map(|_| open()).collect();
    let held = resident().saturating_sub(before);
    assert!(held < 8 * 1024 * 1024, "{} open directories hold {held} bytes", open.len());
}
