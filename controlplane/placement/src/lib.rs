//! Placement (ITP): where virtual machines go.
//!
//! Runs on whatever thread calls it; allocates, never blocks. It has no clock, thread, file or random
//! source: a [`reassign::Deadline`] says when to stop, an [`reassign::Executor`] runs workers side by
//! side, and every random choice comes from a seed. It must not know how machines are described on any
//! wire or disk, except for the text format of the public reassignment challenge.
#![forbid(unsafe_code)]

pub mod graph;
pub mod online;
pub mod plan;
pub mod reassign;
mod rng;

pub use rng::Rng;
