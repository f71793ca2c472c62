//! `dwcp-cli pba`: forecasts from folders of traces and model files, without any server.

mod args;
mod evaluate;
mod metrics;
mod model;
mod plot;
mod predictions;
mod retrain;

use std::process::ExitCode;

use dwcp_trainer::TrainError;

pub use args::{PbaArgs, PbaCommand};

use crate::output::{Format, Output};
use crate::problem::{Exit, Problem};

/// Runs one command.
///
/// # Errors
/// [`Problem`] with the exit code of the contract.
pub fn run(args: PbaArgs, output: &Output) -> Result<ExitCode, Problem> {
    let json = Output::new(Format::Json);
    let output = if args.json { &json } else { output };
    match args.command {
        PbaCommand::Metrics(args) => metrics::run(&args, output),
        PbaCommand::Predictions(args) => predictions::run(&args, output),
        PbaCommand::Retrain(args) => retrain::run(&args, output),
        PbaCommand::Evaluate(args) => evaluate::run(&args, output),
        PbaCommand::Plot(args) => plot::run(&args, output),
    }
}

/// Exit codes of what training and judging say.
impl From<TrainError> for Problem {
    fn from(error: TrainError) -> Self {
        let exit = match &error {
            TrainError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Exit::NotFound
            }
            TrainError::NoTraces { .. } => Exit::NotFound,
            TrainError::File { .. } | TrainError::NoNetwork => Exit::Local,
            TrainError::TooLong { .. } | TrainError::TooMany { .. } => Exit::Limit,
            TrainError::Trace { .. } | TrainError::TooFew { .. } | TrainError::Model(_) => {
                Exit::Conflict
            }
            TrainError::Diverged => Exit::Failed,
            TrainError::Cancelled => Exit::Interrupted,
        };
        Self::new(exit, error.to_string())
    }
}
