//! `best_fit`: every process, largest first, to the machine where the total cost falls most; again
//! until nothing falls. No random choice; an iteration is one look at one process.

use super::search::problem::Problem;
use super::search::state::State;
use super::search::steps::shift_change;
use super::search::with_dimensions;
use super::solver::{
    Budget, Executor, Iterations, Outcome, SolveError, Solver, Task, check, outcome,
};

/// Processes between two looks at the clock.
const LOOK_EVERY: u64 = 64;

/// The solver. See the module's head.
#[derive(Debug, Clone, Copy, Default)]
pub struct BestFit;

impl Solver for BestFit {
    fn name(&self) -> &'static str {
        "best_fit"
    }

    fn solve(&self, task: &Task<'_>, _executor: &dyn Executor) -> Result<Outcome, SolveError> {
        check(task)?;
        Ok(with_dimensions!(task.model, run(task)))
    }
}

fn run<const D: usize>(task: &Task<'_>) -> Outcome {
    let problem = Problem::<D>::new(task.model, task.initial, task.pinned);
    let mut state = State::new(&problem, task.initial);
    let size = |p: usize| -> f64 { problem.add[p].iter().map(|x| x.abs()).sum() };
    let mut order: Vec<usize> = problem.movable.iter().map(|&p| p as usize).collect();
    order.sort_by(|&p, &q| size(q).total_cmp(&size(p)).then(p.cmp(&q)));
    let (mut looks, mut accepted, mut idle) = (0u64, 0, 0);
    while idle < order.len() && !over(task, looks) {
        let p = order[(looks % order.len() as u64) as usize];
        looks += 1;
        idle += 1;
        let change = |b: &usize| shift_change(&state, p, *b);
        let best = (0..problem.machines)
            .map(|b| (change(&b), b))
            .min_by(|x, y| x.0.total_cmp(&y.0))
            .filter(|(change, _)| *change < 0.0);
        if let Some((_, b)) = best {
            state.shift(p, b);
            accepted += 1;
            idle = 0;
        }
    }
    let iterations = Iterations::total_of(looks);
    outcome(task, state.at, iterations, (looks * problem.machines as u64, accepted))
}

fn over(task: &Task<'_>, looks: u64) -> bool {
    match &task.budget {
        Budget::Time(deadline) => looks.is_multiple_of(LOOK_EVERY) && deadline.used() >= 1.0,
        Budget::Iterations(iterations) => looks >= iterations.total(),
    }
}
