//! `dwcp-bench`: side-by-side benchmarks against peers, the guests they run on, and the demo.
#![forbid(unsafe_code)]

mod demo;
mod demo_report;
mod guest;
mod host_memory;
mod migrate;
mod migrate_engine;
mod migrate_limit;
mod migrate_mode;
mod migrate_report;
mod migrate_run;
mod placement;
mod placement_graphs;
mod placement_online;
mod placement_record;
mod prediction;
mod raw;
mod raw_end;
mod raw_report;
mod suite;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code of an operation that failed.
const FAILED: u8 = 1;
/// Exit code when this machine lacks something.
const LOCAL: u8 = 5;
/// Exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Parser)]
#[command(name = "dwcp-bench", version = concat!("DWCP v", env!("CARGO_PKG_VERSION")), about = "Side-by-side benchmarks against peers, and the demo", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the guests that benchmarks and demo run
    #[command(subcommand)]
    Guest(guest::GuestCommand),
    /// Move one warmed guest by QEMU's own ways and by ours, in turn
    Migrate(migrate::MigrateArgs),
    /// Move memory through our session and iperf3, in turn
    Raw(raw::RawArgs),
    /// One end of `raw`
    #[command(hide = true)]
    RawEnd(raw_end::EndArgs),
    /// Time forecasts of links on one core
    Prediction(prediction::PredictionArgs),
    /// Move a running guest between two hosts made on this machine, and report
    Demo(demo::DemoArgs),
    /// Solvers of placement on public instances, online decisions, task graphs
    Placement(placement::PlacementArgs),
    /// Every benchmark at its smallest, to see that they work
    Tiny,
    /// Every benchmark at its full size, recorded in bench/record
    All(suite::AllArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Guest(command) => guest::run(command),
        Command::Migrate(args) => migrate::run(&args),
        Command::Raw(args) => raw::run(&args),
        Command::RawEnd(args) => raw_end::run(&args),
        Command::Prediction(args) => prediction::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Placement(args) => placement::run(&args),
        Command::Tiny => suite::tiny(),
        Command::All(args) => suite::all(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if dwcp_hwtest::interrupt::requested() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("dwcp-bench: {error:#}");
            let lacks = error.downcast_ref::<dwcp_hwtest::probe::Missing>().is_some();
            ExitCode::from(if lacks { LOCAL } else { FAILED })
        }
    }
}
