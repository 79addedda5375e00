//! Images of layers, put over each other for the command's VM: the command has them for its root.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use uvm::{CombinedLayers, LayerMechanism, LcowOptions, UtilityVm, UvmError, VpmemMount};

use super::guest_script::in_guest;

/// Where the guest sees all of them as one directory.
const ROOT: &str = "/layers";
/// The guest's program that makes a directory another's root.
const ENTER: &str = "/bin/uvm-enter";
/// Where what is written there goes: memory of the guest.
const SCRATCH: &str = "/run/layers/scratch";
/// Refuses a path that leads out of the command's root: what is there already may be of a layer, with links that lead elsewhere in
/// the guest's own root than in the command's.
const CHECK: &str = r#"
at=$1 root=$2 there=$1
while [ -n "$there" ] && [ ! -e "$there" ] && [ ! -L "$there" ]; do there=${there%/*}; done
case "$(readlink -f "${there:-/}")/" in
"$root"/*) ;;
*) echo "${there#"$root"} is a link out of the command's root, or in a directory that is one" >&2; exit 1 ;;
esac
"#;
/// Sizes of layers are counted in these.
const PAGE: u64 = 4096;

/// Gives the VM as many memory-backed devices as there are layers, large enough for each; none, if there is none.
pub(crate) fn make_room(options: &mut LcowOptions, images: &[PathBuf]) -> anyhow::Result<()> {
    let most = uvm::MAX_VPMEM_COUNT;
    options.vpmem_devices = match u32::try_from(images.len()) {
        Ok(count) if count <= most => count,
        _ => bail!("{} layers: at most {most} are allowed", images.len()),
    };
    let sizes = images.iter().map(|image| size(image)).collect::<anyhow::Result<Vec<_>>>()?;
    let largest = sizes.into_iter().max().unwrap_or_default().max(PAGE);
    options.vpmem_size_bytes = largest.checked_next_multiple_of(PAGE).unwrap_or(largest);
    Ok(())
}

fn size(image: &Path) -> anyhow::Result<u64> {
    let meta = image.metadata().with_context(|| format!("layer {}", image.display()))?;
    if !meta.is_file() {
        bail!("layer {} is no file: the image of a file system is needed", image.display());
    }
    Ok(meta.len())
}

/// Where in the guest is what the command is to see at a path.
pub(crate) fn seen_at(images: &[PathBuf], path: &str) -> String {
    if images.is_empty() { path.to_owned() } else { format!("{ROOT}/{}", path.trim_start_matches('/')) }
}

/// The command's root in the guest, without a slash at the end.
pub(crate) fn root(images: &[PathBuf]) -> &'static str {
    if images.is_empty() { "" } else { ROOT }
}

/// Fails where the command would not see what is plugged in at a path, because a link of a layer is in the way.
pub(crate) async fn must_be_seen(vm: &UtilityVm, images: &[PathBuf], path: &str) -> anyhow::Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let at = seen_at(images, path);
    in_guest(vm, CHECK, &[at.trim_end_matches('/'), root(images)]).await.with_context(|| format!("{path} in the guest"))
}

/// What the guest is to run for a command in a directory, and where.
pub(crate) fn in_root(images: &[PathBuf], command: Vec<String>, directory: &str) -> (Vec<String>, String) {
    if images.is_empty() {
        return (command, directory.to_owned());
    }
    let enter = [ENTER, ROOT, directory].map(str::to_owned);
    (enter.into_iter().chain(command).collect(), "/".to_owned())
}

/// The layers that the guest has.
#[derive(Default)]
pub(crate) struct Layers {
    // Dropped first: it stands on the others.
    combined: Option<CombinedLayers>,
    layers: Vec<VpmemMount>,
}

impl Layers {
    /// Mounts them, the first at the bottom, with a scratch on top.
    pub(crate) async fn mount(&mut self, vm: &UtilityVm, images: &[PathBuf]) -> Result<(), UvmError> {
        for image in images {
            let layer = vm.add_vpmem(image).await?;
            if let LayerMechanism::Disk { why } = layer.mechanism() {
                tracing::info!(layer = %image.display(), why, "the guest has a layer as a disk");
            }
            self.layers.push(layer);
        }
        if !self.layers.is_empty() {
            let top_first: Vec<_> = self.layers.iter().rev().filter_map(VpmemMount::guest_path).collect();
            self.combined = Some(vm.combine_layers_lcow(&top_first, SCRATCH, ROOT).await?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_layers_for_its_root_if_there_are_any() {
        let command = || vec!["make".to_owned(), "test".to_owned()];
        let layer = ["a.img".into()];
        assert_eq!(in_root(&[], command(), "/work"), (command(), "/work".into()));
        let entered = ["/bin/uvm-enter", "/layers", "/work", "make", "test"].map(str::to_owned);
        assert_eq!(in_root(&layer, command(), "/work"), (entered.to_vec(), "/".into()));
        assert_eq!((seen_at(&[], "/work"), seen_at(&layer, "/work")), ("/work".into(), "/layers/work".into()));
    }

    #[test]
    fn there_is_room_for_the_layers_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = |name: &str, bytes: u64| {
            let path = dir.path().join(name);
            std::fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("made");
            path
        };
        let room = |images: &[PathBuf]| {
            let mut options = LcowOptions::default();
            make_room(&mut options, images).map(|()| (options.vpmem_devices, options.vpmem_size_bytes))
        };
        assert_eq!(room(&[]).expect("none"), (0, 4096));
        assert_eq!(room(&[image("a", 0), image("b", 5000), image("c", 1)]).expect("three"), (3, 8192));
        let error = format!("{:#}", room(&[dir.path().join("none")]).expect_err("none"));
        assert!(error.contains("none") && error.contains("No such file"), "{error}");
        let error = format!("{:#}", room(&[dir.path().to_owned()]).expect_err("a directory"));
        assert!(error.contains("is no file"), "{error}");
        let error = room(&vec![image("a", 0); 129]).expect_err("too many").to_string();
        assert_eq!(error, "129 layers: at most 128 are allowed");
    }
}
