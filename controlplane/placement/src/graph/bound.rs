//! How short a schedule can possibly be.

use super::model::TaskGraph;

/// Steps of the subgradient ascent.
const STEPS: usize = 400;

/// A lower bound of the makespan: the longer of the critical path with every task on its fastest node
/// and no transfers, and the work bound. The work bound is the Lagrangian dual of the fractional
/// assignment: for any shares s >= 0 with sum 1, makespan >= sum over tasks of min over nodes of
/// s(node) x seconds(task, node). The shares are improved by multiplicative steps.
#[must_use]
pub fn lower_bound(graph: &TaskGraph) -> f64 {
    let fastest =
        |t: usize| (0..graph.nodes).map(|n| graph.seconds(t, n)).fold(f64::INFINITY, f64::min);
    let mut end = vec![0.0f64; graph.tasks];
    let mut path = 0.0f64;
    for &t in &graph.order {
        let t = t as usize;
        let ready = graph.before[t].iter().map(|&(from, _)| end[from as usize]).fold(0.0, f64::max);
        end[t] = ready + fastest(t);
        path = path.max(end[t]);
    }
    path.max(work_prices(graph).0)
}

/// The work bound, and the shares (prices of a second on each node) that give it.
pub(super) fn work_prices(graph: &TaskGraph) -> (f64, Vec<f64>) {
    let nodes = graph.nodes;
    let mut share = vec![1.0 / nodes as f64; nodes];
    let mut best = (0.0f64, share.clone());
    for step in 0..STEPS {
        let mut load = vec![0.0f64; nodes];
        let mut bound = 0.0;
        for t in 0..graph.tasks {
            let mut least = (f64::INFINITY, 0);
            for (n, share) in share.iter().enumerate() {
                let cost = share * graph.seconds(t, n);
                if cost < least.0 {
                    least = (cost, n);
                }
            }
            bound += least.0;
            load[least.1] += graph.seconds(t, least.1);
        }
        if bound > best.0 {
            best = (bound, share.clone());
        }
        // A node that would get more than the others becomes dearer.
        let mean = load.iter().sum::<f64>() / nodes as f64;
        if mean <= 0.0 {
            break;
        }
        let pace = 0.5 / (1.0 + step as f64 / 10.0);
        for (share, load) in share.iter_mut().zip(&load) {
            *share *= (pace * (load / mean - 1.0).clamp(-1.0, 1.0)).exp();
        }
        let sum: f64 = share.iter().sum();
        share.iter_mut().for_each(|s| *s /= sum);
    }
    best
}
