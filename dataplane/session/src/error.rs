//! What can go wrong in a session, with values, and who has to act.
//!
//! `Violation` is the peer's doing: the session closes the rail by itself. The other errors are
//! the caller's.

use dwcp_wire::{Channel, RailId};

/// The peer broke the protocol; the rail it came by is closed, its slices move to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A slice on a channel that has no numbers.
    #[error("a numbered slice came on channel {channel:?}")]
    WrongChannel {
        /// The channel.
        channel: Channel,
    },
    /// A body above the granted length.
    #[error("slice {channel:?} {seq} has {bytes} bytes, granted are {max}")]
    TooLong {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
        /// Its length.
        bytes: u32,
        /// Bound we granted.
        max: u32,
    },
    /// A number too far beyond what was consumed.
    #[error("slice {channel:?} {seq} is beyond the numbers below {limit} that are open")]
    BeyondSpan {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
        /// First number that is not open.
        limit: u64,
    },
    /// More unacked slices than granted.
    #[error("slice {channel:?} {seq} is above the window of {window} slices")]
    WindowExceeded {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
        /// Slices we granted.
        window: u32,
    },
    /// A slice beyond the one that was flagged as last, or a last one below others.
    #[error("slice {channel:?} {seq} contradicts the end of its channel at {end}")]
    BadLast {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
        /// Number of the last slice, or of the highest received.
        end: u64,
    },
    /// An ack for a slice that was never sent.
    #[error("the peer acked slice {channel:?} {seq}, which was never sent")]
    AckUnsent {
        /// Channel of the ack.
        channel: Channel,
        /// The number.
        seq: u64,
    },
}

/// Why the session wants a rail closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It owed an answer and said nothing for too long.
    #[error("stalled: nothing heard for {silent_ns} ns")]
    Stalled {
        /// Time since the last sign of life.
        silent_ns: u64,
    },
    /// The peer broke the protocol on it.
    #[error("protocol violation: {0}")]
    Violation(Violation),
}

/// A slice was not taken; the caller still owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// No room until older slices are acked. Retry after the next `Release` of this channel.
    #[error("slice {channel:?} {seq} has no room before older ones are acked")]
    Full {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
    },
    /// The number was used already, or an ordered channel skipped one. A bug of the caller.
    #[error("slice {channel:?} {seq} is out of order, {expected} is next")]
    OutOfOrder {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
        /// The number that would be right.
        expected: u64,
    },
    /// The channel was ended by a slice flagged LAST. A bug of the caller.
    #[error("slice {channel:?} {seq} contradicts the end of its channel at {last}")]
    AfterLast {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
        /// Number of the last slice.
        last: u64,
    },
    /// `Link` has no numbers, and only Pages may wait for others. A bug of the caller.
    #[error("slice {channel:?} {seq} cannot be submitted so")]
    Unsuitable {
        /// The slice's channel.
        channel: Channel,
        /// The slice's number.
        seq: u64,
    },
}

/// A rail was not taken; the caller closes its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RailError {
    /// The number is in use.
    #[error("rail {rail} is up already")]
    InUse {
        /// The rail.
        rail: RailId,
    },
    /// The session holds [`crate::RAILS_MAX`] rails.
    #[error("rail {rail} is one too many: {max} are up")]
    TooMany {
        /// The rail.
        rail: RailId,
        /// The bound.
        max: usize,
    },
}

/// The settings cannot work; the session was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The peer granted no slice at all. Refuse the peer.
    #[error("the peer grants a window of 0 slices")]
    NoWindow,
    /// Our own window is 0 or cannot be numbered.
    #[error("an inbound window of {window} slices is outside 1..={max}")]
    WindowIn {
        /// The setting.
        window: u32,
        /// Its bound.
        max: u32,
    },
    /// Our own payload bound is 0 or above the protocol's.
    #[error("a payload bound of {bytes} bytes is outside 1..={max}")]
    Payload {
        /// The setting.
        bytes: u32,
        /// Its bound.
        max: u32,
    },
    /// A healthy rail would be closed between two pings.
    #[error("stall after {stall_ns} ns needs a shorter ping interval than {ping_interval_ns} ns")]
    Stall {
        /// Silence that closes a rail.
        stall_ns: u64,
        /// Time between pings.
        ping_interval_ns: u64,
    },
}
