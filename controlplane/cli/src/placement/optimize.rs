//! `dwcp-cli placement optimize --dry-run`.

use std::time::Instant;

use dwcp_placement::plan::{Hysteresis, Limits, Move, Plan, Reason, order, trim};
use dwcp_placement::reassign::evaluate;
use serde::Serialize;

use super::args::OptimizeArgs;
use super::solve::{instance, search_for};
use crate::output::{Output, Table};
use crate::problem::{Exit, Problem};

#[derive(Serialize)]
struct Report {
    schema: u32,
    algorithm: &'static str,
    seed: u64,
    iterations: String,
    cost: i64,
    wished_cost: i64,
    planned_cost: i64,
    seconds: f64,
    left_out: usize,
    dropped: Vec<u32>,
    worth_it: bool,
    moves: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    process: u32,
    from: u32,
    to: u32,
    start_s: f64,
    end_s: f64,
    gain: i64,
    cost: i64,
    reason: String,
}

/// Searches, trims, orders, and prints the moves.
///
/// # Errors
/// A file is missing or malformed, a value is no number that fits, or the start is infeasible.
pub fn run(args: &OptimizeArgs, output: &Output) -> Result<(), Problem> {
    let start = Instant::now();
    let (model, initial) = instance(&args.instance)?;
    let usage = |text: &str| Problem::new(Exit::Usage, text);
    if args.seconds_resource >= model.resources() {
        return Err(usage("--seconds-resource: the model has no such resource"));
    }
    if !(args.seconds_per_unit > 0.0 && args.plan_gain_min >= 0.0) {
        return Err(usage("--seconds-per-unit and --plan-gain-min take positive numbers"));
    }
    let mut resting = args.resting.clone();
    resting.sort_unstable();
    let (algorithm, outcome) = search_for(&model, &initial, &resting, &args.search, start)?;
    let rules = Hysteresis {
        move_gain_min: args.move_gain_min,
        plan_gain_share_min: args.plan_gain_min / 100.0,
        moves_max: args.moves_max,
        ..Hysteresis::default()
    };
    let conflict = |text: String| Problem::new(Exit::Conflict, text);
    let trimmed =
        trim(&model, &initial, &outcome.assignment, &rules).map_err(|e| conflict(e.to_string()))?;
    let limits = Limits {
        per_source: args.per_source,
        per_target: args.per_target,
        per_link: args.per_link,
        total: args.total,
    };
    let forecast = |process: u32, _: u32, _: u32| {
        let at = process as usize * model.resources() + args.seconds_resource;
        model.requirement[at] as f64 * args.seconds_per_unit
    };
    let plan = order(&model, &initial, &trimmed.assignment, limits, &forecast)
        .map_err(|e| conflict(e.to_string()))?;
    let report = Report {
        schema: 1,
        algorithm,
        seed: args.search.seed,
        iterations: outcome.iterations.to_string(),
        cost: evaluate(&model, &initial, &initial).total(),
        wished_cost: outcome.cost.total(),
        planned_cost: plan.end_cost,
        seconds: plan.seconds(),
        left_out: trimmed.left_out,
        dropped: plan.dropped.clone(),
        worth_it: !trimmed.refused,
        moves: lines(&plan),
    };
    output.show(&report, table)
}

fn lines(plan: &Plan) -> Vec<Line> {
    let line = |m: &Move| Line {
        process: m.process,
        from: m.from,
        to: m.to,
        start_s: m.start_s,
        end_s: m.end_s,
        gain: m.gain,
        cost: m.cost,
        reason: match m.reason {
            Reason::Relieves(r) => format!("machine {} is over its safety of resource {r}", m.from),
            Reason::Balances => "free amounts fit better".to_owned(),
            Reason::MakesRoom => "makes room for others".to_owned(),
            Reason::Detour => "stops on the way: moves wait for each other".to_owned(),
        },
    };
    plan.moves.iter().map(line).collect()
}

fn table(report: &Report) -> Table {
    let mut table =
        Table::new(&["start", "end", "process", "from", "to", "gain", "cost", "reason"]);
    for m in &report.moves {
        table.row(vec![
            format!("{:.1}", m.start_s),
            format!("{:.1}", m.end_s),
            m.process.to_string(),
            m.from.to_string(),
            m.to.to_string(),
            m.gain.to_string(),
            m.cost.to_string(),
            m.reason.clone(),
        ]);
    }
    let verdict = if report.worth_it { "" } else { ", not worth a plan" };
    let text = format!(
        "{} moves in {:.1} s, cost {} -> {} (wished {}), {} left out, {} dropped{verdict}",
        report.moves.len(),
        report.seconds,
        report.cost,
        report.planned_cost,
        report.wished_cost,
        report.left_out,
        report.dropped.len(),
    );
    table.row(vec![text]);
    table
}
