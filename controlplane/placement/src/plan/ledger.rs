//! What is where while a plan runs.

use crate::reassign::Model;

/// Use, places and rules of a moment. A guest in flight is counted on both machines for capacity and
/// conflicts, and at its source for spread and dependencies.
pub struct Ledger<'a> {
    model: &'a Model,
    /// Where each process is; its source while in flight.
    pub at: Vec<u32>,
    /// Target of a process in flight.
    pub flying: Vec<Option<u32>>,
    used: Vec<i64>,
    members: Vec<Vec<u32>>,
    needed_by: Vec<Vec<u32>>,
    /// Flights of a service.
    flights: Vec<u32>,
    area: Vec<usize>,
    areas: usize,
    /// Members by service and neighbourhood.
    count: Vec<u32>,
}

impl<'a> Ledger<'a> {
    pub fn new(model: &'a Model, assignment: &[u32]) -> Self {
        let mut names = model.neighbourhood.clone();
        names.sort_unstable();
        names.dedup();
        let number = |name: &u32| names.binary_search(name).unwrap_or(0);
        let mut needed_by = vec![Vec::new(); model.services()];
        for (service, list) in model.dependencies.iter().enumerate() {
            list.iter().for_each(|&on| needed_by[on as usize].push(service as u32));
        }
        let mut ledger = Self {
            model,
            at: assignment.to_vec(),
            flying: vec![None; assignment.len()],
            used: vec![0; model.machines() * model.resources()],
            members: vec![Vec::new(); model.services()],
            needed_by,
            flights: vec![0; model.services()],
            area: model.neighbourhood.iter().map(number).collect(),
            areas: names.len(),
            count: vec![0; model.services() * names.len()],
        };
        for (p, &m) in assignment.iter().enumerate() {
            ledger.occupy(p, m as usize, 1);
            let service = model.service[p] as usize;
            ledger.members[service].push(p as u32);
            ledger.count[service * ledger.areas + ledger.area[m as usize]] += 1;
        }
        ledger
    }

    fn occupy(&mut self, p: usize, m: usize, sign: i64) {
        let r = self.model.resources();
        for i in 0..r {
            self.used[m * r + i] += sign * self.model.requirement[p * r + i];
        }
    }

    /// Has the machine room for all of a process?
    pub fn has_room(&self, p: usize, m: usize) -> bool {
        let r = self.model.resources();
        let need = &self.model.requirement[p * r..(p + 1) * r];
        let own = m * r..(m + 1) * r;
        let (used, capacity) = (&self.used[own.clone()], &self.model.capacity[own]);
        (0..r).all(|i| used[i] + need[i] <= capacity[i])
    }

    /// May this process start for that machine now, with all rules kept until and after it arrives?
    pub fn may_start(&self, p: usize, b: usize) -> bool {
        let a = self.at[p] as usize;
        a != b && self.flying[p].is_none() && self.has_room(p, b) && self.rules_allow(p, a, b)
    }

    fn rules_allow(&self, p: usize, a: usize, b: usize) -> bool {
        let s = self.model.service[p] as usize;
        let members = &self.members[s];
        let there = |&q: &u32| {
            let q = q as usize;
            self.at[q] as usize == b || self.flying[q] == Some(b as u32)
        };
        if members.iter().any(there) {
            return false;
        }
        let needs = &self.model.dependencies[s];
        let spread = self.model.spread_min[s] > 1;
        let crosses = self.area[a] != self.area[b];
        let bound = crosses && !(needs.is_empty() && self.needed_by[s].is_empty());
        // One flight at a time among services whose rules meet, so that arrivals cannot break together
        // what each alone keeps.
        if (spread || bound) && self.flights[s] > 0 {
            return false;
        }
        if spread && !self.keeps_spread(s, p, b) {
            return false;
        }
        if !bound {
            return true;
        }
        let linked = needs.iter().chain(&self.needed_by[s]);
        if linked.clone().any(|&other| self.flights[other as usize] > 0) {
            return false;
        }
        let count = |s: usize, n: usize| self.count[s * self.areas + n];
        let (from, to) = (self.area[a], self.area[b]);
        let lacks = |&on: &u32| on as usize != s && count(on as usize, to) == 0;
        let leaves = |&on: &u32| on as usize != s && count(on as usize, from) > 0;
        let last_here = count(s, from) == 1;
        let missed = last_here && self.needed_by[s].iter().any(leaves);
        !missed && !needs.iter().any(lacks)
    }

    fn keeps_spread(&self, s: usize, p: usize, b: usize) -> bool {
        let place = |q: u32| {
            let machine = if q as usize == p { b } else { self.at[q as usize] as usize };
            self.model.location[machine]
        };
        let mut places: Vec<u32> = self.members[s].iter().map(|&q| place(q)).collect();
        places.sort_unstable();
        places.dedup();
        places.len() >= self.model.spread_min[s] as usize
    }

    /// A process starts; it must be allowed to.
    pub fn start(&mut self, p: usize, b: usize) {
        self.occupy(p, b, 1);
        self.flying[p] = Some(b as u32);
        self.flights[self.model.service[p] as usize] += 1;
    }

    /// A process in flight arrives.
    pub fn arrive(&mut self, p: usize) {
        let Some(b) = self.flying[p].take() else { return };
        let (a, s) = (self.at[p] as usize, self.model.service[p] as usize);
        self.occupy(p, a, -1);
        self.at[p] = b;
        self.flights[s] -= 1;
        self.count[s * self.areas + self.area[a]] -= 1;
        self.count[s * self.areas + self.area[b as usize]] += 1;
    }

    /// Load and balance cost of a machine if the amounts of a process were added (`sign` 1), taken
    /// away (-1), or neither (0).
    pub fn machine_cost(&self, m: usize, p: usize, sign: i64) -> i64 {
        let r = self.model.resources();
        let used = |i: usize| self.used[m * r + i] + sign * self.model.requirement[p * r + i];
        let load: i64 = (0..r)
            .map(|i| self.model.load_weight[i] * (used(i) - self.model.safety[m * r + i]).max(0))
            .sum();
        let free = |i: u32| self.model.capacity[m * r + i as usize] - used(i as usize);
        let balance = self.model.balances.iter();
        load + balance
            .map(|b| b.weight * (b.target * free(b.first) - free(b.second)).max(0))
            .sum::<i64>()
    }

    /// The resource by which a machine is furthest above its safety capacity, weighted.
    pub fn tightest(&self, m: usize) -> Option<usize> {
        let r = self.model.resources();
        let over = |i: usize| {
            self.model.load_weight[i] * (self.used[m * r + i] - self.model.safety[m * r + i])
        };
        (0..r).max_by_key(|&i| over(i)).filter(|&i| over(i) > 0)
    }
}
