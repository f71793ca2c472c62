//! Folders: short-lived ones that vanish with their owner, and the cache that stays.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::qemu::{PID_FILE, read_pid};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What everything made here begins with: folders, namespaces.
pub const PREFIX: &str = "dwcp-lab-";

/// A name no other living process uses: `dwcp-lab-<pid>-<n>`.
pub(crate) fn unique_name() -> String {
    format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The process that made a name of [`unique_name`] has ended.
pub(crate) fn is_stale(name: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(pid, n)| number(pid).zip(number(n)))
        .is_some_and(|(pid, _)| !Path::new(&format!("/proc/{pid}")).exists())
}

/// A folder with a path short enough for Unix sockets, removed on drop.
#[derive(Debug)]
pub struct WorkDir(PathBuf);

impl WorkDir {
    /// Under the system's temporary folder.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        Self::under(&std::env::temp_dir())
    }

    /// Under `parent`, for example a tmpfs. Folders of processes that were killed are removed first.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn under(parent: &Path) -> Result<Self> {
        sweep(parent);
        let path = parent.join(unique_name());
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path inside.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        end_adopted(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sweep(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(is_stale) {
            end_adopted(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Ends the QEMU that an engine launched into a folder, if it still runs; its command line names the folder.
fn end_adopted(dir: &Path) {
    let Some(pid) = read_pid(&dir.join(PID_FILE)) else { return };
    let raw = pid.as_raw_nonzero();
    let words = std::fs::read_to_string(format!("/proc/{raw}/cmdline")).unwrap_or_default();
    if words.contains(&dir.display().to_string()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Where built guests are kept: `$DWCP_CACHE`, else `.cache` of the source tree, else the user's cache.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("DWCP_CACHE") {
        return dir.into();
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Ok(tree) = tree.canonicalize() {
        return tree.join(".cache");
    }
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from);
    home("XDG_CACHE_HOME")
        .or_else(|| home("HOME").map(|h| h.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("dwcp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_vanish_and_stale_ones_are_swept() {
        let parent = WorkDir::new().unwrap();
        let stale = parent.join("dwcp-lab-999999999-0");
        let foreign = parent.join("dwcp-999999999");
        std::fs::create_dir_all(&stale).unwrap();
        std::fs::create_dir_all(&foreign).unwrap();
        let inner = WorkDir::under(parent.path()).unwrap();
        assert!(!stale.exists());
        assert!(foreign.exists() && inner.path().exists());
        let path = inner.path().to_owned();
        drop(inner);
        assert!(!path.exists());
    }
}
