//! The command line of `dwcp-cli placement`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dwcp_placement::reassign::{Iterations, SOLVERS};

/// Commands of placement.
#[derive(Debug, Args)]
pub struct PlacementArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PlacementCommand,
}

/// What placement can do without a cluster.
#[derive(Debug, Subcommand)]
pub enum PlacementCommand {
    /// Solve an instance in the file format of the ROADEF/EURO challenge 2012
    Solve(SolveArgs),
    /// Find a better assignment and the moves that lead there, in an order that can be carried out
    Optimize(OptimizeArgs),
    /// Show what an instance is like: sizes, how full it is, what its cost consists of
    Profile(InstanceArgs),
    /// Run every solver for a moment on one instance and compare
    SolverStats(StatsArgs),
    /// List the hard constraints of an instance and which are broken
    ListConstraints(InstanceArgs),
}

/// An instance.
#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// The model file, in the format of the ROADEF/EURO challenge 2012
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The file with the present assignment
    #[arg(long, value_name = "FILE")]
    pub assignment: PathBuf,
}

/// An instance and a time for each solver.
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// Time of each solver
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub time: Duration,
    /// Threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Every random choice follows from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// An instance, how to search, and what a plan may do.
#[derive(Debug, Args)]
pub struct OptimizeArgs {
    #[command(flatten)]
    pub instance: InstanceArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    /// Only show the plan. Needed for now: these commands read files and carry nothing out
    #[arg(long, required = true)]
    pub dry_run: bool,
    /// Leave out moves that gain less than this, in cost units
    #[arg(long, default_value_t = 0, value_name = "COST")]
    pub move_gain_min: i64,
    /// Make no plan that gains less than this share of the present cost, in percent
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    pub plan_gain_min: f64,
    /// At most so many moves; 0: no limit
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub moves_max: usize,
    /// Processes that moved lately and stay: numbers between commas
    #[arg(long, value_delimiter = ',', value_name = "PROCESS")]
    pub resting: Vec<u32>,
    /// Migrations side by side out of one machine
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub per_source: u32,
    /// Migrations side by side into one machine
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub per_target: u32,
    /// Migrations side by side from one location to another
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub per_link: u32,
    /// Migrations side by side in all
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub total: u32,
    /// Forecast seconds of a migration per unit of --seconds-resource
    #[arg(long, default_value_t = 0.001, value_name = "SECONDS")]
    pub seconds_per_unit: f64,
    /// The resource whose amount a migration carries (memory)
    #[arg(long, default_value_t = 0, value_name = "RESOURCE")]
    pub seconds_resource: usize,
}

/// One instance and how to solve it.
#[derive(Debug, Args)]
pub struct SolveArgs {
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// Where to write the new assignment
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub search: SearchArgs,
    /// Print one JSON object (the same as -o json)
    #[arg(long)]
    pub json: bool,
}

/// How to search.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Time for everything, reading and writing included, such as 60s, 500ms or 2m
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub time: Duration,
    /// Threads; the answer to --iterations is the same for any number
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: u32,
    /// Every random choice follows from it
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Search so long instead of --time: a count, or the list that a run with --time printed
    #[arg(long, value_name = "N")]
    pub iterations: Option<Iterations>,
    /// The solver
    #[arg(long, default_value = SOLVERS[0].name(), value_parser = solver_names())]
    pub algorithm: String,
}

fn solver_names() -> clap::builder::PossibleValuesParser {
    SOLVERS.map(|solver| solver.name()).into()
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write a number and ms, s or m, such as 60s");
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_an_operator_writes_them() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0ms"), Ok(Duration::ZERO));
        for wrong in ["", "60", "s", "-1s", "1h", "NaNs", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
