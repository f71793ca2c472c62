//! What can go wrong on either side, and what the caller has to do about it.
//!
//! Plain values. Every [`DecodeError`] ends the job: part of the frame may already be in the
//! guest's memory, so the target's copy must not run.

use dwcp_wire::{BlockId, PageIndex};

/// A block could not be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The same id twice.
    #[error("RAM block {0} was added twice: abort the job")]
    Duplicate(BlockId),
    /// Blocks must be added before the first page.
    #[error("RAM block {0} came after the first page: abort the job")]
    TooLate(BlockId),
    /// More pages or blocks than the tables can address.
    #[error("RAM block {block} with {pages} pages exceeds what one job can hold: abort the job")]
    TooLarge {
        /// The block in question.
        block: BlockId,
        /// Its length in pages.
        pages: u64,
    },
    /// Block names are bounded.
    #[error("the name of RAM block {block} has {length} bytes, more than {max}: abort the job")]
    NameTooLong {
        /// The block in question.
        block: BlockId,
        /// Length of the name in bytes.
        length: usize,
        /// Longest accepted name in bytes.
        max: usize,
    },
}

/// A batch could not be planned: the caller broke the contract or the stream is not sane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A page outside of its block, or of a block nobody added.
    #[error("page {index} of RAM block {block} (run of {count}) does not exist: abort the job")]
    NoSuchPage {
        /// Block named by the batch.
        block: BlockId,
        /// First page named.
        index: PageIndex,
        /// Pages in the run.
        count: u32,
    },
    /// A page's bytes lie outside of the buffer.
    #[error("page bytes at offset {at} lie outside of a buffer of {length} bytes: abort the job")]
    OutOfBuffer {
        /// Offset of the page in the buffer.
        at: u32,
        /// Length of the buffer.
        length: usize,
    },
    /// Two contents with one leaf: the hash cannot tell this guest's pages apart.
    #[error(
        "page {index} of RAM block {block} has the hash of another content: \
         abort the job and run it again with BLAKE3"
    )]
    Collision {
        /// Block of the page.
        block: BlockId,
        /// The page.
        index: PageIndex,
    },
    /// Slice numbers must grow and stay under the table's limit; acks must not run ahead.
    #[error(
        "slice {seq} cannot follow slice {last:?} with all slices below {acked_below} acked: \
         abort the job"
    )]
    BadSeq {
        /// Number given for this slice.
        seq: u64,
        /// Number of the last slice that carried pages.
        last: Option<u64>,
        /// Ack watermark given.
        acked_below: u64,
    },
}

/// A frame could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The slot is too short for the frame.
    #[error("a frame of {needed} bytes does not fit into a slot of {available}: use larger slots")]
    SlotTooSmall {
        /// Bytes the frame takes.
        needed: usize,
        /// Bytes there are.
        available: usize,
    },
    /// The buffer given is not the one the plan was made over.
    #[error("the plan names bytes beyond a buffer of {length} bytes: abort the job")]
    WrongBuffer {
        /// Length of the buffer given.
        length: usize,
    },
}

/// A frame could not be applied. The job must be aborted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than a field needs, or bytes left over.
    #[error("frame is damaged: {0} does not fit its length: abort the job")]
    Length(&'static str),
    /// A field has a value outside of its bounds.
    #[error("frame is damaged: {what} is {value}, limit {limit}: abort the job")]
    Bound {
        /// Field in question.
        what: &'static str,
        /// Value found.
        value: u64,
        /// Largest accepted value.
        limit: u64,
    },
    /// A number has more bytes than fit 64 bits.
    #[error("frame is damaged: a variable-length number is too long: abort the job")]
    Varint,
    /// A frame format of another version.
    #[error("frame format version {0} is not known here: use the same release on both ends")]
    Version(u8),
    /// A codec or record kind nobody defined.
    #[error("frame is damaged: {what} {value} is not defined: abort the job")]
    Unknown {
        /// Field in question.
        what: &'static str,
        /// Value found.
        value: u8,
    },
    /// zstd refused the packed section or returned another length than promised.
    #[error("frame is damaged: zstd does not give the promised {expected} bytes: abort the job")]
    Zstd {
        /// Length the header promised.
        expected: usize,
    },
    /// A record names a page that does not exist.
    #[error("page {index} of RAM block {block} (run of {count}) does not exist: abort the job")]
    NoSuchPage {
        /// Block named by the record.
        block: BlockId,
        /// First page named.
        index: PageIndex,
        /// Pages in the run.
        count: u32,
    },
    /// The stored page is not the version that the record was made against.
    #[error(
        "page {index} of RAM block {block} holds version {found:08x}, \
         but a record relies on {expected:08x}: abort the job"
    )]
    WrongVersion {
        /// Block of the page relied on.
        block: BlockId,
        /// The page relied on.
        index: PageIndex,
        /// Guard carried by the record.
        expected: u32,
        /// Guard of what is stored.
        found: u32,
    },
    /// The byte runs of a delta leave the page or the record.
    #[error("frame is damaged: delta for page {index} of RAM block {block}: abort the job")]
    BadDelta {
        /// Block of the page.
        block: BlockId,
        /// The page.
        index: PageIndex,
    },
    /// The slice number cannot be kept in the table.
    #[error("slice number {0} is beyond the limit of one job: abort the job")]
    SeqTooLarge(u64),
}

/// A packed skeleton slice could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// Fewer bytes than the header needs, or another length than it says.
    #[error("packed bytes are damaged: wrong length: abort the job")]
    Length,
    /// The header promises more than the caller accepts.
    #[error("packed bytes promise {length} bytes, limit {max}: abort the job")]
    TooLong {
        /// Promised length.
        length: usize,
        /// Accepted length.
        max: usize,
    },
    /// Version or codec not known.
    #[error("packed bytes have an unknown form {0:02x}: use the same release on both ends")]
    Unknown(u8),
    /// zstd refused the bytes.
    #[error("packed bytes are damaged: zstd refuses them: abort the job")]
    Zstd,
}
