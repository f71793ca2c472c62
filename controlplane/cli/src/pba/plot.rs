//! `pba plot`: one trace as SVG.

use std::process::ExitCode;

use dwcp_trainer::plot::{Plot, plot};

use super::args::{PartArg, PlotArgs};
use super::model;
use crate::output::Output;
use crate::problem::{Exit, Problem};

/// Runs it.
pub fn run(args: &PlotArgs, output: &Output) -> Result<ExitCode, Problem> {
    let used = model::load(args.model.as_deref())?;
    let traces = model::traces(&args.traces, PartArg::All)?;
    let missing = || Problem::new(Exit::NotFound, format!("no trace is named {:?}", args.trace));
    let trace = traces.iter().find(|t| t.name.contains(&args.trace)).ok_or_else(missing)?;
    let what = Plot {
        horizon_s: f64::from(args.horizon),
        kind: args.forecaster.0,
        from_s: f64::from(args.from),
        length_s: f64::from(args.length),
    };
    let short = || {
        let text = format!("{}: nothing to draw there with {}", trace.name, what.kind.name());
        Problem::new(Exit::Conflict, text)
    };
    let svg = plot(&used, trace, &what).ok_or_else(short)?;
    match &args.out {
        None => output.text(&svg)?,
        Some(path) => std::fs::write(path, svg)
            .map_err(|e| Problem::local(format!("{}: {e}", path.display())))?,
    }
    Ok(ExitCode::SUCCESS)
}
