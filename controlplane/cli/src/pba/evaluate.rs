//! `pba evaluate`: every forecaster on every set and horizon, and what deciding by them is worth.

use std::process::ExitCode;

use dwcp_trainer::decide::{Decided, decide};
use dwcp_trainer::evaluate::{Row, evaluate};
use dwcp_trainer::trace::Trace;
use serde::Serialize;

use super::args::JudgeArgs;
use super::model;
use crate::output::{Output, Table};
use crate::problem::Problem;

/// Version of the keys; they are only ever added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report {
    schema: u32,
    traces: usize,
    model_note: String,
    model_default: &'static str,
    forecasts: Vec<Row>,
    decisions: Vec<Decided>,
}

/// Runs it.
pub fn run(args: &JudgeArgs, output: &Output) -> Result<ExitCode, Problem> {
    let used = model::load(args.model.as_deref())?;
    let traces = model::traces(&args.traces, args.part)?;
    let traces: Vec<&Trace> = traces.iter().collect();
    let report = Report {
        schema: SCHEMA,
        traces: traces.len(),
        forecasts: evaluate(&used, &traces)?,
        decisions: decide(&used, &traces),
        model_default: used.default.name(),
        model_note: used.note,
    };
    output.show(&report, table)?;
    Ok(ExitCode::SUCCESS)
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        "set",
        "horizon",
        "forecaster",
        "windows",
        "mae Mbit/s",
        "wape",
        "in 30%",
        "pinball",
        "p10-p90",
        "slow",
        "middle",
        "fast",
    ]);
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    for row in &report.forecasts {
        let [slow, middle, fast] = row.coverage_by_third.map(percent);
        table.row(vec![
            row.set.clone(),
            format!("{} s", row.horizon_s),
            row.forecaster.to_owned(),
            row.windows.to_string(),
            format!("{:.4}", row.mae_mbit_s),
            percent(row.wape),
            percent(row.within_30),
            format!("{:.4}", row.pinball_mbit_s),
            percent(row.coverage),
            slow,
            middle,
            fast,
        ]);
    }
    let head = ["start a job", "rule", "jobs", "seconds", "saved", "of gap"];
    table.row(Vec::new());
    table.row(head.iter().map(|cell| cell.to_uppercase()).collect());
    for row in &report.decisions {
        table.row(vec![
            row.set.clone(),
            row.rule.to_owned(),
            row.jobs.to_string(),
            format!("{:.2}", row.cost_s),
            format!("{:.2}", row.gain_s),
            percent(row.share_of_gap),
        ]);
    }
    table
}
