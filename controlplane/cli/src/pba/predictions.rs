//! `pba predictions`: what is said of every trace from its end on.

use std::process::ExitCode;

use dwcp_prediction::{
    Advice, Curve, Guest, Job, KNOT_STEPS, Link, LinkSample, Model, PreCopy, STEP_MS, STEP_S,
    Seconds, outlook, seconds_to_move,
};
use dwcp_trainer::trace::{BYTES_PER_MBIT, Trace};
use serde::Serialize;

use super::args::{PartArg, PredictionsArgs};
use super::model;
use crate::output::{Output, Table};
use crate::problem::Problem;

/// What waiting costs: a tenth of a second on the link for every second.
const WAIT_PRICE: f64 = 0.1;

#[derive(Serialize)]
struct Report {
    schema: u32,
    forecaster: &'static str,
    links: Vec<Prediction>,
}

#[derive(Serialize)]
struct Prediction {
    trace: String,
    link: String,
    at_s: f64,
    leader: &'static str,
    rates: Vec<Rate>,
    transfer: Option<Transfer>,
}

/// Mean rate over the horizon.
#[derive(Serialize)]
struct Rate {
    horizon_s: f64,
    p10_mbit_s: f64,
    p50_mbit_s: f64,
    p90_mbit_s: f64,
}

#[derive(Serialize)]
struct Transfer {
    bytes: u64,
    seconds: Quantiles,
    rounds: [u32; 3],
    downtime_s: Quantiles,
    total_s: Quantiles,
    converges: bool,
    advice: &'static str,
    wait_s: f64,
}

#[derive(Serialize)]
struct Quantiles {
    p10: f64,
    p50: f64,
    p90: f64,
}

impl From<Seconds> for Quantiles {
    fn from(seconds: Seconds) -> Self {
        Self { p10: seconds.p10, p50: seconds.p50, p90: seconds.p90 }
    }
}

/// Runs it.
pub fn run(args: &PredictionsArgs, output: &Output) -> Result<ExitCode, Problem> {
    let used = model::load(args.model.as_deref())?;
    let mut traces = model::traces(&args.traces, PartArg::All)?;
    traces.retain(|trace| trace.link.contains(&args.link));
    let links = traces.iter().filter_map(|trace| predict(&used, trace, args)).collect();
    let report = Report { schema: 1, forecaster: args.forecaster.0.name(), links };
    output.show(&report, table)?;
    Ok(ExitCode::SUCCESS)
}

fn predict(used: &Model, trace: &Trace, args: &PredictionsArgs) -> Option<Prediction> {
    let mut link = Link::new(used);
    for (step, rate) in trace.rates.iter().enumerate() {
        // A trace holds only what a link takes.
        let _ = link.push(&LinkSample::rate(step as u64 * STEP_MS, *rate));
    }
    link.advance(trace.rates.len() as u64 * STEP_MS);
    let curve = link.curve_of(args.forecaster.0)?;
    let rates = KNOT_STEPS.map(|steps| {
        let horizon_s = steps as f64 * STEP_S;
        let [p10_mbit_s, p50_mbit_s, p90_mbit_s] =
            curve.at(horizon_s).quantiles().map(|rate| rate / BYTES_PER_MBIT);
        Rate { horizon_s, p10_mbit_s, p50_mbit_s, p90_mbit_s }
    });
    Some(Prediction {
        trace: trace.name.clone(),
        link: trace.link.clone(),
        at_s: trace.rates.len() as f64 * STEP_S,
        leader: link.leaders()[0].name(),
        rates: rates.into(),
        transfer: args.bytes.map(|bytes| transfer(&link, &curve, bytes, args)),
    })
}

fn transfer(link: &Link, curve: &Curve, bytes: u64, args: &PredictionsArgs) -> Transfer {
    let guest = Guest {
        bytes,
        dirty_bytes_per_s: args.dirty as f64,
        working_set_bytes: bytes,
        downtime_budget_s: f64::from(args.max_downtime_ms) / 1_000.0,
    };
    let all = outlook(curve, &guest);
    let of = |value: fn(&PreCopy) -> f64| {
        let [mut p10, p50, mut p90] = [all.fast, all.middle, all.slow].map(|one| value(&one));
        (p10, p90) = (p10.min(p50), p90.max(p50));
        Quantiles { p10, p50, p90 }
    };
    let job = Job {
        bytes,
        usual_bytes_per_s: None,
        wait_price: WAIT_PRICE,
        wait_max_s: f64::from(args.may_wait),
        deadline_s: args.deadline.map(f64::from),
    };
    let (advice, wait_s) = match link.advise(curve, &job) {
        Advice::Go { .. } => ("go", 0.0),
        Advice::Evacuate { .. } => ("evacuate", 0.0),
        Advice::DeferUntil { in_s, .. } => ("defer", in_s),
    };
    Transfer {
        bytes,
        seconds: seconds_to_move(curve, bytes).into(),
        rounds: [all.fast, all.middle, all.slow].map(|one| one.rounds),
        downtime_s: of(|one| one.downtime_s),
        total_s: of(|one| one.total_s),
        converges: all.middle.converges,
        advice,
        wait_s,
    }
}

fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        "link",
        "at",
        "leader",
        "horizon",
        "p10 Mbit/s",
        "p50",
        "p90",
        "seconds",
        "rounds",
        "downtime",
        "advice",
    ]);
    for link in &report.links {
        for (i, rate) in link.rates.iter().enumerate() {
            let transfer = link.transfer.as_ref().filter(|_| i == 0);
            let span = |q: &Quantiles| format!("{:.1} ({:.1}-{:.1})", q.p50, q.p10, q.p90);
            let cell = |text: Option<String>| text.unwrap_or_default();
            let advice = transfer.map(|t| match t.advice {
                "defer" => format!("defer {:.0} s", t.wait_s),
                other => other.to_owned(),
            });
            table.row(vec![
                link.link.clone(),
                format!("{:.0} s", link.at_s),
                link.leader.to_owned(),
                format!("{:.0} s", rate.horizon_s),
                format!("{:.2}", rate.p10_mbit_s),
                format!("{:.2}", rate.p50_mbit_s),
                format!("{:.2}", rate.p90_mbit_s),
                cell(transfer.map(|t| span(&t.seconds))),
                cell(transfer.map(|t| t.rounds[1].to_string())),
                cell(transfer.map(|t| span(&t.downtime_s))),
                cell(advice),
            ]);
        }
    }
    table
}
