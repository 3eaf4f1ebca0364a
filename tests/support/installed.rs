//! What `scripts/test` installs for tests.

use std::path::{Path, PathBuf};

/// A path in the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A path that `scripts/test` makes.
pub(crate) fn installed(path: &str) -> PathBuf {
    let path = project("target").join(path);
    assert!(path.exists(), "{} is missing: run ./scripts/test, which installs it", path.display());
    path
}
