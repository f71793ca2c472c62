//! The machine reassignment model of the Google ROADEF/EURO challenge 2012, and solvers for it.
//!
//! Processes are virtual machines, machines are nodes, and a transient resource is occupied on both
//! ends of a live migration. The model is a snapshot: all moves of a plan happen at once in it, which
//! is why a transient resource counts on the machine a process leaves as well.

mod best_fit;
mod cost;
mod error;
mod genetic;
mod local_search;
mod model;
mod parse;
mod search;
mod solver;
mod trim;
mod write;

pub use best_fit::BestFit;
pub use cost::{Cost, Violation, evaluate, violations};
pub use error::{ModelError, ParseError};
pub use genetic::Genetic;
pub use local_search::LocalSearch;
pub use model::{Assignment, Balance, MOVE_WEIGHTS, Model, Weights, bounds};
pub use parse::{parse_assignment, parse_model};
pub use search::anneal::Character;
pub use solver::{
    Budget, Deadline, Executor, Inline, Iterations, Outcome, SolveError, Solver, Task,
};
pub(crate) use trim::trim_moves;
pub use write::{write_assignment, write_model};

/// All solvers, the default one first.
pub const SOLVERS: [&dyn Solver; 3] = [&LocalSearch::DEFAULT, &Genetic, &BestFit];
