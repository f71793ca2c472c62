//! An instance prepared for search: every cost that depends on a machine's use becomes one sum.
//!
//! For resource r of machine m let d = w_r (use - safety); load cost is max(0, d). For a balance
//! (r1, r2, target, w) let d = w (target free(r1) - free(r2)); its cost is max(0, d), and a process
//! adds w (req(r2) - target req(r1)) to it. So a machine is one vector d of `D` dimensions with cost
//! sum(max(0, d_i)), a process one vector that is added, and a hard capacity is d_i <= limit_i. A
//! resource without load weight is counted against its capacity instead, where d never is positive.
//!
//! All numbers are integers of at most 2^53 ([`Model::checked`]), so f64 is exact, and its
//! vector instructions are there on every x86-64 and ARM64.

use super::super::model::Model;

/// Marks a machine-independent "no number".
pub const NONE: u32 = u32::MAX;

/// Read-only tables of one instance. `D` is the number of resources and balance costs, padded.
#[derive(Debug)]
pub struct Problem<const D: usize> {
    /// Machines.
    pub machines: usize,
    /// Processes.
    pub processes: usize,
    /// Processes that may move.
    pub movable: Vec<u32>,
    /// Transient resources.
    pub transients: usize,
    /// Machine of each process before any move.
    pub home: Vec<u32>,
    /// What a process adds to its machine, by process.
    pub add: Vec<[f64; D]>,
    /// Highest value that a machine may reach, by machine.
    pub limit: Vec<[f64; D]>,
    /// Values of the empty machine, by machine.
    pub empty: Vec<[f64; D]>,
    /// Transient requirements by process, `transients` each.
    pub transient: Vec<f64>,
    /// Room for immigrants by machine, `transients` each: capacity less all processes at home there.
    pub room: Vec<f64>,
    /// Weighted sum of a process's transient requirements: what its double occupancy takes.
    pub occupancy: Vec<f64>,
    /// Weighted cost of a process being away from home, without the machine distance.
    pub away: Vec<f64>,
    /// Weighted machine distance, by home and machine.
    pub distance: Vec<f64>,
    /// Weight of the service that moved most.
    pub service_weight: f64,
    /// Service, by process.
    pub service: Vec<u32>,
    /// Is this process alone in its service, with neither spread nor dependencies?
    pub free: Vec<bool>,
    /// Is there anything to check beyond machine conflicts? By service.
    pub rules: Vec<Rules>,
    /// Location by machine, numbered from 0.
    pub location: Vec<u32>,
    /// Number of locations.
    pub locations: usize,
    /// Neighbourhood by machine, numbered from 0.
    pub neighbourhood: Vec<u32>,
    /// Number of neighbourhoods.
    pub neighbourhoods: usize,
    /// Rows of the location counts.
    pub spread_rows: usize,
    /// Rows of the neighbourhood counts.
    pub dependency_rows: usize,
    /// Processes of a service, by service.
    pub members: Vec<Vec<u32>>,
}

/// What a service asks for.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Row of its location counts, or [`NONE`] without a wish for spread.
    pub spread_row: u32,
    /// Least number of locations.
    pub spread_min: u32,
    /// Row of its neighbourhood counts, or [`NONE`] when no dependency touches it.
    pub dependency_row: u32,
    /// Rows of the services it needs.
    pub needs: Vec<u32>,
    /// Rows of the services that need it.
    pub needed_by: Vec<u32>,
}

/// Smallest supported dimension that holds a model.
#[must_use]
pub fn dimensions(model: &Model) -> usize {
    model.resources() + model.balances.len()
}

impl<const D: usize> Problem<D> {
    /// Prepares a checked model; `home` fits it, `pinned` is ascending.
    #[must_use]
    pub fn new(model: &Model, home: &[u32], pinned: &[u32]) -> Self {
        let (m, p) = (model.machines(), model.processes());
        let transients: Vec<usize> =
            (0..model.resources()).filter(|&r| model.transient[r]).collect();
        let r = model.resources();
        let weight = |resource: usize| model.load_weight[resource].max(1) as f64;
        let (location, locations) = numbered(&model.location);
        let (neighbourhood, neighbourhoods) = numbered(&model.neighbourhood);
        let mut transient = Vec::with_capacity(p * transients.len());
        let mut occupancy = Vec::with_capacity(p);
        for process in 0..p {
            let own = transients.iter().map(|&t| model.requirement[process * r + t] as f64);
            transient.extend(own);
            let weighted =
                transients.iter().map(|&t| weight(t) * model.requirement[process * r + t] as f64);
            occupancy.push(weighted.sum());
        }
        let mut room = Vec::with_capacity(m * transients.len());
        for machine in 0..m {
            room.extend(transients.iter().map(|&t| model.capacity[machine * r + t] as f64));
        }
        let n = transients.len();
        for (process, &machine) in home.iter().enumerate() {
            for t in 0..n {
                room[machine as usize * n + t] -= transient[process * n + t];
            }
        }
        let mut members = vec![Vec::new(); model.services()];
        for (process, &service) in model.service.iter().enumerate() {
            members[service as usize].push(process as u32);
        }
        let (rules, spread_rows, dependency_rows) = rules(model);
        let free = model.service.iter().map(|&s| {
            let rules = &rules[s as usize];
            members[s as usize].len() == 1
                && rules.spread_row == NONE
                && rules.dependency_row == NONE
        });
        Self {
            machines: m,
            processes: p,
            movable: (0..p as u32).filter(|p| pinned.binary_search(p).is_err()).collect(),
            transients: n,
            home: home.to_vec(),
            add: (0..p).map(|process| add(model, process)).collect(),
            limit: (0..m).map(|machine| limit(model, machine)).collect(),
            empty: (0..m).map(|machine| empty(model, machine)).collect(),
            transient,
            room,
            occupancy,
            away: model.process_move.iter().map(|&c| (c * model.weights.process) as f64).collect(),
            distance: model
                .machine_move
                .iter()
                .map(|&c| (c * model.weights.machine) as f64)
                .collect(),
            service_weight: model.weights.service as f64,
            service: model.service.clone(),
            free: free.collect(),
            location,
            locations,
            neighbourhood,
            neighbourhoods,
            spread_rows,
            dependency_rows,
            members,
            rules,
        }
    }
}

fn add<const D: usize>(model: &Model, process: usize) -> [f64; D] {
    let r = model.resources();
    let own = &model.requirement[process * r..(process + 1) * r];
    let mut add = [0.0; D];
    for (i, &amount) in own.iter().enumerate() {
        add[i] = (amount * model.load_weight[i].max(1)) as f64;
    }
    for (i, b) in model.balances.iter().enumerate() {
        let change = own[b.second as usize] - b.target * own[b.first as usize];
        add[r + i] = (b.weight * change) as f64;
    }
    add
}

fn limit<const D: usize>(model: &Model, machine: usize) -> [f64; D] {
    let r = model.resources();
    let mut limit = [f64::INFINITY; D];
    // Where a resource is transient, room for immigrants is the tighter bound.
    for i in (0..r).filter(|&i| !model.transient[i]) {
        let at = machine * r + i;
        limit[i] = match model.load_weight[i] {
            0 => 0.0,
            weight => (weight * (model.capacity[at] - model.safety[at])) as f64,
        };
    }
    limit
}

fn empty<const D: usize>(model: &Model, machine: usize) -> [f64; D] {
    let r = model.resources();
    let capacity = &model.capacity[machine * r..(machine + 1) * r];
    let mut empty = [0.0; D];
    for i in 0..r {
        empty[i] = match model.load_weight[i] {
            0 => -capacity[i] as f64,
            weight => -(weight * model.safety[machine * r + i]) as f64,
        };
    }
    for (i, b) in model.balances.iter().enumerate() {
        let free = b.target * capacity[b.first as usize] - capacity[b.second as usize];
        empty[r + i] = (b.weight * free) as f64;
    }
    empty
}

fn rules(model: &Model) -> (Vec<Rules>, usize, usize) {
    let mut needed_by = vec![Vec::new(); model.services()];
    for (service, list) in model.dependencies.iter().enumerate() {
        for &on in list {
            needed_by[on as usize].push(service as u32);
        }
    }
    let (mut spread_rows, mut dependency_rows) = (0, 0);
    let mut rows = Vec::with_capacity(model.services());
    for (service, needed_by) in needed_by.iter().enumerate() {
        let linked = !model.dependencies[service].is_empty() || !needed_by.is_empty();
        let spread = model.spread_min[service] > 1;
        rows.push((
            if spread { spread_rows } else { NONE },
            if linked { dependency_rows } else { NONE },
        ));
        spread_rows += u32::from(spread);
        dependency_rows += u32::from(linked);
    }
    let row = |list: &[u32]| list.iter().map(|&s| rows[s as usize].1).collect();
    let rules = (0..model.services()).map(|service| Rules {
        spread_row: rows[service].0,
        spread_min: model.spread_min[service],
        dependency_row: rows[service].1,
        needs: row(&model.dependencies[service]),
        needed_by: row(&needed_by[service]),
    });
    (rules.collect(), spread_rows as usize, dependency_rows as usize)
}

/// Arbitrary names as numbers from 0, in ascending order of the names, and how many there are.
fn numbered(names: &[u32]) -> (Vec<u32>, usize) {
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let number = |name: &u32| sorted.binary_search(name).unwrap_or(0) as u32;
    (names.iter().map(number).collect(), sorted.len())
}
