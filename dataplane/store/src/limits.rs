//! Every bound of a store, named.

use std::time::Duration;

use crate::BLOCK;

/// Longest tenant name.
pub(crate) const TENANT_BYTES_MAX: usize = 63;
/// Longest VM name.
pub(crate) const VM_BYTES_MAX: usize = 255;
/// Longest path of a source (Linux `PATH_MAX`).
pub(crate) const PATH_BYTES_MAX: usize = 4096;
/// Longest source: block numbers have 32 bits.
pub(crate) const SOURCE_BYTES_MAX: u64 = (u32::MAX as u64 + 1) * BLOCK;
/// Bytes read at once while building.
pub(crate) const READ_BYTES: usize = 1 << 20;
/// Most workers of one build.
pub(crate) const WORKERS_MAX: usize = 64;
/// Candidates tried for one hash. More share 64 bits of a hash only where somebody made them.
pub(crate) const CANDIDATES_MAX: usize = 64;
/// Sources whose index stays on disk in one reader; the most recently used ones.
pub(crate) const READER_INDEXES_MAX: usize = 256;
/// Source files that one reader keeps open.
pub(crate) const READER_FILES_MAX: usize = 64;
/// First prefixes of index pages that one reader keeps in memory.
pub(crate) const READER_FENCE_BYTES_MAX: u64 = 32 << 20;
/// Looked-up hashes that a reader remembers between `prefetch` and `fetch`.
pub(crate) const READER_FOUND_MAX: usize = 1 << 16;
/// Extents of one qcow2 image.
pub(crate) const EXTENTS_MAX: usize = 4 << 20;
/// Text of qemu-img that is kept for an error.
pub(crate) const TOOL_TEXT_BYTES_MAX: usize = 1 << 16;
/// Temporary name tried before giving up.
pub(crate) const TEMP_TRIES_MAX: u32 = 100;

const _: () = assert!((READ_BYTES as u64).is_multiple_of(BLOCK));

/// Bounds of one tenant's store that the caller may choose.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Disk bytes of all indexes but those of checkpoints. An index takes at most 0.3 % of its source.
    pub index_bytes_max: u64,
    /// Disk bytes of all checkpoints with their indexes; the one longest unused goes first.
    pub checkpoint_bytes_max: u64,
    /// A checkpoint unused for longer goes when the store is opened.
    pub checkpoint_age_max: Duration,
    /// Sources, checkpoints included.
    pub sources_max: usize,
    /// Memory that a build sorts in; larger sources are merged from runs on disk.
    pub sort_bytes: usize,
    /// Memory of a reader's table of fully loaded indexes.
    pub table_bytes: usize,
    /// Threads of a build that read and hash.
    pub workers: usize,
    /// Bits of a hash that indexes are sorted by. Fewer than 64 forces collisions in tests; a reader
    /// passes over indexes that have another number.
    #[doc(hidden)]
    pub prefix_bits: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            index_bytes_max: 4 << 30,
            checkpoint_bytes_max: 64 << 30,
            checkpoint_age_max: Duration::from_secs(7 * 24 * 3600),
            sources_max: 1024,
            sort_bytes: 64 << 20,
            table_bytes: 64 << 20,
            workers: 1,
            prefix_bits: u64::BITS,
        }
    }
}

impl Limits {
    /// The part of a hash that indexes are sorted by: its first `prefix_bits` bits, first byte highest.
    pub(crate) fn prefix(&self, hash: &crate::ContentHash) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *hash;
        let all = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let dropped = u64::BITS - self.prefix_bits.clamp(1, u64::BITS);
        (all >> dropped) << dropped
    }
}
