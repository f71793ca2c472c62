//! What can go wrong when the host is asked for memory.

use std::path::PathBuf;

use rustix::io::Errno;

/// Errors of this crate. All are for the job's set-up: abort the job, or start it with less.
#[derive(Debug, thiserror::Error)]
pub enum HostMemError {
    /// The arena would hold nothing or overflow the address space.
    #[error(
        "an arena of {slots} slots of {slot_bytes} bytes is not possible: ask for at least one slot of one byte"
    )]
    Size {
        /// Slots asked for.
        slots: usize,
        /// Bytes asked for per slot.
        slot_bytes: usize,
    },
    /// The kernel refused the memory.
    #[error("{what} of {bytes} bytes failed: free memory or ask for less")]
    Map {
        /// The step that failed.
        what: &'static str,
        /// Length of the map in bytes.
        bytes: usize,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The file that holds guest RAM is shorter than the block it shall hold.
    #[error(
        "the RAM file has {file_bytes} bytes, the guest's block needs {map_bytes}: start the target with the source's memory size"
    )]
    FileTooShort {
        /// Bytes in the file.
        file_bytes: u64,
        /// Bytes that were to be mapped.
        map_bytes: u64,
    },
    /// A RAM block is not made of whole pages.
    #[error("a RAM block of {bytes} bytes is not a positive multiple of the 4096-byte page")]
    NotPages {
        /// Bytes asked for.
        bytes: u64,
    },
    /// A page outside the map was named.
    #[error(
        "page {page} lies outside the block of {pages} pages: the stream is damaged, abort the job"
    )]
    OutOfBounds {
        /// Page asked for.
        page: u64,
        /// Pages in the block.
        pages: u64,
    },
    /// A system call on a file or thread failed.
    #[error("{what} failed")]
    Os {
        /// The call.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A file of /proc could not be read or understood.
    #[error("{path} could not be read: is /proc mounted?")]
    Proc {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
