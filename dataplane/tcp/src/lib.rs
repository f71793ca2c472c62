//! The session over TCP streams on io_uring.
//!
//! [`Endpoint::start`] gives one pinned poll thread that drives a [`dwcp_session::Session`];
//! everyone else talks to it through bounded mailboxes and reads its counters. After arming the
//! loop allocates only for Control slices (heap bodies, a few hundred a job) and when a rail
//! dies; it locks and logs nothing. It must not know what a slice's body means.
//!
//! # Who computes what
//! The submitting thread writes header and checksum ([`Endpoint::submit`]): encoders are many,
//! the poll thread is one, and the bytes lie in their cache. The receiving poll thread verifies
//! before it takes a slice: the bytes were just copied and lie in its cache, and only there can
//! the rail be closed and the slice be sent again.
//!
//! # One rail
//! One receive and one send are in flight per connection. A send is a whole slice (header and
//! body are contiguous) or a link message between two slices; a receive is a 64-byte header or
//! the body it announced. Whatever is wrong with a connection closes that connection only: its
//! unacked slices ride another one.
#![forbid(unsafe_code)]

mod checksum;
mod clock;
mod config;
mod endpoint;
mod error;
mod event;
pub mod handshake;
mod mail;
mod poll;
mod rail;
mod slice;
mod stats;
mod table;

pub use config::{EndpointConfig, PollMode, ZeroCopy};
pub use endpoint::{Endpoint, PagesSink};
pub use error::{Closed, DownReason, FatalError, StartError, SubmitError};
pub use event::NetEvent;
pub use slice::{Body, HEADROOM_BYTES, Inbound, Outbound, SLOT_BYTES};
pub use stats::NetStats;
