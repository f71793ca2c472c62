//! The words after `dwcp-cli pba`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use dwcp_prediction::Kind;

/// Forecasts of links, from traces and model files.
#[derive(Debug, Args)]
pub struct PbaArgs {
    /// The same as -o json
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: PbaCommand,
}

/// What can be asked of the forecasters.
#[derive(Debug, Subcommand)]
pub enum PbaCommand {
    /// Print the model's figures on held-out links in the form that Prometheus reads
    Metrics(JudgeArgs),
    /// Forecast every trace from its end on: rates, and with --bytes the time to move them
    Predictions(PredictionsArgs),
    /// Train a model and take it if it is not worse than the one before
    Retrain(RetrainArgs),
    /// Judge every forecaster, and what deciding by them is worth, on links no model was fitted on
    Evaluate(JudgeArgs),
    /// Draw truth, forecast and interval of one trace as SVG
    Plot(PlotArgs),
}

/// Links that a judgement is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PartArg {
    /// Never used before the judgement: 3 of 10 links
    Test,
    /// Used for calibration and for choosing between models: 2 of 10
    HeldOut,
    /// Used for fitting: 5 of 10
    Fit,
    /// Every link, for traces that no model has seen
    All,
}

/// Flags of `pba metrics` and `pba evaluate`.
#[derive(Debug, Args)]
pub struct JudgeArgs {
    /// Folder of traces: files with lines of `seconds Mbit/s`
    #[arg(long, value_name = "DIR")]
    pub traces: PathBuf,
    /// Model file [default: the one in this program]
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Which links
    #[arg(long, value_enum, default_value_t = PartArg::Test)]
    pub part: PartArg,
}

/// A forecaster by its name in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindArg(
    /// The forecaster.
    pub Kind,
);

impl std::str::FromStr for KindArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        found.map(Self).ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("{text:?} is no forecaster; there are {}", names.join(", "))
        })
    }
}

/// Flags of `pba predictions`.
#[derive(Debug, Args)]
pub struct PredictionsArgs {
    /// Folder of traces
    #[arg(long, value_name = "DIR")]
    pub traces: PathBuf,
    /// Model file [default: the one in this program]
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Who forecasts
    #[arg(long, default_value = "selector")]
    pub forecaster: KindArg,
    /// Only links whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub link: String,
    /// Bytes to move: adds the time that takes, and whether to go, to wait or to leave early
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
    /// Bytes a second that the guest makes anew: adds rounds and downtime
    #[arg(long, value_name = "BYTES", requires = "bytes", default_value_t = 0)]
    pub dirty: u64,
    /// Longest pause in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300)]
    pub max_downtime_ms: u32,
    /// Seconds that the start may be put off
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub may_wait: u32,
    /// Seconds from now by which it has to be done
    #[arg(long, value_name = "SECONDS")]
    pub deadline: Option<u32>,
}

/// Flags of `pba retrain`.
#[derive(Debug, Args)]
pub struct RetrainArgs {
    /// Folder of traces
    #[arg(long, value_name = "DIR", required_unless_present = "roll_back")]
    pub traces: Option<PathBuf>,
    /// Model file to replace
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The same seed and traces give the same model
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// Rounds of the LSTM's training; 0 for a model without it
    #[arg(long, default_value_t = dwcp_trainer::retrain::ROUNDS, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub rounds: u32,
    /// Stop after this many rounds; the same command goes on from there
    #[arg(long, value_name = "ROUNDS")]
    pub pause_after: Option<u32>,
    /// Only if the model file is older than this many days, or its accuracy is too low
    #[arg(long, value_name = "DAYS")]
    pub if_older: Option<u32>,
    /// Only if the share of forecasts for 30 s within 30 % on held-out links is below this, or it is too old
    #[arg(long, value_name = "SHARE")]
    pub if_below: Option<f64>,
    /// Go back to the model before, and do nothing else
    #[arg(long)]
    pub roll_back: bool,
}

/// Flags of `pba plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Folder of traces
    #[arg(long, value_name = "DIR")]
    pub traces: PathBuf,
    /// The trace: part of its file name
    #[arg(long, value_name = "NAME")]
    pub trace: String,
    /// Model file [default: the one in this program]
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// Seconds ahead: 30, 60, 120 or 300
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub horizon: u32,
    /// Who forecasts
    #[arg(long, default_value = "selector")]
    pub forecaster: KindArg,
    /// First second to draw
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub from: u32,
    /// Seconds to draw
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub length: u32,
    /// The picture [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
