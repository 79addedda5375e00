//! Layers that are combined: what a container, or a program, sees as one directory.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uvm_wire::modify::CombinedLayers;

use super::overlay::{MOST_LAYERS, Overlay, Scratch};
use super::turns::Place;
use super::{Storage, StorageError, path};

/// The directory of a scratch that what is written goes to.
const UPPER: &str = "upper";

/// What is combined, by where it is seen. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Combined(Arc<Mutex<HashMap<PathBuf, Parts>>>);

/// What a combination stands on: paths without links in them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    layers: Vec<PathBuf>,
    scratch: Option<PathBuf>,
}

impl Combined {
    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Parts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes if nothing that is combined stands on what is mounted at `path`. The kernel would let it be unmounted, and
    /// would then miss the device.
    pub(super) fn check_unused(&self, path: &Path) -> Result<(), StorageError> {
        let all = self.lock();
        let stands = |parts: &Parts| parts.layers.iter().chain(&parts.scratch).any(|part| part.starts_with(path));
        match all.iter().find(|(_, parts)| stands(parts)) {
            Some((root, _)) => Err(StorageError::Io {
                step: format!("unmount {}, which the layers combined at {} stand on", path.display(), root.display()),
                source: rustix::io::Errno::BUSY.into(),
            }),
            None => Ok(()),
        }
    }

    /// Two that write to one directory would ruin each other's files, and the kernel only warns of it.
    fn check_scratch(&self, scratch: &Path) -> Result<(), StorageError> {
        match self.lock().iter().find(|(_, parts)| parts.scratch.as_deref() == Some(scratch)) {
            Some((root, _)) => Err(StorageError::Bad(format!(
                "scratch {} is written to by the layers combined at {}",
                scratch.display(),
                root.display()
            ))),
            None => Ok(()),
        }
    }
}

/// Puts layers over each other, the first on top, and the scratch over them.
pub(super) async fn add(storage: &Storage, combined: CombinedLayers) -> Result<(), StorageError> {
    let root = path::absolute(&combined.container_root_path)?.to_owned();
    let parts = Parts {
        layers: combined.layers.into_iter().map(|layer| layer.path.into()).collect(),
        scratch: Some(combined.scratch_path).filter(|path| !path.is_empty()).map(PathBuf::from),
    };
    let count = parts.layers.len();
    if !(1..=MOST_LAYERS).contains(&count) {
        return Err(StorageError::Bad(format!("{count} layers: 1 to {MOST_LAYERS} can be combined")));
    }
    if let Some(bad) = parts.layers.iter().chain(&parts.scratch).find(|path| !path.is_absolute()) {
        return Err(StorageError::Bad(format!("\"{}\" is not the full path of a directory", bad.display())));
    }
    let task = format!("combining {count} layers at {}", root.display());
    // What the scratch itself is called follows from what is in it; and what is mounted there is not to go meanwhile.
    let of_scratch = parts.scratch.iter().flat_map(|scratch| [scratch.join(UPPER), scratch.clone()]);
    let paths: Vec<_> = [root].into_iter().chain(of_scratch).collect();
    let request = storage.begin(paths.iter().cloned().map(Place::Path).collect()).await?;
    let (request, found) = request.find(&storage.turns, paths).await?;
    let mut found = found.into_iter();
    let root = found.next().unwrap_or_default();
    let scratch = found.next().and_then(|upper| upper.parent().map(Path::to_owned));
    let parts = Parts { scratch, ..parts };
    let (late, late_root) = (storage.clone(), root.clone());
    let undo = move || clear(&late, &late_root);
    let storage = storage.clone();
    request.run(&task, move || combine(&storage, &root, parts), || (), undo).await
}

fn combine(storage: &Storage, root: &Path, mut parts: Parts) -> Result<(), StorageError> {
    for layer in &mut parts.layers {
        let found = layer.canonicalize().and_then(|found| Ok((found.metadata()?.is_dir(), found)));
        let (is_directory, found) = found.map_err(StorageError::at(format!("look at layer {}", layer.display())))?;
        if !is_directory {
            return Err(StorageError::Bad(format!("layer {} is not a directory", layer.display())));
        }
        *layer = found;
    }
    storage.modules.load("overlay").map_err(StorageError::because)?;
    if let Some(scratch) = &parts.scratch {
        storage.combined.check_scratch(scratch)?;
    }
    storage.mount_points.mount_at(root, || {
        let scratch = parts.scratch.as_deref().map(make_scratch).transpose()?;
        let layers = parts.layers.iter().map(PathBuf::as_path).collect();
        Overlay { layers, scratch }.mount_at(root)
    })?;
    storage.combined.lock().insert(root.into(), parts);
    Ok(())
}

/// The two directories there; what is in them stays. The upper one is what the root of the result looks like.
fn make_scratch(scratch: &Path) -> Result<Scratch, StorageError> {
    let made = Scratch { upper: scratch.join(UPPER), work: scratch.join("work") };
    for directory in [&made.upper, &made.work] {
        let built = DirBuilder::new().recursive(true).mode(0o755).create(directory);
        built.map_err(StorageError::at(format!("make {}", directory.display())))?;
    }
    Ok(made)
}

/// Takes apart what is combined at a path. That nothing is there is success.
pub(super) async fn remove(storage: &Storage, combined: CombinedLayers) -> Result<(), StorageError> {
    let (request, root) = storage.begin_at(Vec::new(), &combined.container_root_path).await?;
    let task = format!("taking apart the layers combined at {}", root.display());
    let storage = storage.clone();
    request.run(&task, move || clear(&storage, &root), || (), || Ok(())).await
}

fn clear(storage: &Storage, root: &Path) -> Result<(), StorageError> {
    storage.combined.check_unused(root)?;
    let is_known = storage.combined.lock().contains_key(root);
    // A single layer that is only read is no overlay.
    storage.mount_points.clear_if(root, |mounted| is_known || mounted.filesystem == "overlay")?;
    storage.combined.lock().remove(root);
    Ok(())
}

#[cfg(test)]
mod tests {
    use uvm_wire::modify::Layer;

    use super::*;

    fn combined(root: &str, layers: &[&str], scratch: &str) -> CombinedLayers {
        CombinedLayers {
            container_root_path: root.into(),
            layers: layers.iter().map(|path| Layer { path: (*path).into(), ..Layer::default() }).collect(),
            scratch_path: scratch.into(),
            ..CombinedLayers::default()
        }
    }

    #[tokio::test]
    async fn what_cannot_be_combined_is_named() {
        let storage = Storage::new(Arc::default());
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        let root = root.to_str().expect("text");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let many = vec!["/"; 501];
        for (wanted, word) in [
            (combined("", &["/"], ""), "mount path \"\""),
            (combined(root, &[], ""), "0 layers: 1 to 500"),
            (combined(root, &many, ""), "501 layers: 1 to 500"),
            (combined(root, &["relative"], ""), "\"relative\""),
            (combined(root, &["/"], "./s"), "\"./s\""),
            (combined(root, &["/no-such-layer"], ""), "layer /no-such-layer"),
            (combined(root, &[file.to_str().expect("text")], ""), "is not a directory"),
        ] {
            let error = add(&storage, wanted).await.expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(!Path::new(root).exists(), "nothing was made for it");
        remove(&storage, combined(root, &[], "")).await.expect("nothing is there");
        let error = remove(&storage, combined("/proc", &[], "")).await.expect_err("no layers").to_string();
        assert!(error.ends_with("(proc) is mounted at /proc, not what is to be removed"), "{error}");
    }

    #[test]
    fn what_layers_stand_on_is_in_use_and_a_scratch_is_one_s_own() {
        let all = Combined::default();
        let parts = Parts { layers: vec!["/run/layers/p0".into(), "/a/b".into()], scratch: Some("/s".into()) };
        all.lock().insert("/root".into(), parts);
        for path in ["/run/layers/p0", "/a", "/s", "/a/b/"] {
            let error = all.check_unused(Path::new(path)).expect_err(path).to_string();
            assert!(error.contains("the layers combined at /root stand on"), "{error}");
        }
        for path in ["/run/layers/p1", "/run/layers/p00", "/s/upper", "/root"] {
            all.check_unused(Path::new(path)).expect(path);
        }
        all.check_scratch(Path::new("/t")).expect("nobody's");
        let error = all.check_scratch(Path::new("/s")).expect_err("taken").to_string();
        assert_eq!(error, "scratch /s is written to by the layers combined at /root");
    }
}
