//! One assignment with everything that makes a step cheap: O(dimensions) per evaluated step.

use super::problem::{NONE, Problem};

/// A feasible assignment and its sums.
#[derive(Debug, Clone)]
pub struct State<'a, const D: usize> {
    /// The instance.
    pub problem: &'a Problem<D>,
    /// Machine, by process.
    pub at: Vec<u32>,
    /// Values, by machine.
    pub value: Vec<[f64; D]>,
    /// Cost of those values, by machine.
    pub machine_cost: Vec<f64>,
    /// Room left for immigrants, by machine and transient resource.
    pub room: Vec<f64>,
    /// Exact total cost.
    pub cost: f64,
    /// One bit per service and machine.
    on: Vec<u64>,
    words: usize,
    location_count: Vec<u32>,
    distinct: Vec<u32>,
    neighbourhood_count: Vec<u32>,
    moved: Vec<u32>,
    /// How many services have so many moved processes.
    moved_count: Vec<u32>,
    moved_max: u32,
    /// Processes that are not at home, by machine.
    guests: Vec<Vec<u32>>,
    slot: Vec<u32>,
}

/// Cost of a machine's values.
#[inline]
#[must_use]
pub fn cost_of<const D: usize>(value: &[f64; D]) -> f64 {
    value.iter().map(|&v| if v > 0.0 { v } else { 0.0 }).sum()
}

impl<'a, const D: usize> State<'a, D> {
    /// The state of an assignment, which must be feasible.
    #[must_use]
    pub fn new(problem: &'a Problem<D>, assignment: &[u32]) -> Self {
        let words = problem.machines.div_ceil(64);
        let services = problem.rules.len();
        let most = problem.members.iter().map(Vec::len).max().unwrap_or(0);
        let mut state = Self {
            problem,
            at: assignment.to_vec(),
            value: problem.empty.clone(),
            machine_cost: Vec::new(),
            room: problem.room.clone(),
            cost: 0.0,
            on: vec![0; services * words],
            words,
            location_count: vec![0; problem.spread_rows * problem.locations],
            distinct: vec![0; problem.spread_rows],
            neighbourhood_count: vec![0; problem.dependency_rows * problem.neighbourhoods],
            moved: vec![0; services],
            moved_count: vec![0; most + 2],
            moved_max: 0,
            guests: vec![Vec::new(); problem.machines],
            slot: vec![0; problem.processes],
        };
        state.moved_count[0] = services as u32;
        for (p, &m) in assignment.iter().enumerate() {
            let home = problem.home[p];
            for i in 0..D {
                state.value[m as usize][i] += problem.add[p][i];
            }
            if m != home {
                state.take_room(p, m as usize, 1.0);
                state.count_moved(p, true);
                state.cost += problem.away[p];
            }
            state.cost += state.distance(p, m as usize);
            state.enter(p, m as usize);
        }
        state.machine_cost = state.value.iter().map(cost_of).collect();
        state.cost += state.machine_cost.iter().sum::<f64>();
        state.cost += problem.service_weight * f64::from(state.moved_max);
        state
    }

    /// Weighted distance of a process's home to a machine.
    #[inline]
    #[must_use]
    pub fn distance(&self, p: usize, m: usize) -> f64 {
        self.problem.distance[self.problem.home[p] as usize * self.problem.machines + m]
    }

    /// Weighted cost of moving for a process on a machine, without the service's share.
    #[inline]
    #[must_use]
    pub fn move_cost(&self, p: usize, m: usize) -> f64 {
        let away = if self.problem.home[p] as usize == m { 0.0 } else { self.problem.away[p] };
        away + self.distance(p, m)
    }

    /// Double occupancy that `p` adds when it goes from `a` to `b`.
    #[inline]
    #[must_use]
    pub fn occupancy_change(&self, p: usize, a: usize, b: usize) -> f64 {
        let home = self.problem.home[p] as usize;
        let occupancy = self.problem.occupancy[p];
        match (a == home, b == home) {
            (true, false) => occupancy,
            (false, true) => -occupancy,
            _ => 0.0,
        }
    }

    /// Cost of machine `m` with `p` added, or infinity beyond a capacity.
    #[inline]
    #[must_use]
    pub fn cost_with(&self, m: usize, p: usize) -> f64 {
        let add = &self.problem.add[p];
        self.cost_changed(m, |i| add[i])
    }

    /// Cost of machine `m` when each value `i` changes by `change(i)`, or infinity beyond a capacity.
    #[inline(always)]
    fn cost_changed(&self, m: usize, change: impl Fn(usize) -> f64) -> f64 {
        let (value, limit) = (&self.value[m], &self.problem.limit[m]);
        let (mut cost, mut over) = (0.0, 0.0f64);
        for i in 0..D {
            let v = value[i] + change(i);
            cost += if v > 0.0 { v } else { 0.0 };
            let beyond = v - limit[i];
            over = if beyond > over { beyond } else { over };
        }
        if over > 0.0 { f64::INFINITY } else { cost }
    }

    /// Cost of machine `m` without `p`.
    #[inline]
    #[must_use]
    pub fn cost_without(&self, m: usize, p: usize) -> f64 {
        let (value, add) = (&self.value[m], &self.problem.add[p]);
        let mut cost = 0.0;
        for i in 0..D {
            let v = value[i] - add[i];
            cost += if v > 0.0 { v } else { 0.0 };
        }
        cost
    }

    /// Cost of machine `m` with `q` in place of `p`, or infinity beyond a capacity.
    #[inline]
    #[must_use]
    pub fn cost_exchanged(&self, m: usize, p: usize, q: usize) -> f64 {
        let (less, more) = (&self.problem.add[p], &self.problem.add[q]);
        self.cost_changed(m, |i| more[i] - less[i])
    }

    /// Is there transient room on `m` for `p`?
    #[inline]
    #[must_use]
    pub fn has_room(&self, m: usize, p: usize) -> bool {
        let n = self.problem.transients;
        if n == 0 || self.problem.home[p] as usize == m {
            return true;
        }
        let (room, need) =
            (&self.room[m * n..m * n + n], &self.problem.transient[p * n..p * n + n]);
        room.iter().zip(need).all(|(room, need)| need <= room)
    }

    /// Is there transient room on `m` for `q` once `p` has left it?
    #[inline]
    #[must_use]
    pub fn has_room_without(&self, m: usize, p: usize, q: usize) -> bool {
        let n = self.problem.transients;
        let home = &self.problem.home;
        if n == 0 || home[q] as usize == m {
            return true;
        }
        if home[p] as usize == m {
            return self.has_room(m, q);
        }
        let t = &self.problem.transient;
        (0..n).all(|i| t[q * n + i] <= self.room[m * n + i] + t[p * n + i])
    }

    /// Does a service run on a machine?
    #[inline]
    #[must_use]
    pub fn runs_on(&self, service: usize, m: usize) -> bool {
        self.on[service * self.words + m / 64] >> (m % 64) & 1 == 1
    }

    /// Do the service rules allow `p` to go from its machine to `b`?
    #[inline]
    #[must_use]
    pub fn may_shift(&self, p: usize, b: usize) -> bool {
        self.problem.free[p] || self.may_shift_ruled(p, b)
    }

    fn may_shift_ruled(&self, p: usize, b: usize) -> bool {
        let pr = self.problem;
        let (s, a) = (pr.service[p] as usize, self.at[p] as usize);
        let rules = &pr.rules[s];
        if self.runs_on(s, b) || !self.keeps_spread(s, a, b) {
            return false;
        }
        let (from, to) = (pr.neighbourhood[a] as usize, pr.neighbourhood[b] as usize);
        if rules.dependency_row == NONE || from == to {
            return true;
        }
        let count =
            |row: u32, n: usize| self.neighbourhood_count[row as usize * pr.neighbourhoods + n];
        let own = rules.dependency_row;
        let lacks = |row: u32| row != own && count(row, to) == 0;
        if count(own, to) == 0 && rules.needs.iter().any(|&row| lacks(row)) {
            return false;
        }
        let left = |row: u32| row != own && count(row, from) > 0;
        !(count(own, from) == 1 && rules.needed_by.iter().any(|&row| left(row)))
    }

    #[inline]
    fn keeps_spread(&self, s: usize, a: usize, b: usize) -> bool {
        let pr = self.problem;
        let rules = &pr.rules[s];
        let (from, to) = (pr.location[a] as usize, pr.location[b] as usize);
        if rules.spread_row == NONE || from == to {
            return true;
        }
        let row = rules.spread_row as usize;
        let count = &self.location_count[row * pr.locations..(row + 1) * pr.locations];
        let after = self.distinct[row] + u32::from(count[to] == 0) - u32::from(count[from] == 1);
        after >= rules.spread_min
    }

    /// Do the service rules allow `p` and `q` to change places? Processes of one service never do.
    #[inline]
    pub fn may_swap(&mut self, p: usize, q: usize) -> bool {
        let free = &self.problem.free;
        if free[p] && free[q] {
            return true;
        }
        let (a, b) = (self.at[p] as usize, self.at[q] as usize);
        if self.problem.service[p] == self.problem.service[q] {
            return false;
        }
        let same = self.problem.neighbourhood[a] == self.problem.neighbourhood[b];
        if same || free[p] || free[q] {
            return self.may_shift(p, b) && self.may_shift(q, a);
        }
        self.may_swap_ruled(p, q)
    }

    /// Both services have rules and change neighbourhoods: count as if done, look, and undo.
    fn may_swap_ruled(&mut self, p: usize, q: usize) -> bool {
        let pr = self.problem;
        let (a, b) = (self.at[p] as usize, self.at[q] as usize);
        let (s, t) = (pr.service[p] as usize, pr.service[q] as usize);
        if self.runs_on(s, b)
            || self.runs_on(t, a)
            || !self.keeps_spread(s, a, b)
            || !self.keeps_spread(t, b, a)
        {
            return false;
        }
        let (from, to) = (pr.neighbourhood[a] as usize, pr.neighbourhood[b] as usize);
        self.count_neighbourhoods(s, from, to);
        self.count_neighbourhoods(t, to, from);
        let fine = self.holds(s, to)
            && self.holds(t, from)
            && self.unneeded(s, from)
            && self.unneeded(t, to);
        self.count_neighbourhoods(s, to, from);
        self.count_neighbourhoods(t, from, to);
        fine
    }

    /// Has a service in this neighbourhood all it needs there?
    fn holds(&self, s: usize, n: usize) -> bool {
        let (rules, width) = (&self.problem.rules[s], self.problem.neighbourhoods);
        rules.dependency_row == NONE
            || rules.needs.iter().all(|&r| self.neighbourhood_count[r as usize * width + n] > 0)
    }

    /// Is a service still in this neighbourhood, or is nobody there who needs it?
    fn unneeded(&self, s: usize, n: usize) -> bool {
        let (rules, width) = (&self.problem.rules[s], self.problem.neighbourhoods);
        let count = |r: u32| self.neighbourhood_count[r as usize * width + n];
        rules.dependency_row == NONE
            || count(rules.dependency_row) > 0
            || rules.needed_by.iter().all(|&r| count(r) == 0)
    }

    fn count_neighbourhoods(&mut self, s: usize, from: usize, to: usize) {
        let row = self.problem.rules[s].dependency_row;
        if row != NONE {
            let base = row as usize * self.problem.neighbourhoods;
            self.neighbourhood_count[base + from] -= 1;
            self.neighbourhood_count[base + to] += 1;
        }
    }

    /// What the service that moved most would cost more if `p` went to `b`.
    #[inline]
    #[must_use]
    pub fn service_change(&self, p: usize, b: usize) -> f64 {
        let home = self.problem.home[p];
        let (is, will) = (self.at[p] != home, home as usize != b);
        if is == will {
            return 0.0;
        }
        let moved = self.moved[self.problem.service[p] as usize];
        if will {
            return if moved == self.moved_max { self.problem.service_weight } else { 0.0 };
        }
        let last = moved == self.moved_max && self.moved_count[moved as usize] == 1;
        if last { -self.problem.service_weight } else { 0.0 }
    }

    /// Processes on `m` whose home is elsewhere.
    #[inline]
    #[must_use]
    pub fn guests(&self, m: usize) -> &[u32] {
        &self.guests[m]
    }

    /// Moves `p` to `b`. The step must be allowed.
    pub fn shift(&mut self, p: usize, b: usize) {
        let a = self.at[p] as usize;
        let home = self.problem.home[p] as usize;
        self.cost += self.move_cost(p, b) - self.move_cost(p, a) + self.service_change(p, b);
        for i in 0..D {
            self.value[a][i] -= self.problem.add[p][i];
            self.value[b][i] += self.problem.add[p][i];
        }
        for m in [a, b] {
            let cost = cost_of(&self.value[m]);
            self.cost += cost - self.machine_cost[m];
            self.machine_cost[m] = cost;
        }
        if a != home {
            self.take_room(p, a, -1.0);
        }
        if b != home {
            self.take_room(p, b, 1.0);
        }
        if (a == home) != (b == home) {
            self.count_moved(p, a == home);
        }
        self.leave(p, a);
        self.at[p] = b as u32;
        self.enter(p, b);
    }

    /// Lets `p` and `q` change places. The step must be allowed.
    pub fn swap(&mut self, p: usize, q: usize) {
        let (a, b) = (self.at[p] as usize, self.at[q] as usize);
        self.shift(p, b);
        self.shift(q, a);
    }

    fn take_room(&mut self, p: usize, m: usize, sign: f64) {
        let n = self.problem.transients;
        for t in 0..n {
            self.room[m * n + t] -= sign * self.problem.transient[p * n + t];
        }
    }

    fn count_moved(&mut self, p: usize, away: bool) {
        let moved = &mut self.moved[self.problem.service[p] as usize];
        self.moved_count[*moved as usize] -= 1;
        *moved = if away { *moved + 1 } else { *moved - 1 };
        self.moved_count[*moved as usize] += 1;
        if *moved > self.moved_max {
            self.moved_max = *moved;
        } else if self.moved_count[self.moved_max as usize] == 0 {
            self.moved_max -= 1;
        }
    }

    fn enter(&mut self, p: usize, m: usize) {
        let pr = self.problem;
        if pr.home[p] as usize != m {
            self.slot[p] = self.guests[m].len() as u32;
            self.guests[m].push(p as u32);
        }
        if pr.free[p] {
            return;
        }
        let s = pr.service[p] as usize;
        self.on[s * self.words + m / 64] |= 1 << (m % 64);
        let rules = &pr.rules[s];
        if rules.spread_row != NONE {
            let row = rules.spread_row as usize;
            let count = &mut self.location_count[row * pr.locations + pr.location[m] as usize];
            self.distinct[row] += u32::from(*count == 0);
            *count += 1;
        }
        if rules.dependency_row != NONE {
            let row = rules.dependency_row as usize * pr.neighbourhoods;
            self.neighbourhood_count[row + pr.neighbourhood[m] as usize] += 1;
        }
    }

    fn leave(&mut self, p: usize, m: usize) {
        let pr = self.problem;
        if pr.home[p] as usize != m {
            let slot = self.slot[p] as usize;
            self.guests[m].swap_remove(slot);
            if let Some(&moved) = self.guests[m].get(slot) {
                self.slot[moved as usize] = slot as u32;
            }
        }
        if pr.free[p] {
            return;
        }
        let s = pr.service[p] as usize;
        self.on[s * self.words + m / 64] &= !(1 << (m % 64));
        let rules = &pr.rules[s];
        if rules.spread_row != NONE {
            let row = rules.spread_row as usize;
            let count = &mut self.location_count[row * pr.locations + pr.location[m] as usize];
            *count -= 1;
            self.distinct[row] -= u32::from(*count == 0);
        }
        if rules.dependency_row != NONE {
            let row = rules.dependency_row as usize * pr.neighbourhoods;
            self.neighbourhood_count[row + pr.neighbourhood[m] as usize] -= 1;
        }
    }
}
