//! What all solvers of the reassignment model share: the task, its budget, and the answer.

use std::fmt;
use std::str::FromStr;

use super::cost::{Cost, Violation, evaluate, violations};
use super::error::ModelError;
use super::model::{Assignment, Model};

/// Says how much of the allowed time has passed. The caller owns the clock.
pub trait Deadline: Sync {
    /// Share of the allowed time that has passed: 0 at the start, 1 or more when it is over. Never
    /// falls.
    fn used(&self) -> f64;
}

/// Runs pieces of work, side by side if it can; the answer is the same either way.
pub trait Executor: Sync {
    /// Runs all jobs and returns when all are done.
    fn run(&self, jobs: Vec<Box<dyn FnOnce() + Send + '_>>);
}

/// Runs jobs one after the other on the caller's thread.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl Executor for Inline {
    fn run(&self, jobs: Vec<Box<dyn FnOnce() + Send + '_>>) {
        jobs.into_iter().for_each(|job| job());
    }
}

/// How long a solver searches.
#[derive(Clone)]
pub enum Budget<'a> {
    /// Until the time is over. The outcome's [`Iterations`] repeat the run.
    Time(&'a dyn Deadline),
    /// Exactly so much.
    Iterations(Iterations),
}

impl fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(deadline) => write!(f, "Time({} used)", deadline.used()),
            Self::Iterations(iterations) => write!(f, "Iterations({iterations})"),
        }
    }
}

/// Iterations of a run in parts, each a number of equal portions. As text: `1000` (evenly over the
/// whole run), or `40960x16,36864x240` (16 portions of 40960, then 240 of 36864).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Iterations {
    /// (iterations of a portion, number of portions)
    parts: Vec<(u64, u32)>,
}

impl Iterations {
    /// So many in all.
    #[must_use]
    pub fn total_of(total: u64) -> Self {
        Self { parts: vec![(total, 0)] }
    }

    /// Adds a portion.
    pub fn push(&mut self, iterations: u64) {
        match self.parts.last_mut() {
            Some((last, count)) if *last == iterations && *count > 0 => *count += 1,
            _ => self.parts.push((iterations, 1)),
        }
    }

    /// The sum.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().fold(0u64, |sum, &(each, count)| {
            sum.saturating_add(each.saturating_mul(u64::from(count.max(1))))
        })
    }

    /// The size of portion `at` of `count`; portions past the listed ones are empty.
    #[must_use]
    pub fn portion(&self, at: usize, count: usize) -> u64 {
        if let [(total, 0)] = self.parts[..] {
            let (at, count) = (at as u128, count as u128);
            let upto = |n: u128| u128::from(total) * n / count;
            return (upto(at + 1) - upto(at)) as u64;
        }
        let mut left = at as u64;
        for &(each, count) in &self.parts {
            if left < u64::from(count) {
                return each;
            }
            left -= u64::from(count);
        }
        0
    }
}

impl fmt::Display for Iterations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() {
            return f.write_str("0");
        }
        for (at, (each, count)) in self.parts.iter().enumerate() {
            let gap = if at == 0 { "" } else { "," };
            match count {
                0 => write!(f, "{gap}{each}")?,
                count => write!(f, "{gap}{each}x{count}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Iterations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a count nor a list such as 4096x16,2048x240");
        if let Ok(total) = text.parse() {
            return Ok(Self::total_of(total));
        }
        let part = |part: &str| {
            let (each, count) = part.split_once('x')?;
            let count: u32 = count.parse().ok()?;
            (count > 0).then_some((each.parse().ok()?, count))
        };
        let parts: Option<Vec<(u64, u32)>> = text.split(',').map(part).collect();
        parts.map(|parts| Self { parts }).ok_or_else(wrong)
    }
}

/// One thing to solve.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// A checked model.
    pub model: &'a Model,
    /// Where everything is now.
    pub initial: &'a [u32],
    /// Processes that stay where they are, ascending.
    pub pinned: &'a [u32],
    /// Every random choice follows from it.
    pub seed: u64,
    /// How long to search.
    pub budget: Budget<'a>,
}

/// A feasible assignment that costs no more than the initial one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Machine of each process.
    pub assignment: Assignment,
    /// Its exact cost.
    pub cost: Cost,
    /// What repeats the run with the same seed.
    pub iterations: Iterations,
    /// Steps looked at.
    pub steps: u64,
    /// Steps done.
    pub accepted: u64,
}

/// Why there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SolveError {
    /// Model and assignment do not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Nothing can be moved safely from a state that is broken already.
    #[error(
        "the initial assignment breaks {count} hard constraints, first: {first}; repair it first"
    )]
    Infeasible {
        /// How many.
        count: usize,
        /// The first.
        first: Violation,
    },
}

/// A way to solve the reassignment model.
pub trait Solver: Sync {
    /// Its name on the command line and in tables.
    fn name(&self) -> &'static str;

    /// Searches within the budget. A budget of nothing gives the initial assignment back.
    ///
    /// # Errors
    /// The assignment does not fit the model or breaks a hard constraint from the start.
    fn solve(&self, task: &Task<'_>, executor: &dyn Executor) -> Result<Outcome, SolveError>;
}

/// Refuses what no solver can work on.
pub(super) fn check(task: &Task<'_>) -> Result<(), SolveError> {
    task.model.check_assignment(task.initial)?;
    let found = violations(task.model, task.initial, task.initial);
    match found.first() {
        None => Ok(()),
        Some(&first) => Err(SolveError::Infeasible { count: found.len(), first }),
    }
}

/// The better of an assignment and staying where everything is. An assignment that breaks a hard
/// constraint (which would be our own fault) is never handed out.
pub(super) fn outcome(
    task: &Task<'_>,
    found: Assignment,
    iterations: Iterations,
    (steps, accepted): (u64, u64),
) -> Outcome {
    let stay = evaluate(task.model, task.initial, task.initial);
    let cost = evaluate(task.model, task.initial, &found);
    let sound = violations(task.model, task.initial, &found).is_empty();
    debug_assert!(sound, "a solver left the feasible region");
    let sound =
        sound && task.pinned.iter().all(|&p| found.get(p as usize) == task.initial.get(p as usize));
    let better = sound && cost.total() <= stay.total();
    let (assignment, cost) = if better { (found, cost) } else { (task.initial.to_vec(), stay) };
    Outcome { assignment, cost, iterations, steps, accepted }
}
