//! Seeded simulation of sessions and handovers over a faulty network.
//!
//! The production cores run unchanged against a model of the network, of buffers and of time.
//! Everything that happens follows from one seed, so a failure is replayed by its number. Runs in
//! tests only, on the test's thread; it may allocate. It has no real clock, socket or thread.
//!
//! * [`transfer`]: two sessions exchange slices over rails that are slow, freeze, damage bytes,
//!   swallow them, die and come back.
//! * [`migration`]: a guest's memory goes through planner, sessions and applier, and the handover
//!   ends it, while rails and processes are killed.
#![forbid(unsafe_code)]

mod endpoint;
pub mod migration;
mod network;
mod pipe;
mod rail;
mod rate_meter;
mod rng;
pub mod seeds;
pub mod transfer;

pub use rng::Rng;

/// A broken invariant, in words.
pub type Broken = String;

/// A seed that broke an invariant, and how to see it again.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Virtual time of the failure in nanoseconds.
    pub at_ns: u64,
    /// What was broken.
    pub what: Broken,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, at_ns, what } = self;
        write!(f, "seed {seed}, {} us: {what} (replay with {}={seed})", at_ns / 1_000, seeds::ONE)
    }
}
