//! `dwcp-bench`: side-by-side benchmarks against peers, the guests they run on, and the demo.
#![forbid(unsafe_code)]

mod demo;
mod demo_report;
mod guest;
mod migrate;
mod migrate_limit;
mod migrate_mode;
mod migrate_report;
mod migrate_run;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code of an operation that failed.
const FAILED: u8 = 1;
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
    /// Move a running guest between two hosts made on this machine, and report
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Guest(command) => guest::run(command),
        Command::Migrate(args) => migrate::run(&args),
        Command::Demo(args) => demo::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if dwcp_hwtest::interrupt::requested() => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("dwcp-bench: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
