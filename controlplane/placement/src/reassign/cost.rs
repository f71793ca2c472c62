//! The exact cost of an assignment, and which hard constraints it breaks. Whole numbers throughout;
//! every formula is one of the challenge's problem definition (section in brackets).

use super::model::Model;

/// Cost in its parts, each already weighted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Use above safety capacities (5.1).
    pub load: i64,
    /// Unbalanced free amounts (5.2).
    pub balance: i64,
    /// Moved processes (5.3).
    pub process_move: i64,
    /// Most moves within a service (5.4).
    pub service_move: i64,
    /// Distances moved (5.5).
    pub machine_move: i64,
}

impl Cost {
    /// The sum (5.6).
    #[must_use]
    pub fn total(&self) -> i64 {
        self.load + self.balance + self.process_move + self.service_move + self.machine_move
    }
}

/// A broken hard constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More is used than there is (4.1), processes that are moving away included where the resource
    /// is transient (4.5).
    #[error("machine {machine} needs {used} of resource {resource}, it has {capacity}")]
    Capacity {
        /// Machine.
        machine: u32,
        /// Resource.
        resource: u32,
        /// Use, double occupancy included.
        used: i64,
        /// Limit.
        capacity: i64,
    },
    /// Two processes of one service share a machine (4.2).
    #[error("two processes of service {service} run on machine {machine}")]
    Conflict {
        /// Service.
        service: u32,
        /// Machine.
        machine: u32,
    },
    /// A service runs in too few locations (4.3).
    #[error("service {service} runs in {found} locations, {needed} are needed")]
    Spread {
        /// Service.
        service: u32,
        /// Distinct locations.
        found: u32,
        /// Least number.
        needed: u32,
    },
    /// A service runs in a neighbourhood without one it depends on (4.4).
    #[error("service {service} needs service {on} in neighbourhood {neighbourhood}")]
    Dependency {
        /// The service that depends.
        service: u32,
        /// What it depends on.
        on: u32,
        /// Where that is missing.
        neighbourhood: u32,
    },
}

/// The cost of moving from one assignment to another. Both must fit the model
/// ([`Model::check_assignment`]).
#[must_use]
pub fn evaluate(model: &Model, initial: &[u32], assignment: &[u32]) -> Cost {
    let used = usage(model, assignment);
    let (r, m) = (model.resources(), model.machines());
    let mut cost = Cost::default();
    for (at, &used) in used.iter().enumerate() {
        cost.load += model.load_weight[at % r] * (used - model.safety[at]).max(0);
    }
    for b in &model.balances {
        for machine in 0..m {
            let free = |resource: u32| {
                let at = machine * r + resource as usize;
                model.capacity[at] - used[at]
            };
            cost.balance += b.weight * (b.target * free(b.first) - free(b.second)).max(0);
        }
    }
    let mut moved = vec![0i64; model.services()];
    for (p, (&from, &to)) in initial.iter().zip(assignment).enumerate() {
        if from != to {
            cost.process_move += model.process_move[p];
            moved[model.service[p] as usize] += 1;
        }
        cost.machine_move += model.machine_move[from as usize * m + to as usize];
    }
    cost.process_move *= model.weights.process;
    cost.service_move = model.weights.service * moved.iter().copied().max().unwrap_or(0);
    cost.machine_move *= model.weights.machine;
    cost
}

/// All broken hard constraints of an assignment, by kind and index. Both must fit the model.
#[must_use]
pub fn violations(model: &Model, initial: &[u32], assignment: &[u32]) -> Vec<Violation> {
    let mut found = Vec::new();
    capacities(model, initial, assignment, &mut found);
    let mut processes: Vec<Vec<usize>> = vec![Vec::new(); model.services()];
    for (p, &service) in model.service.iter().enumerate() {
        processes[service as usize].push(p);
    }
    for (service, list) in processes.iter().enumerate() {
        let service = service as u32;
        let mut machines: Vec<u32> = list.iter().map(|&p| assignment[p]).collect();
        machines.sort_unstable();
        let twice = machines.windows(2).filter(|pair| pair[0] == pair[1]);
        found.extend(twice.map(|pair| Violation::Conflict { service, machine: pair[0] }));
        let distinct = distinct(machines.iter().map(|&m| model.location[m as usize])).len() as u32;
        let needed = model.spread_min[service as usize];
        if distinct < needed {
            found.push(Violation::Spread { service, found: distinct, needed });
        }
    }
    dependencies(model, assignment, &processes, &mut found);
    found
}

fn usage(model: &Model, assignment: &[u32]) -> Vec<i64> {
    let r = model.resources();
    let mut used = vec![0i64; model.machines() * r];
    for (p, &machine) in assignment.iter().enumerate() {
        for resource in 0..r {
            used[machine as usize * r + resource] += model.requirement[p * r + resource];
        }
    }
    used
}

fn capacities(model: &Model, initial: &[u32], assignment: &[u32], found: &mut Vec<Violation>) {
    let r = model.resources();
    let mut used = usage(model, assignment);
    for (p, (&from, &to)) in initial.iter().zip(assignment).enumerate() {
        if from == to {
            continue;
        }
        for resource in (0..r).filter(|&resource| model.transient[resource]) {
            used[from as usize * r + resource] += model.requirement[p * r + resource];
        }
    }
    for (at, (&used, &capacity)) in used.iter().zip(&model.capacity).enumerate() {
        if used > capacity {
            let (machine, resource) = ((at / r) as u32, (at % r) as u32);
            found.push(Violation::Capacity { machine, resource, used, capacity });
        }
    }
}

fn dependencies(
    model: &Model,
    assignment: &[u32],
    processes: &[Vec<usize>],
    found: &mut Vec<Violation>,
) {
    let places = |service: usize| {
        distinct(processes[service].iter().map(|&p| model.neighbourhood[assignment[p] as usize]))
    };
    let all: Vec<Vec<u32>> = (0..model.services()).map(places).collect();
    for (service, list) in model.dependencies.iter().enumerate() {
        for &on in list {
            for neighbourhood in &all[service] {
                if all[on as usize].binary_search(neighbourhood).is_err() {
                    found.push(Violation::Dependency {
                        service: service as u32,
                        on,
                        neighbourhood: *neighbourhood,
                    });
                }
            }
        }
    }
}

/// Sorted and without repeats.
fn distinct(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}
