//! Images of layers, put over each other for the command's VM.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use uvm::{CombinedLayers, LayerMechanism, LcowOptions, UtilityVm, UvmError, VpmemMount};

/// Where the guest sees all of them as one directory.
pub(crate) const ROOT: &str = "/layers";
/// Where what is written there goes: memory of the guest.
const SCRATCH: &str = "/run/layers/scratch";
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

/// The layers that the guest has.
pub(crate) struct Layers {
    // Dropped first: it stands on the others.
    _combined: Option<CombinedLayers>,
    _layers: Vec<VpmemMount>,
}

impl Layers {
    /// Mounts them, the first at the bottom, with a scratch on top.
    pub(crate) async fn mount(vm: &UtilityVm, images: &[PathBuf]) -> Result<Self, UvmError> {
        let mut layers = Vec::new();
        for image in images {
            let layer = vm.add_vpmem(image).await?;
            if let LayerMechanism::Disk { why } = layer.mechanism() {
                tracing::info!(layer = %image.display(), why, "the guest has a layer as a disk");
            }
            layers.push(layer);
        }
        let combined = if layers.is_empty() {
            None
        } else {
            let top_first: Vec<_> = layers.iter().rev().filter_map(VpmemMount::guest_path).collect();
            Some(vm.combine_layers_lcow(&top_first, SCRATCH, ROOT).await?)
        };
        Ok(Self { _combined: combined, _layers: layers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
