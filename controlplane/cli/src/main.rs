//! The binary `dwcp-cli`: parses the command line, runs one command, and ends with the exit code of the
//! contract. Everything it shows it got through a door; it must not know either plane's inside.
#![forbid(unsafe_code)]

mod args;
mod door;
mod engine;
mod follow;
mod jobs;
mod output;
mod pba;
mod placement;
mod problem;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde::Serialize;

use args::{Cli, Command};
use output::{Output, Table};
use problem::Problem;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.output);
    match run(cli.command, &output) {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("dwcp-cli: {problem}");
            problem.exit_code()
        }
    }
}

fn run(command: Command, output: &Output) -> Result<ExitCode, Problem> {
    match command {
        Command::Version => version(output),
        Command::Completion { shell } => {
            let (mut command, mut script) = (Cli::command(), Vec::new());
            clap_complete::generate(shell, &mut command, "dwcp-cli", &mut script);
            output.text(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Placement(args) => placement::run(*args, output).map(|()| ExitCode::SUCCESS),
        Command::Engine(args) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Problem::local(format!("starting: {e}")))?;
            runtime.block_on(engine::run(args, output))
        }
        Command::Pba(args) => pba::run(args, output),
    }
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

fn version(output: &Output) -> Result<ExitCode, Problem> {
    let version = Version { version: args::VERSION };
    output.show(&version, |v| Table::lines(vec![v.version.to_owned()]))?;
    Ok(ExitCode::SUCCESS)
}
