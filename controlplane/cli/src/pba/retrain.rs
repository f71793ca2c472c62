//! `pba retrain`: a new model at the lowest priority, taken only when it is not worse.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use dwcp_prediction::{KNOT_STEPS, Kind, RetrainPolicy};
use dwcp_trainer::evaluate::evaluate;
use dwcp_trainer::retrain::{Background, Retrained, Retraining, Verdict, read_model, roll_back};
use dwcp_trainer::trace::Trace;
use serde::Serialize;

use super::args::{PartArg, RetrainArgs};
use super::model;
use crate::output::{Output, Table};
use crate::problem::{Exit, Problem};

#[derive(Serialize)]
struct Report {
    schema: u32,
    outcome: &'static str,
    rounds: Option<u32>,
    new_loss: Option<f64>,
    old_loss: Option<f64>,
}

/// Runs it. A model that was kept because the new one is worse is exit code 7.
pub fn run(args: &RetrainArgs, output: &Output) -> Result<ExitCode, Problem> {
    let plain =
        |outcome| Report { schema: 1, outcome, rounds: None, new_loss: None, old_loss: None };
    if args.roll_back {
        roll_back(&args.model)?;
        return show(&plain("rolled_back"), output);
    }
    let Some(traces) = &args.traces else {
        return Err(Problem::new(Exit::Usage, "--traces is needed"));
    };
    if !is_due(args, traces)? {
        return show(&plain("not_due"), output);
    }
    let note = format!("pba retrain --seed {} --rounds {}", args.seed, args.rounds);
    let order = Retraining {
        traces: traces.clone(),
        model: args.model.clone(),
        seed: args.seed,
        rounds: args.rounds,
        pause_after: args.pause_after,
        note,
    };
    let of = |outcome, verdict: Verdict| Report {
        new_loss: Some(verdict.new),
        old_loss: verdict.old,
        ..plain(outcome)
    };
    let report = match Background::start(order)?.join()? {
        Retrained::Taken(verdict) => of("taken", verdict),
        Retrained::Kept(verdict) => of("kept", verdict),
        Retrained::Paused { rounds, loss } => {
            let new_loss = loss.is_finite().then_some(loss);
            Report { rounds: Some(rounds), new_loss, ..plain("paused") }
        }
    };
    show(&report, output)
}

fn show(report: &Report, output: &Output) -> Result<ExitCode, Problem> {
    output.show(report, |report| {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.4}"));
        Table::pairs(vec![
            ("outcome", report.outcome.to_owned()),
            ("rounds done", report.rounds.map_or("-".to_owned(), |r| r.to_string())),
            ("loss of the new model", number(report.new_loss)),
            ("loss of the model before", number(report.old_loss)),
        ])
    })?;
    Ok(if report.outcome == "kept" {
        ExitCode::from(Exit::Conflict as u8)
    } else {
        ExitCode::SUCCESS
    })
}

/// Does the model in use need another? Without a condition, always.
fn is_due(args: &RetrainArgs, traces: &Path) -> Result<bool, Problem> {
    const DAY_S: f64 = 86_400.0;
    if args.if_older.is_none() && args.if_below.is_none() {
        return Ok(true);
    }
    let Ok(present) = read_model(&args.model) else { return Ok(true) };
    let changed = std::fs::metadata(&args.model).and_then(|m| m.modified()).ok();
    let age = changed.and_then(|c| SystemTime::now().duration_since(c).ok());
    let policy = RetrainPolicy {
        age_max_s: args.if_older.map_or(f64::INFINITY, |days| f64::from(days) * DAY_S),
        accuracy_min: args.if_below.unwrap_or(0.0),
        ..RetrainPolicy::default()
    };
    let (mut right, mut windows) = (0.0, 0);
    if args.if_below.is_some() {
        let traces = model::traces(traces, PartArg::HeldOut)?;
        let near = (KNOT_STEPS[0] * 5) as u32;
        let rows = evaluate(&present, &traces.iter().collect::<Vec<&Trace>>())?;
        let ours = rows.iter().filter(|r| r.forecaster == Kind::Selector.name());
        for row in ours.filter(|r| r.horizon_s == near) {
            right += row.within_30 * row.windows as f64;
            windows += row.windows;
        }
    }
    let accuracy = (windows > 0).then(|| right / windows as f64);
    Ok(policy.due(age.map_or(0.0, |a| a.as_secs_f64()), accuracy.unwrap_or(1.0), windows).is_some())
}
