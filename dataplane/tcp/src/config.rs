//! What an endpoint is started with, and the bounds of the poll loop.

use std::sync::Arc;
use std::time::Duration;

use dwcp_hostmem::Arena;
use dwcp_session::{RAILS_MAX, SessionConfig};
use dwcp_wire::{Epoch, PAYLOAD_MAX};

/// Slices that wait in the mailbox of one channel before `submit` blocks.
pub(crate) const MAILBOX_SLICES: usize = 64;
/// Other requests (rails, rate, close) that wait before their callers block.
pub(crate) const MAILBOX_REQUESTS: usize = 64;
/// Mails taken per mailbox and turn, so that no mailbox keeps the loop from the ring.
pub(crate) const MAILS_PER_TURN: usize = 64;
/// Completions taken per turn.
pub(crate) const COMPLETIONS_PER_TURN: usize = 256;
/// Events that one rail can cause: up, goodbye, down, all down.
pub(crate) const EVENTS_PER_RAIL: usize = 4;
/// Events other than slices that find room in the queue: those of every rail and the last one.
/// While they might not, no new rail is taken.
pub(crate) const RAIL_EVENTS: usize = EVENTS_PER_RAIL * (RAILS_MAX + 1) + 1;
/// Buffers for link messages on their way per rail: the session's queue and a goodbye.
pub(crate) const LINK_BUFFERS: usize = 5;

/// Submission queue of the ring.
pub(crate) const RING_ENTRIES: u32 = 256;
/// Send, receive and unfinished zero-copy sends of every rail.
pub(crate) const RING_OPS: u32 = RAILS_MAX as u32 * 8;

/// How long an adaptive loop spins before it sleeps, when there are cores to spare.
pub(crate) const SPIN: Duration = Duration::from_micros(50);
/// Up to so many cores an adaptive loop sleeps at once: guests and the peer need the cores.
pub(crate) const FEW_CORES: usize = 2;
/// How often a rail that waits for a free slot looks again.
pub(crate) const SLOT_RETRY: Duration = Duration::from_micros(200);
/// How often the kernel is asked whether bytes move on a connection.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a closing endpoint waits for the peer to close as well.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Smallest slice worth a zero-copy probe.
pub(crate) const ZERO_COPY_BYTES_MIN: usize = 32 << 10;

/// Smallest slice worth sending by reference: below, handling pages costs more than copying.
pub(crate) const BY_REFERENCE_BYTES_MIN: usize = 32 << 10;

/// What the poll thread does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollMode {
    /// Spins for a bounded time where cores are plenty, then sleeps.
    #[default]
    Adaptive,
    /// Never sleeps: for a core of its own.
    Spin,
    /// Sleeps at once.
    Sleep,
}

/// Whether to try zero-copy sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Never.
    #[default]
    Off,
    /// One slice per rail tells whether its path copies anyway; then on or off for this rail.
    Probe,
}

/// Settings of an [`crate::Endpoint`].
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// First bytes of the job's id; slices of other jobs close their rail.
    pub job_tag: u32,
    /// Attempt; slices of other attempts close their rail.
    pub epoch: Epoch,
    /// Windows, bounds, rate ceiling and times of the session.
    pub session: SessionConfig,
    /// Longest body the peer takes, in bytes (its `HelloReply`).
    pub payload_max_out: u32,
    /// Where received Skeleton and Pages bodies go. It needs at least
    /// `session.window_in_slices` slots of at least `HEADROOM_BYTES + session.payload_max`
    /// bytes that nobody else takes; then a rail never waits for a slot.
    pub arena: Arc<Arena>,
    /// What to do when idle.
    pub poll: PollMode,
    /// Core to pin the poll thread to.
    pub core: Option<usize>,
    /// Whether to try zero-copy sends.
    pub zero_copy: ZeroCopy,
    /// Send slots by reference instead of copying them. They are not reused before the peer's
    /// ack, which is what this needs.
    pub by_reference: bool,
    /// The kernel gives a connection up when sent bytes stay unacknowledged for so long.
    pub user_timeout: Duration,
    /// Name of the poll thread (the kernel shows 15 bytes).
    pub label: String,
}

impl EndpointConfig {
    /// Settings with defaults for everything that has one.
    pub fn new(job_tag: u32, epoch: Epoch, arena: Arc<Arena>) -> Self {
        Self {
            job_tag,
            epoch,
            session: SessionConfig::default(),
            payload_max_out: PAYLOAD_MAX,
            arena,
            poll: PollMode::Adaptive,
            core: None,
            zero_copy: ZeroCopy::Off,
            by_reference: true,
            user_timeout: Duration::from_secs(20),
            label: "dwcp-tcp".to_owned(),
        }
    }
}
