//! What can go wrong with a ring, and operations that were not taken.

use std::io;

use crate::Buffer;

/// The ring cannot be made or driven: run without io_uring, or abort the job.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The kernel gives no ring.
    #[error(
        "io_uring is not available: allow it (kernel.io_uring_disabled=0) or use a kernel of 6.0 or newer"
    )]
    Setup(#[source] io::Error),
    /// The eventfd for waking the loop could not be made.
    #[error("an eventfd could not be made: raise the limit of open files")]
    Waker(#[source] io::Error),
    /// Submitting or waiting failed in a way that a retry does not cure.
    #[error("io_uring_enter failed: abort the job")]
    Enter(#[source] io::Error),
}

/// An operation that never started; the buffer comes back untouched.
#[derive(Debug, thiserror::Error)]
#[error("the ring took no operation: retry after the next completion")]
pub struct Rejected {
    /// What was to be sent or filled.
    pub buffer: Buffer,
    /// Why.
    #[source]
    pub source: io::Error,
}
