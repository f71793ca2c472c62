//! The shortest schedule of a small graph, by branch and bound.
//!
//! Tasks are appended, in every order in which edges go forward, to every node. Some best schedule is
//! among these: sort a best schedule's tasks by start, and appending them in that order starts none
//! later.

use super::model::{Schedule, TaskGraph};

/// The best schedule, looked for below a known one (such as [`super::heft`]'s), or `None` when `steps_max` partial schedules were looked at without an end.
#[must_use]
pub fn exact(graph: &TaskGraph, start: Schedule, steps_max: u64) -> Option<Schedule> {
    let best = start;
    let fastest =
        |t: usize| (0..graph.nodes).map(|n| graph.seconds(t, n)).fold(f64::INFINITY, f64::min);
    let mut tail = vec![0.0; graph.tasks];
    for &t in graph.order.iter().rev() {
        let t = t as usize;
        let after = graph.after[t].iter().map(|&(to, _)| tail[to as usize]).fold(0.0, f64::max);
        tail[t] = fastest(t) + after;
    }
    let mut search = Search {
        graph,
        tail,
        best,
        node: vec![0; graph.tasks],
        start: vec![0.0; graph.tasks],
        end: vec![0.0; graph.tasks],
        free: vec![0.0; graph.nodes],
        left: graph.before.iter().map(Vec::len).collect(),
        done: vec![false; graph.tasks],
        steps_left: steps_max,
    };
    search.go(0, 0.0, 0.0).then_some(search.best)
}

struct Search<'a> {
    graph: &'a TaskGraph,
    /// Least seconds from a task's start to the end.
    tail: Vec<f64>,
    best: Schedule,
    node: Vec<u32>,
    start: Vec<f64>,
    end: Vec<f64>,
    free: Vec<f64>,
    left: Vec<usize>,
    done: Vec<bool>,
    steps_left: u64,
}

impl Search<'_> {
    /// Extends a partial schedule in all ways; `last` is the start of the task appended last: starts
    /// never fall, so that every schedule is met once.
    fn go(&mut self, placed: usize, last: f64, makespan: f64) -> bool {
        if placed == self.graph.tasks {
            if makespan < self.best.makespan {
                self.best =
                    Schedule { node: self.node.clone(), start: self.start.clone(), makespan };
            }
            return true;
        }
        if self.hopeless() {
            return true;
        }
        for t in 0..self.graph.tasks {
            if self.done[t] || self.left[t] > 0 {
                continue;
            }
            for n in 0..self.graph.nodes {
                if !self.append(t, n, placed, last, makespan) {
                    return false;
                }
            }
        }
        true
    }

    fn append(&mut self, t: usize, n: usize, placed: usize, last: f64, makespan: f64) -> bool {
        if self.steps_left == 0 {
            return false;
        }
        self.steps_left -= 1;
        let ready = self.ready(t, n);
        let end = ready + self.graph.seconds(t, n);
        let rest = self.graph.after[t].iter().map(|&(to, _)| self.tail[to as usize]);
        let bound = end + rest.fold(0.0, f64::max);
        if ready < last || bound >= self.best.makespan || self.others_late(t, ready) {
            return true;
        }
        let freed = std::mem::replace(&mut self.free[n], end);
        (self.node[t], self.start[t], self.end[t]) = (n as u32, ready, end);
        self.done[t] = true;
        self.graph.after[t].iter().for_each(|&(to, _)| self.left[to as usize] -= 1);
        let finished = self.go(placed + 1, ready, makespan.max(end));
        self.graph.after[t].iter().for_each(|&(to, _)| self.left[to as usize] += 1);
        self.done[t] = false;
        self.free[n] = freed;
        finished
    }

    /// Is there a ready task that cannot end in time on any node?
    fn hopeless(&self) -> bool {
        let late = |t: usize| {
            let after = self.graph.after[t].iter().map(|&(to, _)| self.tail[to as usize]);
            let rest = after.fold(0.0, f64::max);
            (0..self.graph.nodes)
                .all(|n| self.ready(t, n) + self.graph.seconds(t, n) + rest >= self.best.makespan)
        };
        (0..self.graph.tasks).any(|t| !self.done[t] && self.left[t] == 0 && late(t))
    }

    /// When a task whose predecessors are placed could start on a node.
    fn ready(&self, t: usize, n: usize) -> f64 {
        let arrives = |&(from, data): &(u32, f64)| {
            let from = from as usize;
            self.end[from] + self.graph.bring(data, self.node[from] as usize, n)
        };
        self.graph.before[t].iter().map(arrives).fold(self.free[n], f64::max)
    }

    /// Would some other waiting task, which may not start before this one, end too late?
    fn others_late(&self, t: usize, start: f64) -> bool {
        (0..self.graph.tasks)
            .any(|u| u != t && !self.done[u] && start + self.tail[u] >= self.best.makespan)
    }
}
