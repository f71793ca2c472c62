//! What lies in a tenant's folder: sources, their state, their use.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{OFlags, SeekFrom, seek};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Result, StoreError};
use crate::folder;
use crate::index::Header;

pub(crate) const INDEX_SUFFIX: &str = ".idx";
pub(crate) const MEMORY_SUFFIX: &str = ".mem";

/// What kind of file a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum SourceKind {
    /// A disk image or golden image.
    Image = 1,
    /// The memory a guest left behind, kept by the store.
    Checkpoint = 2,
    /// The RAM file of a guest that runs on this host.
    Sibling = 3,
}

impl SourceKind {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Image, Self::Checkpoint, Self::Sibling].into_iter().find(|k| *k as u32 == number)
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Image => "image",
            Self::Checkpoint => "checkpoint",
            Self::Sibling => "sibling",
        })
    }
}

/// What has become of a source since it was indexed. Content is found in a changed one as well,
/// where it is still the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceState {
    /// Same length, time and inode.
    Current,
    /// Something of these differs: adding it again finds what is new.
    Changed,
    /// The file is not there or is no file any more.
    Gone,
    /// The index is damaged or of another version; it is passed over. Drop it and add the file again.
    Broken,
}

impl fmt::Display for SourceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Current => "current",
            Self::Changed => "changed",
            Self::Gone => "gone",
            Self::Broken => "broken",
        })
    }
}

/// One source of a store.
#[derive(Debug, Clone)]
pub struct SourceInfo {
    /// 16 hexadecimal digits, the same for the same path.
    pub id: String,
    /// The file; empty for a broken index.
    pub path: PathBuf,
    /// Its kind; `None` for a broken index.
    pub kind: Option<SourceKind>,
    /// The VM it belongs to, where one was named.
    pub vm: Option<String>,
    /// Length of the source in bytes when it was indexed.
    pub bytes: u64,
    /// Different blocks that can be found in it.
    pub blocks: u64,
    /// Disk bytes of its index.
    pub indexed_bytes: u64,
    /// Disk bytes of a checkpoint's memory; 0 for other kinds, whose files are not ours.
    pub memory_bytes: u64,
    /// Bytes of content that cannot be found because it has no place in the file (compressed).
    pub left_out_bytes: u64,
    /// When content of it was last used, or else when it was indexed.
    pub used: SystemTime,
    /// What has become of it.
    pub state: SourceState,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) len: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl Identity {
    fn of(metadata: &Metadata, len: u64) -> Self {
        let mtime_ns =
            metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
        Self { len, mtime_ns, dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// Opens a file to read content at offsets: a regular file or a block device, nothing that could
/// block us at opening.
pub(crate) fn open_source(path: &Path) -> Result<(File, Identity)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|e| match e
        .kind()
    {
        std::io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
        _ => StoreError::io(format!("opening {}", path.display()), e),
    })?;
    let io = |e| StoreError::io(format!("looking at {}", path.display()), e);
    let metadata = file.metadata().map_err(io)?;
    let len = match metadata.file_type() {
        kind if kind.is_file() => metadata.len(),
        kind if kind.is_block_device() => {
            seek(&file, SeekFrom::End(0)).map_err(|e| io(e.into()))?
        }
        _ => return Err(StoreError::NotAFile(path.to_owned())),
    };
    Ok((file, Identity::of(&metadata, len)))
}

/// The id of a source.
pub(crate) fn id_of(path: &Path) -> String {
    format!("{:016x}", xxh3_64(path.as_os_str().as_bytes()))
}

/// An index file of the folder.
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) index_path: PathBuf,
    pub(crate) index_bytes: u64,
    pub(crate) used: SystemTime,
    /// `None`: damaged, or of another version.
    pub(crate) header: Option<Header>,
}

impl Found {
    /// The kind, where the header tells.
    pub(crate) fn kind(&self) -> Option<SourceKind> {
        self.header.as_ref().map(|header| header.kind)
    }

    /// The memory file that goes with it: ours, so inside of the folder whatever the header says.
    pub(crate) fn memory_path(&self) -> PathBuf {
        self.index_path.with_extension(&MEMORY_SUFFIX[1..])
    }

    /// Disk bytes of a checkpoint's memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        std::fs::symlink_metadata(self.memory_path()).map_or(0, |m| m.blocks() * 512)
    }

    fn state(&self) -> SourceState {
        let Some(header) = &self.header else { return SourceState::Broken };
        match open_source(&header.path) {
            Ok((_, identity)) if identity == header.identity => SourceState::Current,
            Ok(_) => SourceState::Changed,
            Err(_) => SourceState::Gone,
        }
    }

    pub(crate) fn info(&self) -> SourceInfo {
        let header = self.header.as_ref();
        SourceInfo {
            id: self.id.clone(),
            path: header.map_or_else(PathBuf::new, |header| header.path.clone()),
            kind: self.kind(),
            vm: header.and_then(|header| header.vm.clone()),
            bytes: header.map_or(0, |header| header.identity.len),
            blocks: header.map_or(0, |header| header.entries),
            indexed_bytes: self.index_bytes,
            memory_bytes: self.memory_bytes(),
            left_out_bytes: header.map_or(0, |header| header.left_out_bytes),
            used: self.used,
            state: self.state(),
        }
    }

    /// Removes it: the index first, so that nothing points at what is going.
    pub(crate) fn remove(&self) -> Result<()> {
        folder::remove(&self.index_path)?;
        folder::remove(&self.memory_path())
    }
}

/// Reads the headers of all indexes of a folder. One that goes away meanwhile is left out.
pub(crate) fn scan(dir: &Path) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for name in folder::names(dir, INDEX_SUFFIX)? {
        let index_path = dir.join(&name);
        let Ok(file) = File::open(&index_path) else { continue };
        let Ok(metadata) = file.metadata() else { continue };
        all.push(Found {
            id: name.trim_end_matches(INDEX_SUFFIX).to_owned(),
            index_path,
            index_bytes: metadata.len(),
            used: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            header: Header::read(&file),
        });
    }
    Ok(all)
}
