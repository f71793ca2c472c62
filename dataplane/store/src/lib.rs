//! The content store of one host: for 4 KiB blocks of disk images, of checkpoints and of siblings'
//! RAM files, where content of a given BLAKE3 hash lies. A migration asks it so that content the
//! target already has is not sent.
//!
//! Any thread may call it; it blocks on files and allocates, so it has no place in a poll loop. It
//! must not know jobs, sockets or QEMU (but for `qemu-img map`, see [`Store::add`]).
//!
//! What is absent: a page that was not hashed again after it was read; a lock held while a source
//! is read; a file of one tenant that another tenant's store opens.
#![forbid(unsafe_code)]

mod builder;
mod catalog;
mod checkpoint;
mod error;
mod extents;
mod folder;
mod index;
mod limits;
mod qcow2;
mod reader;
mod sort;
mod store;
mod table;

pub use builder::BuildProgress;
pub use catalog::{SourceInfo, SourceKind, SourceState};
pub use checkpoint::CheckpointWriter;
pub use error::{Result, StoreError};
#[doc(hidden)]
pub use index::probe;
pub use limits::Limits;
pub use reader::Reader;
pub use store::{Added, DEFAULT_TENANT, Dropped, Store, StoreStats};

/// BLAKE3 of the [`BLOCK_BYTES`] bytes of one block.
pub type ContentHash = [u8; 32];

/// Unit of the store: a guest page, and the part of a file that may equal one. Blocks lie at
/// multiples of it in their file.
pub const BLOCK_BYTES: usize = 4096;

/// [`BLOCK_BYTES`] as a file offset.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;

/// The hash under which content is asked for.
#[must_use]
pub fn content_hash(block: &[u8; BLOCK_BYTES]) -> ContentHash {
    *blake3::hash(block).as_bytes()
}
