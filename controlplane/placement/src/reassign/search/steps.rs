//! The steps of the walk: shift, swap, and ejection. Each is evaluated in O(dimensions), and done when
//! it costs no more than a limit. A step that a hard constraint forbids is not done.

use super::state::State;

/// What a step may cost, and what double occupancy costs beyond the model's own terms.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Done if the change is at most this.
    pub limit: f64,
    /// Price of a unit of weighted double occupancy.
    pub price: f64,
}

/// Moves `p` to machine `b`, another than its own.
#[inline]
pub fn shift<const D: usize>(s: &mut State<'_, D>, p: usize, b: usize, terms: Terms) -> bool {
    let a = s.at[p] as usize;
    if !s.has_room(b, p) {
        return false;
    }
    let mut delta = s.cost_with(b, p) - s.machine_cost[b] + s.cost_without(a, p)
        - s.machine_cost[a]
        + terms.price * s.occupancy_change(p, a, b);
    if delta > terms.limit {
        return false;
    }
    delta += s.move_cost(p, b) - s.move_cost(p, a) + s.service_change(p, b);
    if delta > terms.limit || !s.may_shift(p, b) {
        return false;
    }
    s.shift(p, b);
    true
}

/// Lets `p` and `q`, on different machines, change places. The service that moved most is not
/// looked at: the sum is exact, the decision may be off by that small term.
#[inline]
pub fn swap<const D: usize>(s: &mut State<'_, D>, p: usize, q: usize, terms: Terms) -> bool {
    let (a, b) = (s.at[p] as usize, s.at[q] as usize);
    if !s.has_room_without(a, p, q) || !s.has_room_without(b, q, p) {
        return false;
    }
    let mut delta = s.cost_exchanged(b, q, p) - s.machine_cost[b] + s.cost_exchanged(a, p, q)
        - s.machine_cost[a];
    delta += terms.price * (s.occupancy_change(p, a, b) + s.occupancy_change(q, b, a));
    if delta > terms.limit {
        return false;
    }
    delta += s.move_cost(p, b) - s.move_cost(p, a) + s.move_cost(q, a) - s.move_cost(q, b);
    if delta > terms.limit || !s.may_swap(p, q) {
        return false;
    }
    s.swap(p, q);
    true
}

/// Moves `p` to machine `b` and `e`, which is there, to a third machine `c`. With `c` its home this
/// is the step that hands room for immigrants from one process to a better one, which neither a
/// shift nor a swap can do once the room is full.
#[inline]
pub fn eject<const D: usize>(
    s: &mut State<'_, D>,
    p: usize,
    e: usize,
    c: usize,
    terms: Terms,
) -> bool {
    let (a, b) = (s.at[p] as usize, s.at[e] as usize);
    if a == b || a == c || b == c || !s.has_room_without(b, e, p) || !s.has_room(c, e) {
        return false;
    }
    let mut delta =
        s.cost_exchanged(b, e, p) - s.machine_cost[b] + s.cost_without(a, p) - s.machine_cost[a];
    delta += terms.price * (s.occupancy_change(p, a, b) + s.occupancy_change(e, b, c));
    // What `c` adds is not negative, but for what balance gains.
    delta += s.move_cost(p, b) - s.move_cost(p, a) + s.move_cost(e, c) - s.move_cost(e, b);
    if delta > terms.limit {
        return false;
    }
    delta += s.cost_with(c, e) - s.machine_cost[c];
    if delta > terms.limit || !s.may_shift(e, c) {
        return false;
    }
    s.shift(e, c);
    if s.may_shift(p, b) {
        s.shift(p, b);
        return true;
    }
    s.shift(e, b);
    false
}

/// What moving `p` to machine `b` would cost, or infinity where it is not allowed or already there.
pub fn shift_change<const D: usize>(s: &State<'_, D>, p: usize, b: usize) -> f64 {
    let a = s.at[p] as usize;
    if a == b || !s.has_room(b, p) {
        return f64::INFINITY;
    }
    let delta = s.cost_with(b, p) - s.machine_cost[b] + s.cost_without(a, p) - s.machine_cost[a]
        + s.move_cost(p, b)
        - s.move_cost(p, a)
        + s.service_change(p, b);
    if delta.is_finite() && s.may_shift(p, b) { delta } else { f64::INFINITY }
}
