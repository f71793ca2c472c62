//! The random graphs of Topcuoglu, Hariri and Wu (2002), section 5.1.

use super::model::{Edge, GraphError, TaskGraph};
use crate::Rng;

/// Parameters of a random graph, named as in the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphShape {
    /// Tasks (v).
    pub tasks: usize,
    /// Nodes.
    pub nodes: usize,
    /// Shape (alpha): height is sqrt(v) / alpha, mean width sqrt(v) x alpha.
    pub alpha: f64,
    /// Edges out of a task.
    pub out_degree: usize,
    /// Mean transfer over mean compute seconds (CCR).
    pub ccr: f64,
    /// How unlike the nodes are (beta): a task takes between mean x (1 - beta/2) and
    /// mean x (1 + beta/2).
    pub beta: f64,
}

/// Mean compute seconds of a task.
const MEAN_S: f64 = 10.0;

/// The graph of a seed. All links are alike, as in the paper.
///
/// # Errors
/// The shape has no nodes, or numbers that make no graph.
pub fn generate(shape: &GraphShape, seed: u64) -> Result<TaskGraph, GraphError> {
    let mut rng = Rng::new(seed);
    let levels = levels(shape, &mut rng);
    let mut edges = Vec::new();
    let mut first = 0;
    for pair in levels.windows(2) {
        let (next, count) = (first + pair[0], pair[1]);
        for from in first..next {
            let degree = 1 + rng.below((2 * shape.out_degree).max(2) - 1);
            let mut targets: Vec<usize> = (0..degree).map(|_| next + rng.below(count)).collect();
            targets.sort_unstable();
            targets.dedup();
            for to in targets {
                let data = MEAN_S * shape.ccr * rng.range(0.0, 2.0);
                edges.push(Edge { from: from as u32, to: to as u32, data });
            }
        }
        first = next;
    }
    let mut compute = Vec::with_capacity(shape.tasks * shape.nodes);
    for _ in 0..shape.tasks {
        let mean = rng.range(0.0, 2.0 * MEAN_S);
        for _ in 0..shape.nodes {
            compute.push(mean * rng.range(1.0 - shape.beta / 2.0, 1.0 + shape.beta / 2.0));
        }
    }
    TaskGraph::new(shape.nodes, compute, vec![1.0; shape.nodes * shape.nodes], &edges)
}

/// Tasks of each level.
fn levels(shape: &GraphShape, rng: &mut Rng) -> Vec<usize> {
    let root = (shape.tasks as f64).sqrt();
    let width = (2.0 * root * shape.alpha).max(1.0);
    let mut levels = Vec::new();
    let mut left = shape.tasks;
    while left > 0 {
        let count = (1 + rng.below(width.ceil() as usize)).min(left);
        levels.push(count);
        left -= count;
    }
    levels
}
