//! Notices that one of the files behind the configuration has become another.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{Receiver, channel};

/// How long after the last sign of change the files are looked at: whoever writes several, or one in several steps, is
/// done by then.
const SETTLING: Duration = Duration::from_millis(250);
/// How often at most that time is waited for once more, because there was another sign in it.
const SETTLINGS_MAX: usize = 12;

/// A watch over files and directories.
///
/// The kernel tells of changes in their directories, which also catches files that are replaced, and links that are
/// pointed elsewhere as Kubernetes does with its mounts. Whether that matters is seen from what the files hold.
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    /// What they held when last looked at.
    seen: u64,
    signs: Receiver<()>,
    /// Ends its own watch when dropped.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch. Where that is not possible, the log says so.
    pub(super) fn over(paths: &[PathBuf]) -> Watch {
        let (sender, signs) = channel(1);
        let told = move |event: notify::Result<Event>| {
            // reading a file is also an event
            let is_change = !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_)));
            if is_change {
                let _ = sender.try_send(()); // one sign is enough
            }
        };
        let watcher = if paths.is_empty() { None } else { Some(watch(&directories(paths), told)) };
        if let Some(Err(error)) = &watcher {
            tracing::warn!(%error, "changed configuration files may not be noticed; SIGHUP reloads them");
        }
        let _watcher = watcher.and_then(Result::ok);
        Watch { paths: paths.to_owned(), seen: contents(paths), signs, _watcher }
    }

    /// Returns when what the files hold is not what it was at the last look. To be dropped at will.
    pub(super) async fn changed(&mut self) {
        loop {
            if self.signs.recv().await.is_none() {
                return std::future::pending().await; // nobody watches
            }
            for _ in 0..SETTLINGS_MAX {
                tokio::time::sleep(SETTLING).await;
                if self.signs.try_recv().is_err() {
                    break;
                }
            }
            let now = contents(&self.paths);
            if now != std::mem::replace(&mut self.seen, now) {
                return;
            }
        }
    }
}

fn watch(
    directories: &BTreeSet<PathBuf>,
    told: impl Fn(notify::Result<Event>) + Send + 'static,
) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(told)?;
    for directory in directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// The directories in which something happens when one of `paths` becomes another: those that the paths name, and those
/// that they lead to.
fn directories(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    for path in paths {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        for path in [path.clone(), real] {
            if path.is_dir() {
                directories.insert(path.clone());
            }
            match path.parent() {
                Some(parent) if parent.as_os_str().is_empty() => directories.insert(PathBuf::from(".")),
                Some(parent) => directories.insert(parent.to_owned()),
                None => false,
            };
        }
    }
    directories.retain(|directory| directory.is_dir());
    directories
}

/// A number for what the files hold, and the directories list; another one if that is different.
fn contents(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        if path.is_file() {
            std::fs::read(path).ok().hash(&mut hasher);
        } else if let Ok(entries) = std::fs::read_dir(path) {
            let names: BTreeSet<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            names.hash(&mut hasher);
        }
        hasher.write_u8(0);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether a change is noticed, once it is made.
    async fn noticed(paths: &[PathBuf], change: impl FnOnce()) {
        let mut watch = Watch::over(paths);
        change();
        tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.expect("a change");
    }

    #[tokio::test]
    async fn files_that_become_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "1").unwrap();
        noticed(&[path("a")], || fs::write(path("a"), "2").unwrap()).await;
        noticed(&[path("a")], || {
            fs::write(path("new"), "3").unwrap();
            fs::rename(path("new"), path("a")).unwrap();
        })
        .await;
        noticed(&[path("a")], || fs::remove_file(path("a")).unwrap()).await;
        noticed(&[path("a")], || fs::write(path("a"), "4").unwrap()).await;
        fs::create_dir(path("apps")).unwrap();
        noticed(&[path("apps")], || fs::write(path("apps/b.yml"), "").unwrap()).await;
    }

    /// As Kubernetes mounts a ConfigMap: a file is a link through a link to a directory, and that link is replaced.
    #[tokio::test]
    async fn links_that_are_pointed_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (directory, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(path(directory)).unwrap();
            fs::write(path(directory).join("hydrant.toml"), text).unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/hydrant.toml", path("hydrant.toml")).unwrap();
        noticed(&[path("hydrant.toml")], || {
            symlink("..2", path("..new")).unwrap();
            fs::rename(path("..new"), path("..data")).unwrap();
        })
        .await;
        // and a file elsewhere that a link leads to
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("real"), "1").unwrap();
        symlink(elsewhere.path().join("real"), path("link")).unwrap();
        noticed(&[path("link")], || fs::write(elsewhere.path().join("real"), "2").unwrap()).await;
    }

    #[tokio::test]
    async fn what_changes_nothing_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a"), "1").unwrap();
        let mut watch = Watch::over(&[path("a")]);
        fs::write(path("beside"), "1").unwrap();
        fs::write(path("a"), "1").unwrap();
        let _ = fs::read(path("a")).unwrap();
        let is_told = tokio::time::timeout(3 * SETTLING, watch.changed()).await;
        assert!(is_told.is_err());
        fs::write(path("a"), "2").unwrap();
        tokio::time::timeout(Duration::from_secs(30), watch.changed()).await.expect("a change");
    }
}
