//! Builds schedules from a priority order, task by task, with insertion into gaps.

use super::model::{Schedule, TaskGraph};

/// Busy times of a node: (start, end), ascending.
type Timeline = Vec<(f64, f64)>;

/// Reused space for building.
#[derive(Debug, Clone)]
pub struct Builder {
    lines: Vec<Timeline>,
    /// When a task's data is on each node.
    ready: Vec<f64>,
    /// End of the last task and that task, by node.
    free: Vec<f64>,
    last: Vec<u32>,
    /// The task before on the same node, by task, after [`Builder::append`]; `u32::MAX` for none.
    pub previous: Vec<u32>,
    /// End, by task.
    pub end: Vec<f64>,
    /// Start, by task.
    pub start: Vec<f64>,
    /// Node, by task.
    pub node: Vec<u32>,
}

impl Builder {
    /// Space for a graph.
    #[must_use]
    pub fn new(graph: &TaskGraph) -> Self {
        Self {
            lines: vec![Vec::new(); graph.nodes],
            ready: vec![0.0; graph.nodes],
            free: vec![0.0; graph.nodes],
            last: vec![u32::MAX; graph.nodes],
            previous: vec![u32::MAX; graph.tasks],
            end: vec![0.0; graph.tasks],
            start: vec![0.0; graph.tasks],
            node: vec![0; graph.tasks],
        }
    }

    /// Schedules all tasks in an order in which every edge goes forward, each on the node where it
    /// ends first, a bias (by task and node; none if empty) counted in; gaps are used. Gives the
    /// makespan, or infinity as soon as it is known to reach `give_up`.
    pub fn build(&mut self, graph: &TaskGraph, order: &[u32], bias: &[f64], give_up: f64) -> f64 {
        self.lines.iter_mut().for_each(Vec::clear);
        let mut makespan = 0.0f64;
        for &task in order {
            let t = task as usize;
            let (node, start) = self.earliest(graph, t, bias);
            let end = start + graph.seconds(t, node);
            if end >= give_up {
                return f64::INFINITY;
            }
            let line = &mut self.lines[node];
            let at = line.partition_point(|&(s, e)| (s, e) < (start, end));
            line.insert(at, (start, end));
            (self.node[t], self.start[t], self.end[t]) = (node as u32, start, end);
            makespan = makespan.max(end);
        }
        makespan
    }

    /// The same on given nodes, each task after the one before it on its node. With tasks in the order
    /// of their starts no schedule gets longer by this, and it is ten times faster than looking for
    /// gaps.
    pub fn append(&mut self, graph: &TaskGraph, order: &[u32], node: &[u32], give_up: f64) -> f64 {
        self.free.fill(0.0);
        self.last.fill(u32::MAX);
        let mut makespan = 0.0f64;
        for &task in order {
            let (t, n) = (task as usize, node[task as usize] as usize);
            self.node[t] = n as u32;
            let start = self.ready_on(graph, t, n).max(self.free[n]);
            let end = start + graph.seconds(t, n);
            if end >= give_up {
                return f64::INFINITY;
            }
            (self.start[t], self.end[t]) = (start, end);
            self.free[n] = end;
            self.previous[t] = std::mem::replace(&mut self.last[n], task);
            makespan = makespan.max(end);
        }
        makespan
    }

    fn ready_on(&self, graph: &TaskGraph, t: usize, n: usize) -> f64 {
        let arrival = |&(from, data): &(u32, f64)| {
            self.end[from as usize] + graph.bring(data, self.node[from as usize] as usize, n)
        };
        graph.before[t].iter().map(arrival).fold(0.0, f64::max)
    }

    fn earliest(&mut self, graph: &TaskGraph, t: usize, bias: &[f64]) -> (usize, f64) {
        self.ready.fill(0.0);
        for &(from, data) in &graph.before[t] {
            let (end, node) = (self.end[from as usize], self.node[from as usize] as usize);
            let row = &graph.transfer[node * graph.nodes..(node + 1) * graph.nodes];
            for (ready, rate) in self.ready.iter_mut().zip(row) {
                *ready = ready.max(end + data * rate);
            }
        }
        let mut best = (f64::INFINITY, 0, 0.0);
        for n in 0..graph.nodes {
            let seconds = graph.seconds(t, n);
            let start = self.slot(n, self.ready[n], seconds);
            let extra = bias.get(t * graph.nodes + n).copied().unwrap_or(0.0);
            let key = start + seconds + extra;
            if key < best.0 {
                best = (key, n, start);
            }
        }
        (best.1, best.2)
    }

    /// The earliest start on a node from `ready` on, in a gap or after the last task.
    fn slot(&self, n: usize, ready: f64, seconds: f64) -> f64 {
        let line = &self.lines[n];
        let mut start = ready;
        let from = line.partition_point(|&(_, end)| end <= ready);
        for &(busy, end) in &line[from..] {
            if start + seconds <= busy {
                return start;
            }
            start = start.max(end);
        }
        start
    }

    /// The schedule that was built last.
    #[must_use]
    pub fn schedule(&self, makespan: f64) -> Schedule {
        Schedule { node: self.node.clone(), start: self.start.clone(), makespan }
    }
}

/// Upward ranks with mean compute and mean transfer times: the longest way to the end (Topcuoglu et
/// al. 2002, eq. 4). `weights` scales each task's rank share, 1 for the plain rank.
#[must_use]
pub fn upward_ranks(graph: &TaskGraph, comm: f64) -> Vec<f64> {
    let nodes = graph.nodes as f64;
    let mean = |t: usize| {
        graph.compute[t * graph.nodes..(t + 1) * graph.nodes].iter().sum::<f64>() / nodes
    };
    let per_unit = graph.transfer_mean() * comm;
    let mut rank = vec![0.0; graph.tasks];
    for &t in graph.order.iter().rev() {
        let t = t as usize;
        let after = graph.after[t].iter().map(|&(to, data)| rank[to as usize] + data * per_unit);
        rank[t] = mean(t) + after.fold(0.0, f64::max);
    }
    rank
}

/// The optimistic cost table (Arabnejad and Barbosa 2014): the longest way to the end after a task on
/// a node, if every later task took its best node.
#[must_use]
pub fn optimistic(graph: &TaskGraph) -> Vec<f64> {
    let (nodes, per_unit) = (graph.nodes, graph.transfer_mean());
    let mut table = vec![0.0; graph.tasks * nodes];
    for &t in graph.order.iter().rev() {
        for n in 0..nodes {
            let mut longest = 0.0f64;
            for &(to, data) in &graph.after[t as usize] {
                let to = to as usize;
                let way = |w: usize| {
                    let bring = if w == n { 0.0 } else { data * per_unit };
                    table[to * nodes + w] + graph.seconds(to, w) + bring
                };
                longest = longest.max((0..nodes).map(way).fold(f64::INFINITY, f64::min));
            }
            table[t as usize * nodes + n] = longest;
        }
    }
    table
}

/// Tasks in an order of falling priority in which every edge goes forward.
#[must_use]
pub fn by_priority(graph: &TaskGraph, priority: &[f64]) -> Vec<u32> {
    // Ready tasks in a heap; ties by the lower number.
    let mut left: Vec<usize> = graph.before.iter().map(Vec::len).collect();
    let mut heap = std::collections::BinaryHeap::new();
    let key = |t: usize| Key(priority[t], t as u32);
    (0..graph.tasks).filter(|&t| left[t] == 0).for_each(|t| heap.push(key(t)));
    let mut order = Vec::with_capacity(graph.tasks);
    while let Some(Key(_, t)) = heap.pop() {
        order.push(t);
        for &(to, _) in &graph.after[t as usize] {
            left[to as usize] -= 1;
            if left[to as usize] == 0 {
                heap.push(key(to as usize));
            }
        }
    }
    order
}

#[derive(PartialEq)]
struct Key(f64, u32);

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(other.1.cmp(&self.1))
    }
}

/// Heterogeneous earliest finish time, with insertion.
#[must_use]
pub fn heft(graph: &TaskGraph) -> Schedule {
    let order = by_priority(graph, &upward_ranks(graph, 1.0));
    let mut builder = Builder::new(graph);
    let makespan = builder.build(graph, &order, &[], f64::INFINITY);
    builder.schedule(makespan)
}
