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
}

/// One instance and how to solve it.
#[derive(Debug, Args)]
pub struct SolveArgs {
    /// The model file
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The file with the present assignment
    #[arg(long, value_name = "FILE")]
    pub assignment: PathBuf,
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
