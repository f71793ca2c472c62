//! `dwcp-cli placement solve`.

use std::time::{Duration, Instant};

use dwcp_placement::reassign::{
    Assignment, Budget, Cost, Model, Outcome, SOLVERS, Task, evaluate, parse_assignment,
    parse_model, write_assignment,
};
use serde::Serialize;

use super::args::{InstanceArgs, SearchArgs, SolveArgs};
use super::run::{Clock, Threads, malformed, read, write};
use crate::output::{Format, Output, Table};
use crate::problem::{Exit, Problem};

/// Kept of the time for writing the answer and ending.
const RESERVE: Duration = Duration::from_millis(100);
/// The same as a share of short times.
const RESERVE_SHARE_MAX: u32 = 10;

#[derive(Serialize)]
struct Report {
    schema: u32,
    algorithm: &'static str,
    seed: u64,
    threads: u32,
    iterations: String,
    steps: u64,
    accepted: u64,
    seconds: f64,
    initial_cost: i64,
    cost: i64,
    parts: Parts,
    moved: usize,
}

#[derive(Serialize)]
struct Parts {
    load: i64,
    balance: i64,
    process_move: i64,
    service_move: i64,
    machine_move: i64,
}

/// Reads, solves, writes, and says what came out.
///
/// # Errors
/// A file is missing, malformed (line and field named) or cannot be written; the start is infeasible.
pub fn run(args: &SolveArgs, output: &Output) -> Result<(), Problem> {
    let start = Instant::now();
    let (model, initial) = instance(&args.instance)?;
    let search = &args.search;
    let (solver, outcome) = search_for(&model, &initial, &[], search, start)?;
    write(&args.out, &write_assignment(&outcome.assignment))?;
    let report = Report {
        schema: 1,
        algorithm: solver,
        seed: search.seed,
        threads: search.threads,
        iterations: outcome.iterations.to_string(),
        steps: outcome.steps,
        accepted: outcome.accepted,
        seconds: start.elapsed().as_secs_f64(),
        initial_cost: evaluate(&model, &initial, &initial).total(),
        cost: outcome.cost.total(),
        parts: parts(&outcome.cost),
        moved: moved(&outcome, &initial),
    };
    let output = if args.json { &Output::new(Format::Json) } else { output };
    output.show(&report, table)
}

/// Reads model and assignment.
///
/// # Errors
/// A file is missing or malformed.
pub fn instance(args: &InstanceArgs) -> Result<(Model, Assignment), Problem> {
    let model = parse_model(&read(&args.model)?).map_err(|e| malformed(&args.model, &e))?;
    let initial = parse_assignment(&model, &read(&args.assignment)?)
        .map_err(|e| malformed(&args.assignment, &e))?;
    Ok((model, initial))
}

/// Runs the solver that was asked for; `start` is when the command began.
///
/// # Errors
/// The start is infeasible.
pub fn search_for(
    model: &Model,
    initial: &[u32],
    pinned: &[u32],
    search: &SearchArgs,
    start: Instant,
) -> Result<(&'static str, Outcome), Problem> {
    let reserve = RESERVE.min(search.time / RESERVE_SHARE_MAX);
    let clock = Clock { start, allowed: search.time - reserve };
    let budget = match &search.iterations {
        Some(iterations) => Budget::Iterations(iterations.clone()),
        None => Budget::Time(&clock),
    };
    let solver = SOLVERS.iter().find(|solver| solver.name() == search.algorithm);
    let solver = solver.ok_or_else(|| Problem::new(Exit::Usage, "no such algorithm"))?;
    let task = Task { model, initial, pinned, seed: search.seed, budget };
    let outcome = solver
        .solve(&task, &Threads(search.threads as usize))
        .map_err(|e| Problem::new(Exit::Conflict, e.to_string()))?;
    Ok((solver.name(), outcome))
}

fn parts(cost: &Cost) -> Parts {
    Parts {
        load: cost.load,
        balance: cost.balance,
        process_move: cost.process_move,
        service_move: cost.service_move,
        machine_move: cost.machine_move,
    }
}

fn moved(outcome: &Outcome, initial: &[u32]) -> usize {
    outcome.assignment.iter().zip(initial).filter(|(now, before)| now != before).count()
}

fn table(report: &Report) -> Table {
    Table::pairs(vec![
        ("algorithm", report.algorithm.to_owned()),
        ("initial cost", report.initial_cost.to_string()),
        ("cost", report.cost.to_string()),
        ("  load", report.parts.load.to_string()),
        ("  balance", report.parts.balance.to_string()),
        ("  process moves", report.parts.process_move.to_string()),
        ("  service moves", report.parts.service_move.to_string()),
        ("  machine moves", report.parts.machine_move.to_string()),
        ("moved", report.moved.to_string()),
        ("seconds", format!("{:.2}", report.seconds)),
        ("repeat with", format!("--seed {} --iterations {}", report.seed, report.iterations)),
    ])
}
