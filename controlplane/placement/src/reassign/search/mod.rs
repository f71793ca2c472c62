//! The solvers' inside.
pub mod anneal;
pub mod problem;
pub mod state;
