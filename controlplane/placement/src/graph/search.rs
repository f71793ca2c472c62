//! Searches on from the list heuristics.
//!
//! First many constructions: upward ranks with heavier or lighter transfers and noise, nodes chosen by
//! end time plus a share of the optimistic cost table. Then the best assignment and order are changed
//! step by step: a task, mostly one that holds up the end, goes to another node or earlier or later in
//! the order; a change stays if the schedule is not longer (or hardly longer, at first). Two searchers
//! with their own seeds; the better one answers.

use super::bound::work_prices;
use super::build::{Builder, by_priority, heft, optimistic, upward_ranks};
use super::model::{Schedule, TaskGraph};
use crate::Rng;
use crate::reassign::{Budget, Executor, Iterations};

/// Searchers of every run.
const SEARCHERS: u64 = 2;
/// Builds between two looks at the clock.
const LOOK_EVERY: u64 = 16;
/// Constructions of each searcher.
const CONSTRUCTIONS: u64 = 240;
/// Temperature at the start of a round of changes, as a share of the makespan times tasks^1.5: one
/// change matters less in a larger graph, and there is less time for each.
const WARM: f64 = 5.0;
/// And at its end.
const COLD: f64 = 0.25;
/// Changes of the first round; each next one has twice as many.
const ROUND: u64 = 8_000;
/// Tasks that go along with one.
const CLUSTER_MAX: usize = 12;

/// The answer, and what repeats it.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// The schedule; never longer than HEFT's.
    pub schedule: Schedule,
    /// Builds of each searcher.
    pub iterations: Iterations,
}

/// Searches for a short schedule. With a budget of nothing it is HEFT's.
#[must_use]
pub fn partition(
    graph: &TaskGraph,
    seed: u64,
    budget: &Budget<'_>,
    executor: &dyn Executor,
) -> Partition {
    let start = heft(graph);
    let tables = Tables { optimistic: optimistic(graph), waste: waste(graph) };
    let mut searchers: Vec<Searcher<'_>> = (0..SEARCHERS)
        .map(|i| {
            Searcher::new(graph, &tables, &start, seed.wrapping_mul(SEARCHERS).wrapping_add(i))
        })
        .collect();
    let mut done = 0;
    loop {
        let due = match budget {
            Budget::Time(deadline) => {
                if deadline.used() < 1.0 {
                    LOOK_EVERY
                } else {
                    0
                }
            }
            Budget::Iterations(n) => n.total().saturating_sub(done).min(LOOK_EVERY),
        };
        if due == 0 || graph.tasks == 0 {
            break;
        }
        let jobs = searchers.iter_mut().map(|searcher| {
            Box::new(move || (0..due).for_each(|_| searcher.step()))
                as Box<dyn FnOnce() + Send + '_>
        });
        executor.run(jobs.collect());
        done += due;
    }
    let mut schedule = start;
    for searcher in searchers {
        if searcher.best.makespan < schedule.makespan {
            schedule = searcher.best;
        }
    }
    Partition { schedule, iterations: Iterations::total_of(done) }
}

/// What a node choice costs beyond the end of the task, by task and node.
struct Tables {
    optimistic: Vec<f64>,
    waste: Vec<f64>,
}

/// Node-seconds lost, at the prices of the work bound, by not running a task where it is cheapest.
fn waste(graph: &TaskGraph) -> Vec<f64> {
    let (_, prices) = work_prices(graph);
    let mut table = Vec::with_capacity(graph.tasks * graph.nodes);
    for t in 0..graph.tasks {
        let cost = |n: usize| graph.seconds(t, n) * prices[n] * graph.nodes as f64;
        let least = (0..graph.nodes).map(cost).fold(f64::INFINITY, f64::min);
        table.extend((0..graph.nodes).map(|n| cost(n) - least));
    }
    table
}

struct Searcher<'a> {
    graph: &'a TaskGraph,
    tables: &'a Tables,
    bias: Vec<f64>,
    rng: Rng,
    builder: Builder,
    best: Schedule,
    builds: u64,
    /// Changes of this round, and how many are done.
    round: u64,
    round_at: u64,
    /// The walk: order, nodes, makespan.
    order: Vec<u32>,
    node: Vec<u32>,
    makespan: f64,
    position: Vec<u32>,
    /// Tasks that hold up the end of the walk's schedule.
    critical: Vec<u32>,
    /// Nodes as they were before the change at hand.
    undo: Vec<(u32, u32)>,
}

impl<'a> Searcher<'a> {
    fn new(graph: &'a TaskGraph, tables: &'a Tables, start: &Schedule, seed: u64) -> Self {
        Self {
            graph,
            tables,
            bias: Vec::new(),
            round: ROUND,
            round_at: 0,
            rng: Rng::new(seed),
            builder: Builder::new(graph),
            best: start.clone(),
            builds: 0,
            order: by_start(start, graph),
            node: start.node.clone(),
            makespan: start.makespan,
            position: vec![0; graph.tasks],
            critical: Vec::new(),
            undo: Vec::new(),
        }
    }

    fn step(&mut self) {
        if self.builds < CONSTRUCTIONS {
            self.construct();
        } else {
            self.change();
            self.next_round();
        }
        self.builds += 1;
    }

    fn construct(&mut self) {
        if self.builds < self.graph.nodes as u64 {
            return self.construct_alone(self.builds as u32);
        }
        let comm = [0.0, 0.5, 1.0, 1.0, 2.0, 4.0][self.rng.below(6)];
        let noise = [0.0, 0.02, 0.1, 0.3][self.rng.below(4)];
        let ahead = [0.0, 0.0, 0.25, 0.5, 1.0, 1.5][self.rng.below(6)];
        let thrift = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0][self.rng.below(6)];
        let mut rank = upward_ranks(self.graph, comm);
        rank.iter_mut().for_each(|r| *r *= 1.0 + noise * (self.rng.unit() - 0.5));
        let order = by_priority(self.graph, &rank);
        self.bias.clear();
        let both = self.tables.optimistic.iter().zip(&self.tables.waste);
        self.bias.extend(both.map(|(optimistic, waste)| ahead * optimistic + thrift * waste));
        let limit = self.best.makespan;
        let makespan = self.builder.build(self.graph, &order, &self.bias, limit);
        self.keep(makespan);
    }

    /// Everything on one node: nothing is transferred.
    fn construct_alone(&mut self, node: u32) {
        let nodes = vec![node; self.graph.tasks];
        let order = self.graph.order.clone();
        let limit = self.best.makespan;
        let makespan = self.builder.append(self.graph, &order, &nodes, limit);
        self.keep(makespan);
    }

    fn keep(&mut self, makespan: f64) {
        if makespan < self.best.makespan {
            self.best = self.builder.schedule(makespan);
            self.order = by_start(&self.best, self.graph);
            self.node.clone_from(&self.best.node);
            self.makespan = makespan;
        }
    }

    fn change(&mut self) {
        if self.critical.is_empty() {
            self.rebuild();
        }
        let pick = if self.rng.below(4) == 0 {
            self.rng.below(self.graph.tasks)
        } else {
            self.critical[self.rng.below(self.critical.len())] as usize
        };
        self.undo.clear();
        let kind = self.rng.below(8);
        let old_at = self.position[pick] as usize;
        let mut new_at = old_at;
        if kind < 5 {
            let node = self.other_node(pick);
            self.send(pick, node);
            if kind < 2 {
                self.send_neighbours(pick, node);
            }
        }
        if kind > 3 {
            new_at = self.other_place(pick);
            self.move_in_order(old_at, new_at);
        }
        let limit = self.limit();
        let makespan = self.builder.append(self.graph, &self.order, &self.node, limit);
        if makespan.is_finite() {
            self.makespan = makespan;
            self.find_critical();
            if makespan < self.best.makespan {
                self.best = self.builder.schedule(makespan);
            }
        } else {
            self.move_in_order(new_at, old_at);
            while let Some((t, node)) = self.undo.pop() {
                self.node[t as usize] = node;
            }
        }
    }

    fn send(&mut self, t: usize, node: u32) {
        self.undo.push((t as u32, self.node[t]));
        self.node[t] = node;
    }

    /// Sends what is joined to a task by an edge along with it, and what is joined to that, up to a
    /// random number: where data is heavy, a task alone gains nothing by leaving.
    fn send_neighbours(&mut self, t: usize, node: u32) {
        let most = 1 + self.rng.below(CLUSTER_MAX);
        let mut at = 0;
        while at < self.undo.len() && self.undo.len() <= most {
            let t = if at == 0 { t } else { self.undo[at].0 as usize };
            let graph = self.graph;
            for &(other, _) in graph.before[t].iter().chain(&graph.after[t]) {
                if self.node[other as usize] != node && self.rng.below(2) == 0 {
                    self.send(other as usize, node);
                }
            }
            at += 1;
        }
    }

    /// What the next schedule must stay below: the Metropolis rule, drawn first. At the end of a round
    /// the walk goes on, warm again, from the best schedule.
    fn limit(&mut self) -> f64 {
        let share = self.round_at as f64 / self.round as f64;
        let temperature = WARM * (COLD / WARM).powf(share) / (self.graph.tasks as f64).powf(1.5);
        let draw = -(1.0 - self.rng.unit()).ln();
        self.makespan * (1.0 + temperature * draw) + f64::MIN_POSITIVE
    }

    fn next_round(&mut self) {
        self.round_at += 1;
        if self.round_at >= self.round {
            (self.round, self.round_at) = (self.round.saturating_mul(2), 0);
            self.order = by_start(&self.best, self.graph);
            self.node.clone_from(&self.best.node);
            self.critical.clear();
        }
    }

    fn rebuild(&mut self) {
        for (at, &t) in self.order.iter().enumerate() {
            self.position[t as usize] = at as u32;
        }
        self.makespan = self.builder.append(self.graph, &self.order, &self.node, f64::INFINITY);
        self.find_critical();
    }

    /// Half of the time the node of a neighbour in the graph, where its data is; else any.
    fn other_node(&mut self, t: usize) -> u32 {
        let (before, after) = (&self.graph.before[t], &self.graph.after[t]);
        let near = before.len() + after.len();
        if near > 0 && self.rng.below(2) == 0 {
            let at = self.rng.below(near);
            let other = before.iter().chain(after).nth(at).map_or(0, |&(other, _)| other);
            return self.node[other as usize];
        }
        self.rng.below(self.graph.nodes) as u32
    }

    /// A place in the order between the last task it waits for and the first that waits for it.
    fn other_place(&mut self, t: usize) -> usize {
        let place = |&(other, _): &(u32, f64)| self.position[other as usize] as usize;
        let low = self.graph.before[t].iter().map(place).max().map_or(0, |p| p + 1);
        let high = self.graph.after[t].iter().map(place).min().unwrap_or(self.graph.tasks) - 1;
        low + self.rng.below(high - low + 1)
    }

    fn move_in_order(&mut self, from: usize, to: usize) {
        if from < to {
            self.order[from..=to].rotate_left(1);
        } else {
            self.order[to..=from].rotate_right(1);
        }
        let (low, high) = (from.min(to), from.max(to));
        for at in low..=high {
            self.position[self.order[at] as usize] = at as u32;
        }
    }

    /// Walks back from the last end: over what a task waited for, data or its node.
    fn find_critical(&mut self) {
        self.critical.clear();
        let b = &self.builder;
        let last = (0..self.graph.tasks).max_by(|&x, &y| b.end[x].total_cmp(&b.end[y]));
        let mut next = last;
        while let Some(t) = next {
            self.critical.push(t as u32);
            let (start, node) = (b.start[t], b.node[t] as usize);
            if start <= 0.0 {
                return;
            }
            let arrives = |&(from, data): &(u32, f64)| {
                let from = from as usize;
                (b.end[from] + self.graph.bring(data, b.node[from] as usize, node), from)
            };
            let held = self.graph.before[t].iter().map(arrives).find(|&(at, _)| at >= start);
            let before = b.previous[t] as usize;
            next = held.map(|(_, from)| from).or((before < self.graph.tasks).then_some(before));
        }
    }
}

/// Tasks by start; equal starts in an order in which every edge goes forward.
fn by_start(schedule: &Schedule, graph: &TaskGraph) -> Vec<u32> {
    let mut order = graph.order.clone();
    order.sort_by(|&a, &b| schedule.start[a as usize].total_cmp(&schedule.start[b as usize]));
    order
}
