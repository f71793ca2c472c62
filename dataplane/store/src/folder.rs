//! The files of a tenant's folder: temporaries that no crash leaves for long, and the lock around
//! publishing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::error::{Doing, Result, StoreError};
use crate::limits::TEMP_TRIES_MAX;

const TEMP_SUFFIX: &str = ".tmp";
const LOCK_NAME: &str = "lock";
static NEXT_TEMP: AtomicU32 = AtomicU32::new(0);

/// Makes the folders `dir` and `dir/tenant`, the second one readable by us alone.
pub(crate) fn create(dir: &Path, tenant: &str) -> Result<PathBuf> {
    let own = dir.join(tenant);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&own)
        .doing("creating the folder", &own)?;
    let mode = fs::symlink_metadata(&own).doing("looking at", &own)?;
    if !mode.is_dir() {
        let error = io::Error::from(io::ErrorKind::NotADirectory);
        return Err(StoreError::io(format!("opening the store's folder {}", own.display()), error));
    }
    if mode.mode() & 0o077 != 0 {
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).doing("closing", &own)?;
    }
    own.canonicalize().doing("resolving", &own)
}

/// Held while names in the folder change; released by the kernel when its holder dies.
pub(crate) struct Lock(#[expect(dead_code, reason = "its closing is the release")] File);

impl Lock {
    pub(crate) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK_NAME);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .doing("opening", &path)?;
        file.lock().doing("locking", &path)?;
        Ok(Self(file))
    }
}

/// A file that goes away unless it is published. Its writer holds a lock on it, so that whoever
/// opens the store can tell a dead writer's file from a living one's.
pub(crate) struct TempFile {
    pub(crate) file: File,
    path: PathBuf,
    published: bool,
}

impl TempFile {
    /// Creates one in `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        for _ in 0..TEMP_TRIES_MAX {
            let number = NEXT_TEMP.fetch_add(1, Relaxed);
            let path = dir.join(format!("{}-{number}{TEMP_SUFFIX}", std::process::id()));
            let created =
                OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = match created {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.doing("creating", &path)?,
            };
            file.lock().doing("locking", &path)?;
            // Somebody may have found it before it was locked, and removed it.
            if file.metadata().doing("looking at", &path)?.nlink() > 0 {
                return Ok(Self { file, path, published: false });
            }
        }
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(StoreError::io(format!("creating a temporary file in {}", dir.display()), error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the name away: the file lives as long as it is open.
    pub(crate) fn anonymous(mut self) -> Result<File> {
        fs::remove_file(&self.path).doing("removing", &self.path)?;
        self.published = true;
        self.file.try_clone().doing("keeping open", &self.path)
    }

    /// Syncs the content to disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().doing("syncing", &self.path)
    }

    /// Gives the synced file its name, replacing what had it.
    pub(crate) fn publish(mut self, to: &Path) -> Result<()> {
        fs::rename(&self.path, to).doing("publishing", to)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes renames and removals in the folder durable.
pub(crate) fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|folder| folder.sync_all()).doing("syncing", dir)
}

/// Removes a file; that it is gone already is as good.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.doing("removing", path),
    }
}

/// Names of the files in `dir` that end in `suffix`.
pub(crate) fn names(dir: &Path, suffix: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).doing("reading", dir)?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(suffix))
        .collect();
    names.sort();
    Ok(names)
}

/// Removes temporaries whose writer is dead.
pub(crate) fn remove_dead(dir: &Path) -> Result<()> {
    for name in names(dir, TEMP_SUFFIX)? {
        let path = dir.join(name);
        let file = match OpenOptions::new().read(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.doing("opening", &path)?,
        };
        match file.try_lock() {
            Ok(()) => remove(&path)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(e).doing("locking", &path),
        }
    }
    Ok(())
}
