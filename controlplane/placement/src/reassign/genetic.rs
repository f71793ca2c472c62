//! `genetic`: two islands of assignments. A child takes one parent's assignment, then the other's
//! machine for a share of the processes wherever that is allowed, then descends by random steps; it
//! replaces the worst of its island if it is better. An iteration is one child on each island.

use super::search::problem::Problem;
use super::search::state::State;
use super::search::steps::{Terms, eject, shift, swap};
use super::search::with_dimensions;
use super::solver::{
    Budget, Executor, Iterations, Outcome, SolveError, Solver, Task, check, outcome,
};
use crate::Rng;

/// Islands of every run.
const ISLANDS: usize = 2;
/// Assignments of an island.
const POPULATION: usize = 8;
/// Children between two looks at the clock; then the islands' best change places.
const GENERATION: u64 = 4;
/// Random steps of a child's descent, per process.
const DESCENT_PER_PROCESS: u64 = 40;

/// The solver. See the module's head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Genetic;

impl Solver for Genetic {
    fn name(&self) -> &'static str {
        "genetic"
    }

    fn solve(&self, task: &Task<'_>, executor: &dyn Executor) -> Result<Outcome, SolveError> {
        check(task)?;
        Ok(with_dimensions!(task.model, run(task, executor)))
    }
}

fn run<const D: usize>(task: &Task<'_>, executor: &dyn Executor) -> Outcome {
    let problem = Problem::<D>::new(task.model, task.initial, task.pinned);
    let start = State::new(&problem, task.initial);
    let mut islands: Vec<Island<'_, D>> = (0..ISLANDS as u64)
        .map(|i| Island::new(&start, task.seed.wrapping_mul(2).wrapping_add(i)))
        .collect();
    let mut children = 0;
    while let Some(count) = next(task, children) {
        let jobs = islands
            .iter_mut()
            .map(|island| Box::new(move || island.breed(count)) as Box<dyn FnOnce() + Send + '_>);
        executor.run(jobs.collect());
        children += count;
        if let [first, second] = &mut islands[..] {
            let (a, b) = (first.best().clone(), second.best().clone());
            first.take(b);
            second.take(a);
        }
    }
    let steps = islands.iter().map(|island| island.steps).sum();
    let accepted = islands.iter().map(|island| island.accepted).sum();
    let best = islands.iter().map(Island::best).min_by(|a, b| a.cost.total_cmp(&b.cost));
    let found = best.map_or_else(|| task.initial.to_vec(), |best| best.at.clone());
    outcome(task, found, Iterations::total_of(children), (steps, accepted))
}

/// How many children are due.
fn next(task: &Task<'_>, children: u64) -> Option<u64> {
    match &task.budget {
        Budget::Time(deadline) => (deadline.used() < 1.0).then_some(GENERATION),
        Budget::Iterations(iterations) => {
            let left = iterations.total().saturating_sub(children);
            (left > 0).then_some(left.min(GENERATION))
        }
    }
}

struct Island<'a, const D: usize> {
    people: Vec<State<'a, D>>,
    rng: Rng,
    steps: u64,
    accepted: u64,
}

impl<'a, const D: usize> Island<'a, D> {
    fn new(start: &State<'a, D>, seed: u64) -> Self {
        Self { people: vec![start.clone()], rng: Rng::new(seed), steps: 0, accepted: 0 }
    }

    fn breed(&mut self, count: u64) {
        for _ in 0..count {
            let child = self.child();
            self.take(child);
        }
    }

    fn child(&mut self) -> State<'a, D> {
        let first = self.rng.below(self.people.len());
        let second = self.rng.below(self.people.len());
        let mut child = self.people[first].clone();
        let processes = child.at.len();
        let anything = Terms { limit: f64::MAX, price: 0.0 };
        for p in 0..processes {
            let b = self.people[second].at[p] as usize;
            if self.rng.next_u64() & 1 == 0 && child.at[p] as usize != b {
                shift(&mut child, p, b, anything);
            }
        }
        self.descend(&mut child);
        child
    }

    fn descend(&mut self, child: &mut State<'a, D>) {
        let (movable, machines) = (&child.problem.movable, child.problem.machines);
        let processes = movable.len();
        if processes == 0 || machines < 2 {
            return;
        }
        let down = Terms { limit: 0.0, price: 0.0 };
        let steps = DESCENT_PER_PROCESS * processes as u64;
        for _ in 0..steps {
            let p = movable[self.rng.below(processes)] as usize;
            let a = child.at[p] as usize;
            let done = match self.rng.next_u64() & 3 {
                0 | 1 => {
                    let b = self.rng.below(machines);
                    a != b && shift(child, p, b, down)
                }
                2 => {
                    let q = movable[self.rng.below(processes)] as usize;
                    child.at[q] as usize != a && swap(child, p, q, down)
                }
                _ => {
                    let guests = child.guests(self.rng.below(machines));
                    let guest = guests.get(self.rng.below(guests.len())).map(|&e| e as usize);
                    guest.is_some_and(|e| {
                        let home = child.problem.home[e] as usize;
                        eject(child, p, e, home, down)
                    })
                }
            };
            self.accepted += u64::from(done);
        }
        self.steps += steps;
    }

    fn take(&mut self, newcomer: State<'a, D>) {
        if self.people.iter().any(|one| one.cost == newcomer.cost && one.at == newcomer.at) {
            return;
        }
        if self.people.len() < POPULATION {
            self.people.push(newcomer);
            return;
        }
        let worst = (0..POPULATION)
            .max_by(|&i, &j| self.people[i].cost.total_cmp(&self.people[j].cost))
            .unwrap_or(0);
        if newcomer.cost < self.people[worst].cost {
            self.people[worst] = newcomer;
        }
    }

    fn best(&self) -> &State<'a, D> {
        let mut best = &self.people[0];
        for one in &self.people[1..] {
            if one.cost < best.cost {
                best = one;
            }
        }
        best
    }
}
