//! Directories and files of the host, shared with the command's VM.

use std::path::Path;

use anyhow::Context;
use uvm::{Share, ShareKind, ShareOptions, UtilityVm};

use super::guest_script::in_guest;
use super::layers::seen_at;
use crate::args::{RunArgs, ShareBy};
use crate::paths::SharedPath;

/// Where the guest has each single file that is shared, in a directory with nothing else in it. Beneath no directory that
/// others are likely to be shared at: it would be made there.
const FILES: &str = "/.shared-files";
/// Shows the file at the first path at the second: over the file that is there, else over an empty one, which is made.
const SHOW: &str = r#"mkdir -p "${2%/*}/" && { [ -e "$2" ] || : > "$2"; } && mount --bind "$1" "$2""#;

/// Mounts one of them, by its number, which ends when it is dropped, or with the VM.
pub(crate) async fn mount(vm: &UtilityVm, args: &RunArgs, number: usize, shared: &SharedPath) -> anyhow::Result<Share> {
    let SharedPath { path, guest_path, read_only } = shared;
    let seen_at = seen_at(&args.layers, guest_path);
    let is_directory = path.is_dir();
    let kind = match args.share_by {
        ShareBy::VirtioFs if is_directory => ShareKind::VirtioFs,
        ShareBy::Auto | ShareBy::VirtioFs => ShareKind::Auto,
        ShareBy::Plan9 => ShareKind::Plan9,
    };
    let aside = format!("{FILES}/{number}");
    let options = ShareOptions::new(path, if is_directory { &seen_at } else { &aside }).with_kind(kind);
    let options = if *read_only { options.read_only() } else { options };
    let share = vm.share_with(&options).await?;
    if !is_directory {
        let shown = show(vm, &aside, path, &seen_at).await;
        shown.with_context(|| format!("cannot show {} at {guest_path} in the guest", path.display()))?;
    }
    Ok(share)
}

/// Has the guest show a single file that is shared aside at the path where it is to be.
async fn show(vm: &UtilityVm, aside: &str, path: &Path, at: &str) -> anyhow::Result<()> {
    // What a link leads to is shared, by its own name.
    let file = path.canonicalize()?;
    let name = file.file_name().and_then(|name| name.to_str()).context("its name is not Unicode")?;
    let shown = in_guest(vm, SHOW, &[&format!("{aside}/{name}"), at.trim_end_matches('/')]).await;
    shown.context("mounting it there in the guest failed")
}
