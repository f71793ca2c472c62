//! Puts moves in an order and a time.
//!
//! List scheduling: whenever something arrives, every waiting move that may start does, the one that
//! gains most first. When nothing flies and nothing may start, the moves that are left wait for each
//! other; then one of them takes a detour over a machine with room, which breaks the cycle. What even
//! that cannot free is dropped: the plan then ends in another state than was wished, still a sound one.

use super::ledger::Ledger;
use crate::reassign::{Model, ModelError, Violation, evaluate, violations};

/// Detours per move that is left, before moves are dropped.
const DETOURS_PER_MOVE: usize = 4;
/// A forecast outside of this range is taken as its nearest end.
const SECONDS: (f64, f64) = (0.001, 1e7);

/// How many migrations may run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Out of one machine.
    pub per_source: u32,
    /// Into one machine.
    pub per_target: u32,
    /// From one location to another; within one location there is no such limit.
    pub per_link: u32,
    /// In all.
    pub total: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_source: 1, per_target: 1, per_link: 4, total: 16 }
    }
}

/// Why a move is in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The source was above its safety capacity of this resource.
    Relieves(usize),
    /// Free amounts fit each other better afterwards.
    Balances,
    /// The move itself gains nothing; others that follow do.
    MakesRoom,
    /// A stop on the way, since moves waited for each other.
    Detour,
}

/// One live migration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Move {
    /// The process.
    pub process: u32,
    /// Source.
    pub from: u32,
    /// Target.
    pub to: u32,
    /// Start, in seconds after the plan begins.
    pub start_s: f64,
    /// Arrival as forecast.
    pub end_s: f64,
    /// Why.
    pub reason: Reason,
    /// Fall of load and balance cost if the move alone were done when it starts; below 0 for a rise.
    pub gain: i64,
    /// What moving costs in the model: process and machine distance, weighted.
    pub cost: i64,
}

/// Moves by start.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The moves.
    pub moves: Vec<Move>,
    /// Where everything is in the end.
    pub end: Vec<u32>,
    /// Processes that do not reach where they were wished.
    pub dropped: Vec<u32>,
    /// Cost of the wished assignment.
    pub wished_cost: i64,
    /// Cost of the end.
    pub end_cost: i64,
}

impl Plan {
    /// Seconds until the last arrival.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.moves.iter().map(|m| m.end_s).fold(0.0, f64::max)
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Model and assignments do not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The start is broken already.
    #[error("the present assignment breaks a hard constraint: {0}; repair it first")]
    Start(Violation),
    /// A limit of zero.
    #[error("a limit of zero allows no migration: set every limit to 1 or more")]
    Limits,
}

/// Orders the moves from one assignment to another. `seconds(process, from, to)` is the forecast.
///
/// # Errors
/// The assignments do not fit the model, the first breaks a hard constraint, or a limit is zero.
pub fn order(
    model: &Model,
    from: &[u32],
    wished: &[u32],
    limits: Limits,
    seconds: &dyn Fn(u32, u32, u32) -> f64,
) -> Result<Plan, PlanError> {
    model.check_assignment(from)?;
    model.check_assignment(wished)?;
    if let Some(&first) = violations(model, from, from).first() {
        return Err(PlanError::Start(first));
    }
    if [limits.per_source, limits.per_target, limits.per_link, limits.total].contains(&0) {
        return Err(PlanError::Limits);
    }
    let mut scheduler = Scheduler::new(model, from, wished, limits, seconds);
    scheduler.run();
    let Scheduler { ledger, waiting, moves, .. } = scheduler;
    let dropped = waiting.into_iter().filter(|&p| ledger.at[p as usize] != wished[p as usize]);
    let mut dropped: Vec<u32> = dropped.collect();
    dropped.sort_unstable();
    Ok(Plan {
        wished_cost: evaluate(model, from, wished).total(),
        end_cost: evaluate(model, from, &ledger.at).total(),
        end: ledger.at,
        moves,
        dropped,
    })
}

struct Scheduler<'a> {
    model: &'a Model,
    wished: &'a [u32],
    limits: Limits,
    seconds: &'a dyn Fn(u32, u32, u32) -> f64,
    ledger: Ledger<'a>,
    /// Processes that are not where they shall be and do not fly.
    waiting: Vec<u32>,
    /// (end, process) of flights.
    flights: Vec<(f64, u32)>,
    outgoing: Vec<u32>,
    incoming: Vec<u32>,
    moves: Vec<Move>,
    now_s: f64,
    detours_left: usize,
}

impl<'a> Scheduler<'a> {
    fn new(
        model: &'a Model,
        from: &[u32],
        wished: &'a [u32],
        limits: Limits,
        seconds: &'a dyn Fn(u32, u32, u32) -> f64,
    ) -> Self {
        let ledger = Ledger::new(model, from);
        let moving = (0..from.len()).filter(|&p| from[p] != wished[p]).map(|p| p as u32);
        let mut waiting: Vec<u32> = moving.collect();
        let gain = |&p: &u32| gain(&ledger, p as usize, wished[p as usize] as usize);
        waiting.sort_by_cached_key(|p| (-gain(p), *p));
        Self {
            detours_left: DETOURS_PER_MOVE * waiting.len(),
            outgoing: vec![0; model.machines()],
            incoming: vec![0; model.machines()],
            flights: Vec::new(),
            moves: Vec::new(),
            now_s: 0.0,
            model,
            wished,
            limits,
            seconds,
            ledger,
            waiting,
        }
    }

    fn run(&mut self) {
        loop {
            self.start_all();
            if !self.flights.is_empty() {
                self.arrive();
            } else if self.waiting.is_empty() || !self.detour() {
                return;
            }
        }
    }

    /// Starts all that may.
    fn start_all(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for p in waiting {
            let (process, to) = (p as usize, self.wished[p as usize] as usize);
            if self.slot_free(process, to) && self.ledger.may_start(process, to) {
                self.start(process, to, None);
            } else {
                self.waiting.push(p);
            }
        }
    }

    fn slot_free(&self, p: usize, b: usize) -> bool {
        let a = self.ledger.at[p] as usize;
        if self.flights.len() >= self.limits.total as usize
            || self.outgoing[a] >= self.limits.per_source
            || self.incoming[b] >= self.limits.per_target
        {
            return false;
        }
        let place = |m: usize| self.model.location[m];
        let link = (place(a), place(b));
        if link.0 == link.1 {
            return true;
        }
        let on_link = self.flights.iter().filter(|&&(_, q)| {
            let to = self.ledger.flying[q as usize].map(|m| place(m as usize));
            (Some(place(self.ledger.at[q as usize] as usize)), to) == (Some(link.0), Some(link.1))
        });
        on_link.count() < self.limits.per_link as usize
    }

    fn start(&mut self, p: usize, b: usize, reason: Option<Reason>) {
        let a = self.ledger.at[p] as usize;
        let gain = gain(&self.ledger, p, b);
        let why = || match self.ledger.tightest(a) {
            _ if gain <= 0 => Reason::MakesRoom,
            Some(resource) => Reason::Relieves(resource),
            None => Reason::Balances,
        };
        let reason = reason.unwrap_or_else(why);
        let (from, to) = (a as u32, b as u32);
        let forecast = (self.seconds)(p as u32, from, to);
        let seconds =
            if forecast.is_nan() { SECONDS.1 } else { forecast.clamp(SECONDS.0, SECONDS.1) };
        let weights = self.model.weights;
        let distance = self.model.machine_move[a * self.model.machines() + b];
        self.moves.push(Move {
            process: p as u32,
            from,
            to,
            start_s: self.now_s,
            end_s: self.now_s + seconds,
            reason,
            gain,
            cost: weights.process * self.model.process_move[p] + weights.machine * distance,
        });
        self.ledger.start(p, b);
        self.outgoing[a] += 1;
        self.incoming[b] += 1;
        self.flights.push((self.now_s + seconds, p as u32));
    }

    /// The next arrival, and all at the same time.
    fn arrive(&mut self) {
        let next = self.flights.iter().map(|&(end, _)| end).fold(f64::INFINITY, f64::min);
        self.now_s = next;
        let (landed, flying): (Vec<_>, Vec<_>) =
            self.flights.iter().partition(|&&(end, _)| end <= next);
        self.flights = flying;
        for (_, p) in landed {
            let p = p as usize;
            let from = self.ledger.at[p] as usize;
            self.ledger.arrive(p);
            let to = self.ledger.at[p] as usize;
            self.outgoing[from] -= 1;
            self.incoming[to] -= 1;
            if to != self.wished[p] as usize {
                self.waiting.push(p as u32);
            }
        }
    }

    /// Sends one waiting process somewhere else for a while: one whose leaving lets another start, if
    /// there is one.
    fn detour(&mut self) -> bool {
        if self.detours_left == 0 {
            return false;
        }
        self.detours_left -= 1;
        let mut any: Option<(usize, usize)> = None;
        for at in 0..self.waiting.len() {
            let p = self.waiting[at] as usize;
            let Some(stop) = self.stop_for(p) else { continue };
            if self.unblocks(p) {
                return self.go(at, stop);
            }
            any = any.or(Some((at, stop)));
        }
        any.is_some_and(|(at, stop)| self.go(at, stop))
    }

    fn go(&mut self, at: usize, stop: usize) -> bool {
        let p = self.waiting.remove(at) as usize;
        self.start(p, stop, Some(Reason::Detour));
        true
    }

    /// The machine that suffers least from a process staying there for a while.
    fn stop_for(&self, p: usize) -> Option<usize> {
        let stops = (0..self.model.machines()).filter(|&m| self.ledger.may_start(p, m));
        stops.min_by_key(|&m| self.ledger.machine_cost(m, p, 1) - self.ledger.machine_cost(m, p, 0))
    }

    /// Does another waiting process want to go where this one is?
    fn unblocks(&self, p: usize) -> bool {
        let here = self.ledger.at[p];
        self.waiting.iter().any(|&q| q as usize != p && self.wished[q as usize] == here)
    }
}

/// Fall of load and balance cost if a process went to a machine now.
fn gain(ledger: &Ledger<'_>, p: usize, b: usize) -> i64 {
    let a = ledger.at[p] as usize;
    ledger.machine_cost(a, p, 0) - ledger.machine_cost(a, p, -1) + ledger.machine_cost(b, p, 0)
        - ledger.machine_cost(b, p, 1)
}
