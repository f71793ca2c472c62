//! What the solvers stand on: an instance prepared for search, an assignment with its sums, and steps.

pub(super) mod anneal;
pub(super) mod problem;
pub(super) mod state;
mod steps;
