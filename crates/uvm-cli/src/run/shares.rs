//! Directories and files of the host, shared with the command's VM.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use uvm::{ProcessSpec, Share, ShareKind, ShareOptions, UtilityVm};

use super::layers::{root, seen_at};
use crate::args::{RunArgs, ShareBy};
use crate::paths::SharedPath;

/// Where the guest has each single file that is shared, in a directory with nothing else in it. Beneath no directory that
/// others are likely to be shared at: it would be made there.
const FILES: &str = "/.shared-files";
/// Shows the file at the first path at the second: over the file that is there, else over an empty one, which is made. What is
/// there may be of a layer, with links that lead elsewhere in the guest's own root than in the command's, which is the third.
const SHOW: &str = r#"
at=$2 root=$3 there=$2
while [ -n "$there" ] && [ ! -e "$there" ] && [ ! -L "$there" ]; do there=${there%/*}; done
case "$(readlink -f "${there:-/}")/" in
"$root"/*) ;;
*) echo "$there is a link out of the command's root, or in a directory that is one" >&2; exit 1 ;;
esac
mkdir -p "${at%/*}/" && { [ -e "$at" ] || : > "$at"; } && mount --bind "$1" "$at"
"#;
/// How long that may take, on a guest that is translated, too.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);

/// Mounts them in their order, so that one may lie in another. A share ends when it is dropped, or with the VM.
pub(crate) async fn mount(vm: &UtilityVm, args: &RunArgs) -> anyhow::Result<Vec<Share>> {
    let mut shares = Vec::new();
    for (number, shared) in args.shares.iter().enumerate() {
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
        shares.push(vm.share_with(&options).await?);
        if !is_directory {
            let shown = show(vm, &aside, path, &seen_at, root(&args.layers)).await;
            shown.with_context(|| format!("cannot show {} at {guest_path} in the guest", path.display()))?;
        }
    }
    Ok(shares)
}

/// Has the guest show a single file that is shared aside at the path where it is to be.
async fn show(vm: &UtilityVm, aside: &str, path: &Path, at: &str, root: &str) -> anyhow::Result<()> {
    // What a link leads to is shared, by its own name.
    let file = path.canonicalize()?;
    let name = file.file_name().and_then(|name| name.to_str()).context("its name is not Unicode")?;
    let command = ["sh", "-c", SHOW, "sh", &format!("{aside}/{name}"), at.trim_end_matches('/'), root];
    let shown = async { vm.create_process(&ProcessSpec::new(command)).await?.output().await };
    let output = tokio::time::timeout(SHOWN_WITHIN, shown);
    let output = output.await.with_context(|| format!("the guest has not done it within {SHOWN_WITHIN:?}"))??;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.exit.is_success(), "mounting it there in the guest failed: {}", said.trim());
    Ok(())
}
