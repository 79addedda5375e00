//! A share next to a secret.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

const SECRET: &str = "nobody's business";

/// Where both are.
pub(crate) struct Place(TempDir);

impl Default for Place {
    fn default() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }
}

impl Place {
    /// The directory that is shared.
    pub(crate) fn share(&self) -> PathBuf {
        self.0.path().join("share")
    }

    /// Puts the share, and what is next to it, in order.
    pub(crate) fn prepare(&self) {
        let share = self.share();
        if share.exists() {
            // A client takes permissions from directories, too.
            fs::remove_dir_all(&share).expect("nothing in the share keeps root or its owner from removing it");
        }
        fs::create_dir_all(share.join("d")).expect("a directory");
        fs::write(share.join("f"), "inside").expect("a file");
        fs::write(self.0.path().join("secret"), SECRET).expect("a file");
        std::os::unix::fs::symlink("../secret", share.join("l")).expect("a link");
    }

    /// # Panics
    /// When something outside of the share was touched.
    pub(crate) fn check(&self) {
        let place = self.0.path();
        assert_eq!(fs::read_to_string(place.join("secret")).expect("the secret"), SECRET);
        assert_eq!(fs::read_dir(place).expect("the place").count(), 2, "the share and the secret");
    }
}
