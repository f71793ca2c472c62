//! What a session is started with, and the bounds that hold for every session.
//!
//! Times are nanoseconds of the caller's monotonic clock.

use dwcp_wire::{PAYLOAD_MAX, SEQ_SPAN};

use crate::ConfigError;

/// Rails that one session can hold at a time.
pub const RAILS_MAX: usize = 256;
/// Link messages a rail may have handed to the shell and not yet sent.
pub(crate) const LINK_QUEUE_MAX: u8 = 4;
/// Slices a rail may always have unacked, however slow it was measured.
pub(crate) const RAIL_SLICES_MIN: u32 = 4;
/// Time a rail may need to drain what it was given, beyond two round trips.
pub(crate) const RAIL_QUEUE_NS: u64 = 250_000_000;

const MILLISECOND_NS: u64 = 1_000_000;

/// Settings of a [`Session`](crate::Session).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Skeleton and Pages slices the peer lets us have unacked (its `HelloReply`); more than
    /// [`SEQ_SPAN`] counts as that.
    pub window_out_slices: u32,
    /// Skeleton and Pages slices we let the peer have unacked (our `HelloReply`).
    pub window_in_slices: u32,
    /// Longest slice body we take, in bytes (our `HelloReply`).
    pub payload_max: u32,
    /// Ceiling over all rails, in wire bytes per second. `Some(0)` pauses everything but Control.
    pub rate_bytes_per_s: Option<u64>,
    /// A rail that owes us an answer and was silent for this long is closed.
    pub stall_ns: u64,
    /// Time between two pings on a rail.
    pub ping_interval_ns: u64,
    /// Consumed slices after which an ack goes out at once.
    pub ack_every_slices: u32,
    /// Longest time a consumed slice waits for its ack.
    pub ack_delay_ns: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            window_out_slices: 64,
            window_in_slices: 64,
            payload_max: PAYLOAD_MAX,
            rate_bytes_per_s: None,
            stall_ns: 3_000 * MILLISECOND_NS,
            ping_interval_ns: 500 * MILLISECOND_NS,
            ack_every_slices: 4,
            ack_delay_ns: MILLISECOND_NS / 2,
        }
    }
}

impl SessionConfig {
    /// Checks the settings and limits the outbound window to what the protocol can number.
    pub(crate) fn checked(mut self) -> Result<Self, ConfigError> {
        let span = u32::try_from(SEQ_SPAN).unwrap_or(u32::MAX);
        if self.window_out_slices == 0 {
            return Err(ConfigError::NoWindow);
        }
        if self.window_in_slices == 0 || self.window_in_slices > span {
            return Err(ConfigError::WindowIn { window: self.window_in_slices, max: span });
        }
        if self.payload_max == 0 || self.payload_max > PAYLOAD_MAX {
            return Err(ConfigError::Payload { bytes: self.payload_max, max: PAYLOAD_MAX });
        }
        if self.ping_interval_ns == 0 || self.stall_ns <= self.ping_interval_ns {
            let (stall_ns, ping_interval_ns) = (self.stall_ns, self.ping_interval_ns);
            return Err(ConfigError::Stall { stall_ns, ping_interval_ns });
        }
        self.window_out_slices = self.window_out_slices.min(span);
        self.ack_every_slices = self.ack_every_slices.max(1);
        Ok(self)
    }
}
