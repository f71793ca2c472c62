//! `dwcp-cli placement profile`, `solver-stats` and `list-constraints`.

use std::time::Instant;

use dwcp_placement::reassign::{Budget, Model, SOLVERS, Task, evaluate, violations};
use serde::Serialize;

use super::args::{InstanceArgs, StatsArgs};
use super::run::{Clock, Threads};
use super::solve::instance;
use crate::output::{Output, Table};
use crate::problem::{Exit, Problem};

#[derive(Serialize)]
struct Profile {
    schema: u32,
    resources: usize,
    machines: usize,
    services: usize,
    processes: usize,
    locations: usize,
    neighbourhoods: usize,
    cost: i64,
    load: i64,
    load_bound: i64,
    balance: i64,
    broken: usize,
    filled: Vec<Filled>,
}

#[derive(Serialize)]
struct Filled {
    resource: usize,
    transient: bool,
    used_share: f64,
    safety_share: f64,
    machines_over_safety: usize,
}

/// Shows what an instance is like.
///
/// # Errors
/// A file is missing or malformed.
pub fn profile(args: &InstanceArgs, output: &Output) -> Result<(), Problem> {
    let (model, initial) = instance(args)?;
    let used = usage(&model, &initial);
    let cost = evaluate(&model, &initial, &initial);
    let (mut filled, mut load_bound) = (Vec::new(), 0);
    for resource in 0..model.resources() {
        let of =
            |table: &[i64]| -> i64 { table.iter().skip(resource).step_by(model.resources()).sum() };
        let (all, capacity, safety) = (of(&used), of(&model.capacity), of(&model.safety));
        let over = used.iter().zip(&model.safety).skip(resource).step_by(model.resources());
        load_bound += model.load_weight[resource] * (all - safety).max(0);
        filled.push(Filled {
            resource,
            transient: model.transient[resource],
            used_share: all as f64 / capacity.max(1) as f64,
            safety_share: safety as f64 / capacity.max(1) as f64,
            machines_over_safety: over.filter(|(used, safety)| used > safety).count(),
        });
    }
    let report = Profile {
        schema: 1,
        resources: model.resources(),
        machines: model.machines(),
        services: model.services(),
        processes: model.processes(),
        locations: distinct(&model.location),
        neighbourhoods: distinct(&model.neighbourhood),
        cost: cost.total(),
        load: cost.load,
        load_bound,
        balance: cost.balance,
        broken: violations(&model, &initial, &initial).len(),
        filled,
    };
    output.show(&report, profile_table)
}

fn profile_table(p: &Profile) -> Table {
    let mut lines = vec![
        format!("{} processes of {} services", p.processes, p.services),
        format!(
            "{} machines in {} locations and {} neighbourhoods",
            p.machines, p.locations, p.neighbourhoods
        ),
        format!("cost {} (load {}, balance {})", p.cost, p.load, p.balance),
        format!("load cannot fall below {}", p.load_bound),
        format!("{} broken hard constraints", p.broken),
    ];
    for f in &p.filled {
        let kind = if f.transient { ", transient" } else { "" };
        lines.push(format!(
            "resource {}: {:.1} % used, safety at {:.1} %, {} machines above it{kind}",
            f.resource,
            100.0 * f.used_share,
            100.0 * f.safety_share,
            f.machines_over_safety
        ));
    }
    Table::lines(lines)
}

fn usage(model: &Model, assignment: &[u32]) -> Vec<i64> {
    let r = model.resources();
    let mut used = vec![0; model.capacity.len()];
    for (p, &m) in assignment.iter().enumerate() {
        for i in 0..r {
            used[m as usize * r + i] += model.requirement[p * r + i];
        }
    }
    used
}

fn distinct(names: &[u32]) -> usize {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    names.len()
}

#[derive(Serialize)]
struct Stats {
    schema: u32,
    initial_cost: i64,
    solvers: Vec<SolverLine>,
}

#[derive(Serialize)]
struct SolverLine {
    algorithm: &'static str,
    cost: i64,
    seconds: f64,
    steps: u64,
    accepted: u64,
    moved: usize,
}

/// Runs every solver for the same time.
///
/// # Errors
/// A file is missing or malformed, or the start is infeasible.
pub fn solver_stats(args: &StatsArgs, output: &Output) -> Result<(), Problem> {
    let (model, initial) = instance(&args.instance)?;
    let mut solvers = Vec::new();
    for solver in SOLVERS {
        let start = Instant::now();
        let clock = Clock { start, allowed: args.time };
        let budget = Budget::Time(&clock);
        let task = Task { model: &model, initial: &initial, pinned: &[], seed: args.seed, budget };
        let outcome = solver
            .solve(&task, &Threads(args.threads as usize))
            .map_err(|e| Problem::new(Exit::Conflict, e.to_string()))?;
        let moved = outcome.assignment.iter().zip(&initial).filter(|(a, b)| a != b).count();
        solvers.push(SolverLine {
            algorithm: solver.name(),
            cost: outcome.cost.total(),
            seconds: start.elapsed().as_secs_f64(),
            steps: outcome.steps,
            accepted: outcome.accepted,
            moved,
        });
    }
    let initial_cost = evaluate(&model, &initial, &initial).total();
    output.show(&Stats { schema: 1, initial_cost, solvers }, |stats| {
        let mut table = Table::new(&["algorithm", "cost", "seconds", "steps", "accepted", "moved"]);
        for line in &stats.solvers {
            table.row(vec![
                line.algorithm.to_owned(),
                line.cost.to_string(),
                format!("{:.2}", line.seconds),
                line.steps.to_string(),
                line.accepted.to_string(),
                line.moved.to_string(),
            ]);
        }
        table
    })
}

#[derive(Serialize)]
struct Constraints {
    schema: u32,
    capacities: usize,
    transient_capacities: usize,
    conflicts: usize,
    spreads: usize,
    dependencies: usize,
    broken: Vec<String>,
}

/// Lists what must hold, and what does not.
///
/// # Errors
/// A file is missing or malformed.
pub fn list_constraints(args: &InstanceArgs, output: &Output) -> Result<(), Problem> {
    let (model, initial) = instance(args)?;
    let mut sizes = vec![0usize; model.services()];
    model.service.iter().for_each(|&s| sizes[s as usize] += 1);
    let transient = model.transient.iter().filter(|&&t| t).count();
    let report = Constraints {
        schema: 1,
        capacities: model.machines() * model.resources(),
        transient_capacities: model.machines() * transient,
        conflicts: sizes.iter().filter(|&&n| n > 1).count(),
        spreads: model.spread_min.iter().filter(|&&n| n > 1).count(),
        dependencies: model.dependencies.iter().map(Vec::len).sum(),
        broken: violations(&model, &initial, &initial).iter().map(ToString::to_string).collect(),
    };
    output.show(&report, |c| {
        let mut lines = vec![
            format!("{} capacities, {} of them transient", c.capacities, c.transient_capacities),
            format!("{} services that may not meet themselves on a machine", c.conflicts),
            format!("{} services spread over locations", c.spreads),
            format!("{} dependencies within a neighbourhood", c.dependencies),
            format!("{} broken", c.broken.len()),
        ];
        lines.extend(c.broken.iter().map(|text| format!("broken: {text}")));
        Table::lines(lines)
    })
}
