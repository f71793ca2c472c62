//! What can go wrong at an endpoint, and who has to act.

use std::io;

use dwcp_hostmem::HostMemError;
use dwcp_session::{CloseReason, ConfigError, RailError};
use dwcp_uring::RingError;
use dwcp_wire::{ReasonCode, WireError};

/// The endpoint's poll thread has ended: the job is over, or starts a new endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint is closed")]
pub struct Closed;

/// The endpoint did not start: run without it, or with other settings.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The session's settings cannot work.
    #[error("the session's settings cannot work")]
    Session(#[from] ConfigError),
    /// The arena cannot hold what the peer was or would be granted.
    #[error(
        "an arena of {slots} slots of {slot_bytes} bytes is too small: {needed_slots} of {needed_bytes} are granted to the peer"
    )]
    Arena {
        /// Slots in the arena.
        slots: usize,
        /// Bytes in each.
        slot_bytes: usize,
        /// Slots needed.
        needed_slots: usize,
        /// Bytes needed in each.
        needed_bytes: usize,
    },
    /// The kernel gives no ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The poll thread could not be pinned.
    #[error("the poll thread could not be pinned: choose another core or none")]
    Pin(#[source] HostMemError),
    /// The poll thread could not be started.
    #[error("the poll thread could not be started")]
    Thread(#[source] io::Error),
}

/// A slice was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The poll thread has ended.
    #[error("the endpoint is closed")]
    Closed,
    /// The body is longer than the peer takes. A bug of the caller.
    #[error("a body of {bytes} bytes is above the peer's bound of {max}")]
    TooLong {
        /// Length of the body.
        bytes: usize,
        /// The peer's bound.
        max: u32,
    },
    /// The range does not leave room for the header, or lies outside the slot. A bug of the
    /// caller.
    #[error(
        "a body at {start}..{end} of {len} bytes: it needs 64 bytes in front and must lie inside"
    )]
    Range {
        /// Start of the body.
        start: usize,
        /// End of the body.
        end: usize,
        /// Bytes in the slot.
        len: usize,
    },
    /// Link messages are the session's own. A bug of the caller.
    #[error("slices are not submitted on the link channel")]
    Link,
}

/// Why a rail is gone. Its unacked slices ride another; connect a new one if none is left.
#[derive(Debug, thiserror::Error)]
pub enum DownReason {
    /// The peer closed the connection between two messages.
    #[error("the peer closed the connection")]
    ClosedByPeer,
    /// The connection ended in the middle of a message.
    #[error("the connection ended after {received} of {expected} bytes of a message")]
    CutShort {
        /// Bytes that came.
        received: usize,
        /// Bytes that were announced.
        expected: usize,
    },
    /// The peer said goodbye.
    #[error("the peer left: {0}")]
    Goodbye(ReasonCode),
    /// The kernel reports a broken connection.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// The bytes are no DWCP slices, or damaged.
    #[error("bad bytes: {0}")]
    Wire(#[source] WireError),
    /// The session gave the rail up.
    #[error("{0}")]
    Session(#[source] CloseReason),
    /// The session did not take the rail.
    #[error("{0}")]
    Refused(#[source] RailError),
    /// This side closes the endpoint.
    #[error("closed by this side")]
    Closing,
}

/// Why the poll thread ended although nobody closed the endpoint.
#[derive(Debug, thiserror::Error)]
pub enum FatalError {
    /// The ring failed.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The caller broke the numbering of slices.
    #[error("a slice was submitted wrongly: {0}")]
    Submit(#[source] dwcp_session::SubmitError),
    /// The caller consumed a slice that was not delivered, or twice.
    #[error("slice {seq} of {channel:?} was consumed but is not delivered")]
    Consumed {
        /// Channel named.
        channel: dwcp_wire::Channel,
        /// Number named.
        seq: u64,
    },
}
