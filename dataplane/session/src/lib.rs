//! AMST: slices over rails, credits, acks and re-sends, as a pure core.
//!
//! Runs inside a poll loop: events and `now` come in, commands go out; nothing here blocks, and
//! after [`Session::new`] nothing allocates. It never sees a byte of a slice: buffers stay with
//! the shell, which knows them by `(channel, seq)`. It has no socket, clock, thread or random
//! source.
//!
//! # How it is driven
//! ```text
//! loop {
//!     feed every completion to its event method (rail_up, slice_sent, slice_received, ...)
//!     while let Some(command) = session.next_command(now) { execute it }
//!     sleep until an event or session.next_deadline()
//! }
//! ```
//! Sender: `submit` -> `PostSlice` -> `slice_sent` -> ack of the peer -> `Release`. When a rail
//! dies, what it carried and was not acked goes to the front of the queue and rides another rail.
//! Receiver: `slice_received` -> `Deliver` (in order on Control and Skeleton) -> `consumed` -> ack.
#![forbid(unsafe_code)]

mod acks;
mod config;
mod error;
mod inbound;
mod outbound;
mod rail;
mod rate;
mod ring_bits;
mod session;

pub use config::{RAILS_MAX, SessionConfig};
pub use error::{CloseReason, ConfigError, RailError, SubmitError, Violation};
pub use inbound::Receipt;
pub use outbound::OutboundMeta;
pub use rail::RailStats;
pub use session::{Command, Session, SessionStats};
