//! An instance: machines, services, processes, weights; checked once, read-only afterwards.

use super::error::ModelError;

/// Largest sizes that are accepted, far above the challenge's own (20 resources, 5,000 machines,
/// 5,000 services, 50,000 processes, 10 balance costs).
pub mod bounds {
    /// Resources.
    pub const RESOURCES_MAX: usize = 22;
    /// Balance costs.
    pub const BALANCES_MAX: usize = 10;
    /// Machines; the move-cost table is square in it.
    pub const MACHINES_MAX: usize = 10_000;
    /// Services.
    pub const SERVICES_MAX: usize = 1_000_000;
    /// Processes.
    pub const PROCESSES_MAX: usize = 1_000_000;
    /// No sum of costs or use may exceed this: up to here an f64 holds every integer.
    pub const SUM_MAX: i128 = 1 << 53;
}

/// The weights of the challenge's public instances.
pub const MOVE_WEIGHTS: Weights = Weights { process: 1, service: 10, machine: 100 };

/// Machine of each process, by process.
pub type Assignment = Vec<u32>;

/// A wish that free amounts of two resources keep a ratio: cost is
/// weight x max(0, target x free(first) - free(second)) on each machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// First resource.
    pub first: u32,
    /// Second resource.
    pub second: u32,
    /// Wanted units of the second per unit of the first.
    pub target: i64,
    /// Cost of a missing unit.
    pub weight: i64,
}

/// Weights of the three costs of moving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// Of the sum of the moved processes' own costs.
    pub process: i64,
    /// Of the largest number of moved processes in one service.
    pub service: i64,
    /// Of the sum of machine-to-machine costs.
    pub machine: i64,
}

/// An instance. Tables are flat: `x[machine * resources + resource]`. Fields are public to read; make
/// one through [`Model::checked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Is the resource occupied on both machines during a move? By resource.
    pub transient: Vec<bool>,
    /// Weight of use above the safety capacity, by resource.
    pub load_weight: Vec<i64>,
    /// Neighbourhood, by machine (names are arbitrary).
    pub neighbourhood: Vec<u32>,
    /// Location, by machine (names are arbitrary).
    pub location: Vec<u32>,
    /// Hard limit, by machine and resource.
    pub capacity: Vec<i64>,
    /// Use that is free of cost, by machine and resource.
    pub safety: Vec<i64>,
    /// Cost of moving any process between two machines, by source and target.
    pub machine_move: Vec<i64>,
    /// Least number of locations, by service.
    pub spread_min: Vec<u32>,
    /// Services that must run in every neighbourhood this one runs in, by service.
    pub dependencies: Vec<Vec<u32>>,
    /// Service, by process.
    pub service: Vec<u32>,
    /// Amounts, by process and resource.
    pub requirement: Vec<i64>,
    /// Cost of moving it, by process.
    pub process_move: Vec<i64>,
    /// Balance costs.
    pub balances: Vec<Balance>,
    /// Weights of moving.
    pub weights: Weights,
}

impl Model {
    /// Number of resources.
    #[must_use]
    pub fn resources(&self) -> usize {
        self.transient.len()
    }

    /// Number of machines.
    #[must_use]
    pub fn machines(&self) -> usize {
        self.location.len()
    }

    /// Number of services.
    #[must_use]
    pub fn services(&self) -> usize {
        self.spread_min.len()
    }

    /// Number of processes.
    #[must_use]
    pub fn processes(&self) -> usize {
        self.service.len()
    }

    /// The same model, if sizes fit each other, indices exist, nothing is negative, and no cost can
    /// leave the range that is counted exactly.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order of the fields.
    pub fn checked(self) -> Result<Self, ModelError> {
        self.check_sizes()?;
        self.check_signs()?;
        self.check_indices()?;
        self.check_sums()?;
        Ok(self)
    }

    /// Checks an assignment's length and indices against this model.
    ///
    /// # Errors
    /// It has another length, or names a machine that does not exist.
    pub fn check_assignment(&self, assignment: &[u32]) -> Result<(), ModelError> {
        same_size("the assignment", assignment.len(), self.processes())?;
        for (process, &machine) in assignment.iter().enumerate() {
            in_range(|| format!("the machine of process {process}"), machine, self.machines())?;
        }
        Ok(())
    }

    fn check_sizes(&self) -> Result<(), ModelError> {
        let (r, m, s, p) = (self.resources(), self.machines(), self.services(), self.processes());
        if m == 0 {
            return Err(ModelError::NoMachines);
        }
        let bounded = [
            ("resources", r, bounds::RESOURCES_MAX),
            ("balance costs", self.balances.len(), bounds::BALANCES_MAX),
            ("machines", m, bounds::MACHINES_MAX),
            ("services", s, bounds::SERVICES_MAX),
            ("processes", p, bounds::PROCESSES_MAX),
        ];
        for (what, count, max) in bounded {
            if count > max {
                return Err(ModelError::TooMany { what, count, max });
            }
        }
        same_size("load weights", self.load_weight.len(), r)?;
        same_size("neighbourhoods", self.neighbourhood.len(), m)?;
        same_size("capacities", self.capacity.len(), m * r)?;
        same_size("safety capacities", self.safety.len(), m * r)?;
        same_size("machine move costs", self.machine_move.len(), m * m)?;
        same_size("dependencies", self.dependencies.len(), s)?;
        same_size("requirements", self.requirement.len(), p * r)?;
        same_size("process move costs", self.process_move.len(), p)
    }

    fn check_signs(&self) -> Result<(), ModelError> {
        let tables: [(&str, &[i64]); 6] = [
            ("a load weight", &self.load_weight),
            ("a capacity", &self.capacity),
            ("a safety capacity", &self.safety),
            ("a machine move cost", &self.machine_move),
            ("a requirement", &self.requirement),
            ("a process move cost", &self.process_move),
        ];
        for (what, table) in tables {
            if let Some(at) = table.iter().position(|&x| x < 0) {
                return Err(ModelError::Negative { what: format!("{what} (entry {at})") });
            }
        }
        for (at, balance) in self.balances.iter().enumerate() {
            if balance.target < 0 || balance.weight < 0 {
                return Err(ModelError::Negative { what: format!("a value of balance cost {at}") });
            }
        }
        let weights = [self.weights.process, self.weights.service, self.weights.machine];
        if weights.iter().any(|&w| w < 0) {
            return Err(ModelError::Negative { what: "a weight of moving".to_owned() });
        }
        Ok(())
    }

    fn check_indices(&self) -> Result<(), ModelError> {
        for (process, &service) in self.service.iter().enumerate() {
            in_range(|| format!("the service of process {process}"), service, self.services())?;
        }
        for (service, list) in self.dependencies.iter().enumerate() {
            for &on in list {
                in_range(|| format!("a dependency of service {service}"), on, self.services())?;
            }
        }
        for (at, balance) in self.balances.iter().enumerate() {
            for resource in [balance.first, balance.second] {
                in_range(|| format!("a resource of balance {at}"), resource, self.resources())?;
            }
        }
        Ok(())
    }

    /// Bounds every sum that the evaluation or a solver forms.
    fn check_sums(&self) -> Result<(), ModelError> {
        let (r, p) = (self.resources(), self.processes() as i128);
        let column = |table: &[i64], resource: usize| -> i128 {
            table.iter().skip(resource).step_by(r).map(|&x| i128::from(x)).sum()
        };
        let (mut load, mut balance) = (0i128, 0i128);
        let mut reach = vec![0i128; r];
        for (resource, reach) in reach.iter_mut().enumerate() {
            let use_sum = column(&self.requirement, resource);
            let own = use_sum.max(column(&self.capacity, resource));
            *reach = own.max(column(&self.safety, resource));
            load = load.saturating_add(
                reach.saturating_mul(i128::from(self.load_weight[resource].max(1))),
            );
        }
        for b in &self.balances {
            let first = reach[b.first as usize].saturating_mul(i128::from(b.target));
            let both = first.saturating_add(reach[b.second as usize]);
            balance = balance.saturating_add(both.saturating_mul(i128::from(b.weight)));
        }
        let machine_max = self.machine_move.iter().copied().max().unwrap_or(0);
        let moves: i128 = self.process_move.iter().map(|&c| i128::from(c)).sum();
        let moving = moves
            .saturating_mul(i128::from(self.weights.process))
            .saturating_add(p.saturating_mul(i128::from(self.weights.service)))
            .saturating_add(
                p.saturating_mul(i128::from(machine_max))
                    .saturating_mul(i128::from(self.weights.machine)),
            );
        for (what, bound) in
            [("load cost", load), ("balance cost", balance), ("cost of moving", moving)]
        {
            if bound > bounds::SUM_MAX / 4 {
                return Err(ModelError::TooLarge { what, bound });
            }
        }
        Ok(())
    }
}

fn same_size(table: &'static str, found: usize, expected: usize) -> Result<(), ModelError> {
    if found == expected { Ok(()) } else { Err(ModelError::Size { table, found, expected }) }
}

fn in_range(what: impl Fn() -> String, index: u32, count: usize) -> Result<(), ModelError> {
    if (index as usize) < count {
        return Ok(());
    }
    Err(ModelError::Index { what: what(), index: u64::from(index), count })
}
