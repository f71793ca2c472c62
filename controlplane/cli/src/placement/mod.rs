//! `dwcp-cli placement`: offline commands of the placement library. This module owns what the library
//! must not have: files, the clock and threads.

mod args;
mod facts;
mod optimize;
mod run;
mod solve;

pub use args::PlacementArgs;
use args::PlacementCommand;

use crate::output::Output;
use crate::problem::Problem;

/// Runs one command.
///
/// # Errors
/// A file cannot be read or written, holds something else than it should, or there is no answer.
pub fn run(args: PlacementArgs, output: &Output) -> Result<(), Problem> {
    match args.command {
        PlacementCommand::Solve(args) => solve::run(&args, output),
        PlacementCommand::Optimize(args) => optimize::run(&args, output),
        PlacementCommand::Profile(args) => facts::profile(&args, output),
        PlacementCommand::SolverStats(args) => facts::solver_stats(&args, output),
        PlacementCommand::ListConstraints(args) => facts::list_constraints(&args, output),
    }
}
