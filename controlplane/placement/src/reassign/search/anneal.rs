//! Simulated annealing with a price on double occupancy.

use super::state::State;
use crate::Rng;

/// One stretch of annealing.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// Steps.
    pub steps: u64,
    /// Temperature, in cost units.
    pub temperature: f64,
    /// Price of a unit of weighted double occupancy.
    pub price: f64,
    /// Share of swaps among the steps, of 256.
    pub swaps: u64,
}

/// -ln of evenly spaced numbers in (0, 1).
pub struct LogTable([f64; 4096]);

impl LogTable {
    /// Computes the table.
    pub fn new() -> Self {
        let mut t = [0.0; 4096];
        for (i, x) in t.iter_mut().enumerate() {
            *x = -((i as f64 + 0.5) / 4096.0).ln();
        }
        Self(t)
    }
}

/// Walks.
pub fn anneal<const D: usize>(
    state: &mut State<'_, D>,
    rng: &mut Rng,
    log: &LogTable,
    stretch: Stretch,
    best: &mut (f64, Vec<u32>),
) {
    let (machines, processes) = (state.problem.machines, state.problem.processes);
    for _ in 0..stretch.steps {
        let bits = rng.next_u64();
        let p = (((bits >> 32) * processes as u64) >> 32) as usize;
        let a = state.at[p] as usize;
        let limit = stretch.temperature * log.0[(bits & 4095) as usize];
        if (bits >> 12) & 255 >= stretch.swaps {
            let b = (((bits & 0xffff_ffff) * machines as u64) >> 32) as usize;
            let b = if (bits >> 20) & 63 < 4 { state.problem.home[p] as usize } else { b };
            if a != b {
                shift(state, p, b, limit, stretch.price);
            }
        } else {
            let q = rng.below(processes);
            if state.at[q] as usize != a {
                swap(state, p, q, limit, stretch.price);
            }
        }
        if state.cost < best.0 {
            best.0 = state.cost;
            // copied lazily by caller
        }
    }
}

#[inline]
fn shift<const D: usize>(state: &mut State<'_, D>, p: usize, b: usize, limit: f64, price: f64) {
    let a = state.at[p] as usize;
    if !state.has_room(b, p) {
        return;
    }
    let mut delta = state.cost_with(b, p) - state.machine_cost[b];
    delta += state.cost_without(a, p) - state.machine_cost[a];
    let home = state.problem.home[p] as usize;
    delta += state.problem.occupancy[p]
        * price
        * (f64::from(u8::from(b != home)) - f64::from(u8::from(a != home)));
    if delta > limit {
        return;
    }
    delta += state.move_cost(p, b) - state.move_cost(p, a) + state.service_change(p, b);
    if delta <= limit && state.may_shift(p, b) {
        state.shift(p, b);
    }
}

#[inline]
fn swap<const D: usize>(state: &mut State<'_, D>, p: usize, q: usize, limit: f64, price: f64) {
    let (a, b) = (state.at[p] as usize, state.at[q] as usize);
    if !state.has_room_without(a, p, q) || !state.has_room_without(b, q, p) {
        return;
    }
    let mut delta = state.cost_exchanged(b, q, p) - state.machine_cost[b];
    delta += state.cost_exchanged(a, p, q) - state.machine_cost[a];
    let pr = state.problem;
    let away = |p: usize, m: usize| f64::from(u8::from(pr.home[p] as usize != m));
    delta += price
        * (pr.occupancy[p] * (away(p, b) - away(p, a)) + pr.occupancy[q] * (away(q, a) - away(q, b)));
    if delta > limit {
        return;
    }
    delta += state.move_cost(p, b) - state.move_cost(p, a) + state.move_cost(q, a)
        - state.move_cost(q, b);
    if delta <= limit && state.may_swap(p, q) {
        state.swap(p, q);
    }
}
