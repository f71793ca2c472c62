//! A graph, and a schedule of it.

/// Most tasks of a graph.
pub const TASKS_MAX: usize = 1_000_000;
/// Most entries of the table of compute times.
const TABLE_MAX: usize = 100_000_000;
/// No single time may be longer, so that sums stay finite.
const SECONDS_MAX: f64 = 1e15;

/// Data from one task to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// The task that gives.
    pub from: u32,
    /// The task that waits for it.
    pub to: u32,
    /// How much.
    pub data: f64,
}

/// A checked graph over checked nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskGraph {
    pub(super) tasks: usize,
    pub(super) nodes: usize,
    /// Seconds, by task and node.
    pub(super) compute: Vec<f64>,
    /// Seconds per unit of data, by node and node; 0 within a node.
    pub(super) transfer: Vec<f64>,
    /// (from, data) by task.
    pub(super) before: Vec<Vec<(u32, f64)>>,
    /// (to, data) by task.
    pub(super) after: Vec<Vec<(u32, f64)>>,
    /// Tasks so that every edge goes forward.
    pub(super) order: Vec<u32>,
}

/// What is no graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// There is nowhere to run anything.
    #[error("there are no nodes: add at least one")]
    NoNodes,
    /// More than is supported.
    #[error("{tasks} tasks on {nodes} nodes: split the graph")]
    TooLarge {
        /// Tasks.
        tasks: usize,
        /// Nodes.
        nodes: usize,
    },
    /// A table has another size than tasks and nodes say.
    #[error("the table of {table} has {found} entries, {expected} are needed")]
    Size {
        /// Which table.
        table: &'static str,
        /// Its length.
        found: usize,
        /// The right length.
        expected: usize,
    },
    /// A number is negative, infinite, not a number, or beyond 10^15.
    #[error("{table}, entry {at}: not a number from 0 to 10^15")]
    Number {
        /// Which table.
        table: &'static str,
        /// Which entry.
        at: usize,
    },
    /// An edge names a task that is not there.
    #[error("edge {0} names a task that does not exist")]
    NoSuchTask(usize),
    /// The tasks wait for each other in a circle.
    #[error("task {0} waits for itself through others: the graph has a cycle")]
    Cycle(u32),
}

/// When and where every task runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// Node, by task.
    pub node: Vec<u32>,
    /// Start in seconds, by task.
    pub start: Vec<f64>,
    /// End of the last task.
    pub makespan: f64,
}

impl TaskGraph {
    /// A graph of `compute.len() / nodes` tasks.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(
        nodes: usize,
        compute: Vec<f64>,
        transfer: Vec<f64>,
        edges: &[Edge],
    ) -> Result<Self, GraphError> {
        if nodes == 0 {
            return Err(GraphError::NoNodes);
        }
        let tasks = compute.len() / nodes;
        if tasks > TASKS_MAX || compute.len() > TABLE_MAX {
            return Err(GraphError::TooLarge { tasks, nodes });
        }
        sized("compute times", compute.len(), tasks * nodes)?;
        sized("transfer times", transfer.len(), nodes * nodes)?;
        numbers("compute times", compute.iter())?;
        numbers("transfer times", transfer.iter())?;
        numbers("edges", edges.iter().map(|e| &e.data))?;
        let mut transfer = transfer;
        (0..nodes).for_each(|n| transfer[n * nodes + n] = 0.0);
        let (mut before, mut after) = (vec![Vec::new(); tasks], vec![Vec::new(); tasks]);
        for (at, edge) in edges.iter().enumerate() {
            let (from, to) = (edge.from as usize, edge.to as usize);
            if from >= tasks || to >= tasks {
                return Err(GraphError::NoSuchTask(at));
            }
            before[to].push((edge.from, edge.data));
            after[from].push((edge.to, edge.data));
        }
        let order = topological(&before, &after)?;
        Ok(Self { tasks, nodes, compute, transfer, before, after, order })
    }

    /// Number of tasks.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Seconds of a task on a node.
    #[inline]
    #[must_use]
    pub fn seconds(&self, task: usize, node: usize) -> f64 {
        self.compute[task * self.nodes + node]
    }

    /// Seconds to bring data from a node to another.
    #[inline]
    #[must_use]
    pub fn bring(&self, data: f64, from: usize, to: usize) -> f64 {
        data * self.transfer[from * self.nodes + to]
    }

    /// Mean of the transfer times between different nodes.
    pub(super) fn transfer_mean(&self) -> f64 {
        let pairs = (self.nodes * (self.nodes - 1)).max(1) as f64;
        self.transfer.iter().sum::<f64>() / pairs
    }
}

fn topological(
    before: &[Vec<(u32, f64)>],
    after: &[Vec<(u32, f64)>],
) -> Result<Vec<u32>, GraphError> {
    let mut left: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut order: Vec<u32> = (0..left.len()).filter(|&t| left[t] == 0).map(|t| t as u32).collect();
    let mut next = 0;
    while next < order.len() {
        for &(to, _) in &after[order[next] as usize] {
            left[to as usize] -= 1;
            if left[to as usize] == 0 {
                order.push(to);
            }
        }
        next += 1;
    }
    match left.iter().position(|&n| n > 0) {
        Some(task) => Err(GraphError::Cycle(task as u32)),
        None => Ok(order),
    }
}

fn sized(table: &'static str, found: usize, expected: usize) -> Result<(), GraphError> {
    if found == expected { Ok(()) } else { Err(GraphError::Size { table, found, expected }) }
}

fn numbers<'a>(
    table: &'static str,
    mut values: impl Iterator<Item = &'a f64>,
) -> Result<(), GraphError> {
    match values.position(|v| !(0.0..=SECONDS_MAX).contains(v)) {
        Some(at) => Err(GraphError::Number { table, at }),
        None => Ok(()),
    }
}
