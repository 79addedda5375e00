//! The kernels installed on this machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::entry::Kernel;
use super::{KernelKind, files};
use crate::error::ImageError;
use crate::store::ImageStore;

/// The installed kernel of that release, or the best one there is.
pub(super) fn ensure(store: &ImageStore, release: Option<&str>) -> Result<Kernel, ImageError> {
    let running = rustix::system::uname();
    let found = find(Path::new("/"), release, &running.release().to_string_lossy())?;
    files::ensure(store, KernelKind::Installed, &found.image, found.modules.as_deref(), found.config.as_deref())
}

/// An installed kernel whose image this user can read.
#[derive(Debug, PartialEq, Eq)]
struct Installed {
    image: PathBuf,
    modules: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// Looks for the wanted release, else for the running one, else for all of them, the newest first.
fn find(root: &Path, wanted: Option<&str>, running: &str) -> Result<Installed, ImageError> {
    let releases = wanted.map_or_else(|| best_first(root, running), |release| vec![release.to_owned()]);
    let found = releases.iter().filter(|release| super::bzimage::is_release(release)).find_map(|release| {
        let modules = ["lib/modules", "usr/lib/modules"].map(|dir| root.join(dir).join(release));
        let modules = modules.into_iter().find(|dir| fs::read_dir(dir).is_ok());
        // Distributions that keep everything of a kernel in one directory have the image there.
        let images = [root.join(format!("boot/vmlinuz-{release}"))]
            .into_iter()
            .chain(modules.iter().map(|dir| dir.join("vmlinuz")));
        let configs = [root.join(format!("boot/config-{release}"))]
            .into_iter()
            .chain(modules.iter().map(|dir| dir.join("config")));
        let readable =
            |path: &PathBuf| fs::File::open(path).is_ok_and(|file| file.metadata().is_ok_and(|data| data.is_file()));
        let (image, config) = (images.into_iter().find(readable)?, configs.into_iter().find(readable));
        Some(Installed { image, modules, config })
    });
    found.ok_or_else(|| {
        let release = wanted.unwrap_or("*");
        let looked =
            format!("a readable {0}boot/vmlinuz-{release} or {0}lib/modules/{release}/vmlinuz", root.display());
        ImageError::NoInstalledKernel { looked }
    })
}

/// The running release, then every other that has an image or modules, the newest first.
fn best_first(root: &Path, running: &str) -> Vec<String> {
    let mut others = releases(root);
    others.retain(|release| release != running);
    others.sort_by(|a, b| crate::version::compare(b, a));
    others.insert(0, running.to_owned());
    others
}

/// Every release that has an image or modules.
fn releases(root: &Path) -> Vec<String> {
    let names = |dir: &str| {
        fs::read_dir(root.join(dir))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
    };
    let images = names("boot").filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
    images.chain(names("lib/modules")).chain(names("usr/lib/modules")).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn the_running_kernel_comes_first_and_then_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for release in ["6.1.0-9-amd64", "6.1.0-56-amd64"] {
            put(root, &format!("boot/vmlinuz-{release}"));
            put(root, &format!("lib/modules/{release}/modules.builtin"));
        }
        put(root, "boot/config-6.1.0-56-amd64");
        let image = |wanted, running| find(root, wanted, running).map(|found| found.image).ok();
        let boot = |release: &str| Some(root.join(format!("boot/vmlinuz-{release}")));
        assert_eq!(image(None, "6.1.0-9-amd64"), boot("6.1.0-9-amd64"));
        assert_eq!(image(None, "6.18.44-host"), boot("6.1.0-56-amd64"));
        assert_eq!(image(Some("6.1.0-9-amd64"), "6.18.44-host"), boot("6.1.0-9-amd64"));
        let newest = find(root, None, "x").unwrap();
        assert_eq!(newest.config, Some(root.join("boot/config-6.1.0-56-amd64")));
        assert_eq!(newest.modules, Some(root.join("lib/modules/6.1.0-56-amd64")));
    }

    #[test]
    fn an_image_among_its_modules_is_found_and_none_is_an_error_that_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let missing = find(dir.path(), Some("6.1"), "x").unwrap_err().to_string();
        assert!(missing.contains("boot/vmlinuz-6.1"), "{missing}");
        put(dir.path(), "usr/lib/modules/6.9/vmlinuz");
        let found = find(dir.path(), None, "x").unwrap();
        assert_eq!(found.image, dir.path().join("usr/lib/modules/6.9/vmlinuz"));
        assert!(find(dir.path(), Some("../../etc"), "x").is_err());
    }
}
