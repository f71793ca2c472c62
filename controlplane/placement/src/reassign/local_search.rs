//! `local_search`: two annealing walks that meet.
//!
//! Two walkers, always two whatever the number of threads, walk level by level. Between levels the
//! walker that is clearly behind goes on from where the other is. The levels' step counts are all that
//! time decides, so a run is repeated by its list of counts.

use super::search::anneal::{Character, LEVELS, LogTable, Walk};
use super::search::problem::Problem;
use super::search::state::State;
use super::search::steps::shift_change;
use super::search::with_dimensions;
use super::solver::{
    Budget, Executor, Iterations, Outcome, SolveError, Solver, Task, check, outcome,
};

/// Sweeps of the last descent.
const POLISH_PASSES: usize = 4;
/// With more machines only the way home is looked at: a sweep is to take milliseconds.
const POLISH_MACHINES_MAX: usize = 200;
/// Share of the time that the walks may use; the rest is for the last descent.
const WALK_SHARE: f64 = 0.985;
/// Walkers of every run.
const WALKERS: usize = 2;
/// They meet every so many levels.
const MEET_EVERY: usize = 8;
/// Steps of the first level when time decides: enough to time, short enough not to matter.
const FIRST_STEPS: u64 = 4_096;
/// No level is longer: hours at any speed.
const LEVEL_STEPS_MAX: u64 = 1 << 38;
/// Step counts are multiples of this, so that lists stay short.
const STEPS_UNIT: u64 = 1_024;
const CHARACTERS: [Character; WALKERS] =
    [Character { price: 0.7, warmth: 1.0 }, Character { price: 0.55, warmth: 1.0 }];

/// The solver. See the module's head.
#[derive(Debug, Clone, Copy)]
pub struct LocalSearch {
    /// What differs between the walkers.
    pub characters: [Character; WALKERS],
}

impl LocalSearch {
    /// The tuned solver.
    pub const DEFAULT: Self = Self { characters: CHARACTERS };
}

impl Default for LocalSearch {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Solver for LocalSearch {
    fn name(&self) -> &'static str {
        "local_search"
    }

    fn solve(&self, task: &Task<'_>, executor: &dyn Executor) -> Result<Outcome, SolveError> {
        check(task)?;
        Ok(with_dimensions!(task.model, run(self, task, executor)))
    }
}

fn run<const D: usize>(solver: &LocalSearch, task: &Task<'_>, executor: &dyn Executor) -> Outcome {
    let problem = Problem::<D>::new(task.model, task.initial, task.pinned);
    let log = LogTable::new();
    let start = State::new(&problem, task.initial);
    let mut walks: Vec<Walk<'_, D>> = solver
        .characters
        .iter()
        .enumerate()
        .map(|(i, &character)| {
            Walk::new(
                start.clone(),
                &log,
                task.seed.wrapping_mul(2).wrapping_add(i as u64),
                character,
            )
        })
        .collect();
    let mut pace = Pace::new(&task.budget);
    let mut done = Iterations::default();
    for level in 0..LEVELS {
        let steps = pace.steps(level);
        if matches!(task.budget, Budget::Time(_)) && steps == 0 {
            break;
        }
        done.push(steps);
        let jobs = walks.iter_mut().map(|walk| {
            Box::new(move || walk.level(level, steps)) as Box<dyn FnOnce() + Send + '_>
        });
        executor.run(jobs.collect());
        if level % MEET_EVERY == MEET_EVERY - 1 {
            meet(&mut walks, level);
        }
    }
    let total = done.total() * WALKERS as u64;
    let iterations = match &task.budget {
        Budget::Time(_) => done,
        Budget::Iterations(given) => given.clone(),
    };
    let accepted = walks.iter().map(|walk| walk.accepted).sum();
    let best = walks.iter().map(Walk::best).min_by(|a, b| a.0.total_cmp(&b.0));
    let found = best.map_or_else(|| task.initial.to_vec(), |(_, best)| best.to_vec());
    let found = polish(State::new(&problem, &found));
    outcome(task, found, iterations, (total, accepted))
}

/// Descends by single moves of what is away from home: first home, then anywhere that is cheaper.
fn polish<const D: usize>(mut state: State<'_, D>) -> Vec<u32> {
    let home = &state.problem.home;
    let machines = state.problem.machines;
    for pass in 0..POLISH_PASSES {
        let mut fell = false;
        // A pinned process is at home and stays there.
        for (p, &own) in home.iter().enumerate() {
            let own = own as usize;
            if state.at[p] as usize == own {
                continue;
            }
            let anywhere = pass > 0 && machines <= POLISH_MACHINES_MAX;
            let targets = if anywhere { 0..machines } else { own..own + 1 };
            let changes = targets.map(|b| (shift_change(&state, p, b), b));
            if let Some((change, b)) = changes.min_by(|x, y| x.0.total_cmp(&y.0))
                && change < 0.0
            {
                state.shift(p, b);
                fell = true;
            }
        }
        if pass > 0 && !fell {
            break;
        }
    }
    state.at
}

/// The walker behind goes where the other is.
fn meet<const D: usize>(walks: &mut [Walk<'_, D>], level: usize) {
    let [first, second] = walks else { return };
    if level < LEVELS / 4 {
        return;
    }
    let (a, b) = (first.energy(level), second.energy(level));
    if a < b {
        second.join(&first.state);
    } else {
        first.join(&second.state);
    }
}

/// Decides the step count of each level.
struct Pace<'a> {
    budget: &'a Budget<'a>,
    steps: u64,
    used: f64,
    /// Share of the time per step and the latest count it was measured on.
    per_step: f64,
}

impl<'a> Pace<'a> {
    fn new(budget: &'a Budget<'a>) -> Self {
        let used = match budget {
            Budget::Time(deadline) => deadline.used() / WALK_SHARE,
            Budget::Iterations(_) => 0.0,
        };
        Self { budget, steps: 0, used, per_step: 0.0 }
    }

    fn steps(&mut self, level: usize) -> u64 {
        let deadline = match self.budget {
            Budget::Iterations(iterations) => return iterations.portion(level, LEVELS),
            Budget::Time(deadline) => deadline,
        };
        let now = deadline.used() / WALK_SHARE;
        if now >= 1.0 {
            return 0;
        }
        if level == 0 {
            self.steps = FIRST_STEPS;
            return self.steps;
        }
        let latest = (now - self.used) / self.steps as f64;
        // The latest level counts most, but one slow level does not change the whole plan.
        self.per_step =
            if self.per_step > 0.0 { 0.7 * self.per_step + 0.3 * latest } else { latest };
        self.used = now;
        let wanted = (1.0 - now) / (LEVELS - level) as f64 / self.per_step.max(1e-12);
        let off = wanted / self.steps as f64;
        let last = level + 8 >= LEVELS;
        if level < 8 || level.is_multiple_of(16) || last || !(0.85..=1.18).contains(&off) {
            // A level never grows more than tenfold, whatever the clock says.
            let grown = (wanted as u64).min(self.steps.saturating_mul(10)).min(LEVEL_STEPS_MAX);
            self.steps = (grown / STEPS_UNIT).max(1) * STEPS_UNIT;
        }
        self.steps
    }
}
