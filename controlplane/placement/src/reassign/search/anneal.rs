//! Simulated annealing with a falling price on double occupancy.
//!
//! A transient resource that a process leaves stays occupied, so the room for immigrants of a machine
//! never grows: it is a budget, and a warm walk spends all of it on moves that gain next to nothing.
//! Plain annealing therefore freezes early on such instances. Here every unit of room has a price that
//! falls from about half the worth of a unit of load to nothing, so that the moves which gain most per
//! unit of room come first; ejections replace a guest by a better one once the room is full.

use super::state::State;
use super::steps::{Terms, eject, shift, swap};
use crate::Rng;

/// Levels of one walk: temperature and price are constant within a level.
pub const LEVELS: usize = 256;
/// Share of levels during which temperature falls from the start to `MIDDLE` of it.
const SLOW: f64 = 0.92;
/// Temperature at the end of the slow part, as a share of the start's.
const MIDDLE: f64 = 1e-4;
/// From here on double occupancy has no price.
const PRICE_END: f64 = 0.95;
/// Temperature at the start, as a share of the mean process size.
const START: f64 = 0.18;
/// Temperature at the end: a tenth of what moving a process typically costs.
const END: f64 = 0.1;
/// Steps of each kind, of 256: ejections to the guest's home, to anywhere, and swaps. Shifts take
/// the rest; a sixteenth of them goes home.
const EJECTIONS: u64 = 60;
const EJECTIONS_ANY: u64 = 70;
const SWAPS: u64 = 60;

/// Instances of at most so many processes get a warmer start: there is time for it, and their large
/// processes bind each other more.
const SMALL: usize = 2_000;
/// By this factor.
const SMALL_WARMTH: f64 = 5.0;

/// What differs between two walkers.
#[derive(Debug, Clone, Copy)]
pub struct Character {
    /// Price of double occupancy at the start, per unit of weighted load.
    pub price: f64,
    /// Factor on the temperature at the start.
    pub warmth: f64,
}

/// -ln of evenly spaced numbers in (0, 1): a drawn entry times the temperature is what a step may
/// cost, which is the Metropolis rule with the draw made first.
#[derive(Debug)]
pub struct LogTable([f64; 4096]);

impl LogTable {
    /// Computes the table.
    #[must_use]
    pub fn new() -> Self {
        Self(std::array::from_fn(|i| -((i as f64 + 0.5) / 4096.0).ln()))
    }
}

/// One walk through an instance.
#[derive(Debug)]
pub struct Walk<'a, const D: usize> {
    /// Where it is.
    pub state: State<'a, D>,
    rng: Rng,
    log: &'a LogTable,
    character: Character,
    start: f64,
    end: f64,
    best_cost: f64,
    best: Vec<u32>,
    /// Steps done, for statistics.
    pub accepted: u64,
}

impl<'a, const D: usize> Walk<'a, D> {
    /// A walk from a feasible state.
    #[must_use]
    pub fn new(state: State<'a, D>, log: &'a LogTable, seed: u64, character: Character) -> Self {
        let problem = state.problem;
        let size: f64 = problem.add.iter().flatten().map(|x| x.abs()).sum();
        let processes = problem.processes.max(1) as f64;
        let distances: f64 = problem.distance.iter().sum();
        let moving = distances / problem.distance.len().max(1) as f64
            + problem.away.iter().sum::<f64>() / processes;
        let size_warmth = if problem.processes <= SMALL { SMALL_WARMTH } else { 1.0 };
        let start = START * character.warmth * size_warmth * size / processes;
        Self {
            rng: Rng::new(seed),
            log,
            character,
            start,
            end: (END * moving).max(0.1).min(start.max(0.1)),
            best_cost: state.cost,
            best: state.at.clone(),
            state,
            accepted: 0,
        }
    }

    /// Temperature and price of a level.
    fn terms(&self, level: usize) -> (f64, f64) {
        let f = level as f64 / (LEVELS - 1) as f64;
        let middle = (self.start * MIDDLE).max(self.end);
        let geometric = |from: f64, to: f64, share: f64| from * (to / from).powf(share);
        let temperature = if f < SLOW {
            geometric(self.start, middle, f / SLOW)
        } else {
            geometric(middle, self.end, (f - SLOW) / (1.0 - SLOW))
        };
        (temperature, self.character.price * (1.0 - f / PRICE_END).max(0.0))
    }

    /// Walks so many steps at a level.
    pub fn level(&mut self, level: usize, steps: u64) {
        let (temperature, price) = self.terms(level);
        if self.state.problem.machines < 2 || self.state.problem.movable.is_empty() {
            return;
        }
        for _ in 0..steps {
            self.accepted += u64::from(self.step(temperature, price));
        }
        if self.state.cost < self.best_cost {
            self.best_cost = self.state.cost;
            self.best.copy_from_slice(&self.state.at);
        }
    }

    #[inline]
    fn step(&mut self, temperature: f64, price: f64) -> bool {
        let problem = self.state.problem;
        let (machines, movable) = (problem.machines, &problem.movable[..]);
        let bits = self.rng.next_u64();
        let state = &mut self.state;
        // The upper half chooses the process, the rest the target, the kind and the limit.
        let p = movable[(((bits >> 32) * movable.len() as u64) >> 32) as usize] as usize;
        let b = ((((bits >> 8) & 0xff_ffff) * machines as u64) >> 24) as usize;
        let more = self.rng.next_u64();
        let terms = Terms { limit: temperature * self.log.0[(more & 4095) as usize], price };
        let a = state.at[p] as usize;
        let kind = (more >> 12) & 255;
        let draw = more >> 32;
        if kind < EJECTIONS_ANY {
            let guests = state.guests(b);
            if guests.is_empty() || a == b {
                return false;
            }
            let e = guests[((draw * guests.len() as u64) >> 32) as usize] as usize;
            let c = if kind < EJECTIONS {
                problem.home[e] as usize
            } else {
                (((bits & 0xff) * machines as u64) >> 8) as usize
            };
            eject(state, p, e, c, terms)
        } else if kind < EJECTIONS_ANY + SWAPS {
            let q = movable[((draw * movable.len() as u64) >> 32) as usize] as usize;
            state.at[q] as usize != a && swap(state, p, q, terms)
        } else {
            let b = if (more >> 20) & 15 == 0 { problem.home[p] as usize } else { b };
            a != b && shift(state, p, b, terms)
        }
    }

    /// What the walk minimises at a level: cost, and the price of the occupied room.
    #[must_use]
    pub fn energy(&self, level: usize) -> f64 {
        let problem = self.state.problem;
        let away = |p: &usize| self.state.at[*p] != problem.home[*p];
        let occupied: f64 = (0..problem.processes).filter(away).map(|p| problem.occupancy[p]).sum();
        self.state.cost + self.terms(level).1 * occupied
    }

    /// Goes to where another walk is.
    pub fn join(&mut self, other: &State<'a, D>) {
        self.state.clone_from(other);
    }

    /// Best cost and assignment seen at the end of a level.
    #[must_use]
    pub fn best(&self) -> (f64, &[u32]) {
        (self.best_cost, &self.best)
    }
}
