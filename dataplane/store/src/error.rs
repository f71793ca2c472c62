//! What stops a call, with what is allowed instead.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::limits::{TENANT_BYTES_MAX, VM_BYTES_MAX};

/// Result of the store's own functions.
pub type Result<T> = std::result::Result<T, StoreError>;

/// What stops a call. None of them leaves half an index or half a checkpoint behind.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A tenant's name could leave the store's folder or be mistaken for another's.
    #[error("tenant {0:?} is not allowed: 1 to {TENANT_BYTES_MAX} characters of a-z, 0-9 and -")]
    Tenant(String),
    /// A VM's name cannot be kept.
    #[error("VM name {0:?} is not allowed: 1 to {VM_BYTES_MAX} bytes without control characters")]
    Vm(String),
    /// The file to add does not exist.
    #[error("{} does not exist: name an image, a RAM file or a block device", .0.display())]
    Missing(PathBuf),
    /// Nothing in the store has this id or path.
    #[error("the store has no source {0:?}: `index list` shows ids and paths")]
    NotFound(String),
    /// The path names something without content at offsets.
    #[error("{} is neither a regular file nor a block device", .0.display())]
    NotAFile(PathBuf),
    /// The file is of a form whose blocks cannot be found at offsets.
    #[error("{}: {text}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is, and what to add instead.
        text: String,
    },
    /// A named bound would be passed.
    #[error("{what}: {wanted} wanted, {allowed} allowed")]
    Limit {
        /// The bound, and what makes room.
        what: &'static str,
        /// What would be needed.
        wanted: u64,
        /// What is allowed.
        allowed: u64,
    },
    /// The store's file system has no room left.
    #[error("{what}: no space left on that disk; drop sources or move the store")]
    DiskFull {
        /// What was being done, with the path.
        what: String,
    },
    /// A qcow2 image needs a tool that is not installed.
    #[error("{} is a qcow2 image and qemu-img is not installed (Debian: qemu-utils): install it, or add a raw copy", .0.display())]
    QemuImgMissing(PathBuf),
    /// qemu-img could not say where the image's content lies.
    #[error("qemu-img could not read {}: {text}", .path.display())]
    QemuImg {
        /// The image.
        path: PathBuf,
        /// What it said.
        text: String,
    },
    /// A page outside of what the checkpoint was opened for.
    #[error(
        "RAM block {block} page {page}: the checkpoint has {blocks} blocks and {pages} pages there"
    )]
    NoSuchPage {
        /// RAM block.
        block: u16,
        /// Page in it.
        page: u64,
        /// RAM blocks of the checkpoint.
        blocks: usize,
        /// Pages of that block, 0 where there is none.
        pages: u64,
    },
    /// A file of this host failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The progress callback said stop.
    #[error("stopped; nothing was added")]
    Stopped,
}

impl StoreError {
    /// An I/O failure with what was being done; a full disk has a variant of its own.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { what: what.into() }
            }
            _ => Self::Io { what: what.into(), source },
        }
    }
}

/// Adds what was being done to an I/O result.
pub(crate) trait Doing<T> {
    /// Names the action and its file.
    fn doing(self, action: &str, path: &Path) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &str, path: &Path) -> Result<T> {
        self.map_err(|source| StoreError::io(format!("{action} {}", path.display()), source))
    }
}
