//! Small durable files: written beside, synced, renamed, and the folder synced as well.
//! A record that returned from `save` survives the loss of power.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Class, Doing, EngineError, Result};

/// Longest record read back.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// The file system type of tmpfs (linux/magic.h): what is kept there does not survive a reboot.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A folder of durable records.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens (and creates, mode 0700) the folder `state/jobs`.
    ///
    /// # Errors
    /// The folder cannot be made, or lies on tmpfs.
    pub fn open(state: &Path) -> Result<Self> {
        let dir = state.join("jobs");
        fs::create_dir_all(&dir).doing(|| format!("creating {} (see --state)", dir.display()))?;
        let kind = rustix::fs::statfs(&dir)
            .map_err(std::io::Error::from)
            .doing(|| format!("looking at {}", dir.display()))?;
        if kind.f_type == TMPFS_MAGIC {
            return Err(EngineError::new(
                Class::Resource,
                format!(
                    "{} lies on tmpfs, where a job's record would not survive a reboot: give --state a folder on disk",
                    dir.display()
                ),
            ));
        }
        Ok(Self { dir })
    }

    /// The file of a record.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a record durably, replacing an earlier one at once or not at all.
    ///
    /// # Errors
    /// The disk's failure; the earlier record is then still there.
    pub fn save(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let beside = self.path(&format!(".{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().doing(|| format!("writing the job record {}", path.display()))
    }

    /// Reads a record; `None` when there is none.
    ///
    /// # Errors
    /// The disk's failure, or a file that is no record of ours.
    pub fn load(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(meta) if meta.len() > RECORD_BYTES_MAX => {
                return Err(EngineError::new(
                    Class::Resource,
                    format!("{} is larger than any job record", path.display()),
                ));
            }
            _ => {}
        }
        fs::read(&path).map(Some).doing(|| format!("reading {}", path.display()))
    }

    /// Names of all records that end in `suffix`, sorted.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self, suffix: &str) -> Result<Vec<String>> {
        let entries =
            fs::read_dir(&self.dir).doing(|| format!("reading {}", self.dir.display()))?;
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(suffix) && !name.starts_with('.'))
            .collect();
        names.sort();
        Ok(names)
    }
}

/// Where records live unless `--state` says otherwise: `/var/lib/dwcp/engine` as root, else the
/// XDG state folder.
#[must_use]
pub fn default_state_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/dwcp/engine");
    }
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    std::env::var_os("XDG_STATE_HOME")
        .map_or_else(|| home.join(".local/state"), PathBuf::from)
        .join("dwcp/engine")
}

/// Where sockets and pid files of running jobs live.
#[must_use]
pub fn default_run_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/dwcp");
    }
    std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from).join("dwcp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_whole() {
        let dir = std::env::temp_dir().join(format!("dwcp-store-{}", uuid::Uuid::new_v4()));
        let store = Store::open(&dir).unwrap();
        assert_eq!(store.load("a.json").unwrap(), None);
        store.save("a.json", b"one").unwrap();
        store.save("a.json", b"two").unwrap();
        assert_eq!(store.load("a.json").unwrap().unwrap(), b"two");
        assert_eq!(store.list(".json").unwrap(), ["a.json"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn tmpfs_is_refused() {
        let dir = Path::new("/dev/shm").join(format!("dwcp-store-{}", uuid::Uuid::new_v4()));
        let refused = Store::open(&dir).unwrap_err();
        assert_eq!(refused.class(), Class::Resource);
        assert!(refused.to_string().contains("tmpfs"));
        let _ = fs::remove_dir_all(dir);
    }
}
