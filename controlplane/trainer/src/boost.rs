//! Grows gradient-boosted trees for a quantile (Friedman 2001, with the leaf values of the quantile
//! loss): histograms of 64 bins, whole levels at once, rows and features drawn anew for every tree.
//!
//! Runs on the caller's thread; memory is one byte a row and feature. The same seed gives the same
//! forest.

use dwcp_prediction::{DEPTH, FEATURES, Forest, LEAVES, SPLITS, Tree};

use crate::random::Random;
use crate::windows::Table;

/// Bins of a feature.
const BINS: usize = 64;
/// Share of the features that a tree may use, in percent.
const FEATURE_PERCENT: u32 = 50;
/// Added to a side's weight: small sides say little.
const RIDGE: f32 = 20.0;

/// How to grow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    pub(crate) trees: usize,
    pub(crate) rate: f32,
    /// Least share of all the weight in a leaf.
    pub(crate) leaf_share: f32,
    /// Share of the rows that a tree is grown on, in percent.
    pub(crate) row_percent: u32,
}

/// Inputs as bins.
pub(crate) struct Binned {
    /// `[feature][row]`.
    columns: Vec<Vec<u8>>,
    /// `[feature][bin]`: right of the bin means greater than this.
    edges: Vec<Vec<f32>>,
}

impl Binned {
    pub(crate) fn of(inputs: &[[f32; FEATURES]]) -> Self {
        let (mut columns, mut edges) = (Vec::new(), Vec::new());
        for feature in 0..FEATURES {
            let step = (inputs.len() / 20_000).max(1);
            let mut sorted: Vec<f32> =
                inputs.iter().step_by(step).map(|row| row[feature]).collect();
            sorted.sort_unstable_by(f32::total_cmp);
            let at = |bin: usize| sorted.get(bin * sorted.len() / BINS).copied().unwrap_or(0.0);
            let mut cuts: Vec<f32> = (1..BINS).map(at).collect();
            cuts.dedup();
            let bin = |row: &[f32; FEATURES]| cuts.partition_point(|cut| *cut < row[feature]) as u8;
            columns.push(inputs.iter().map(bin).collect());
            edges.push(cuts);
        }
        Self { columns, edges }
    }
}

/// Sums of gradient and weight.
#[derive(Clone, Copy, Default)]
struct Sum {
    gradient: f32,
    weight: f32,
}

impl Sum {
    fn score(self) -> f32 {
        self.gradient * self.gradient / (self.weight + RIDGE)
    }
}

#[derive(Clone, Copy)]
struct Split {
    gain: f32,
    feature: usize,
    bin: usize,
}

/// A forest for the `level` quantile of the table's truths.
pub(crate) fn grow(table: &Table, bins: &Binned, level: f32, growth: Growth, seed: u64) -> Forest {
    let mut random = Random::new(seed);
    let rows: Vec<u32> = (0..table.len() as u32).collect();
    let total: f32 = table.weights.iter().sum();
    let mean_weight = total / table.len().max(1) as f32;
    let weights: Vec<f32> = table.weights.iter().map(|w| w / mean_weight).collect();
    let mut all: Vec<(f32, f32)> =
        table.truths.iter().copied().zip(weights.iter().copied()).collect();
    let start = quantile(&mut all, level);
    let mut forest = Forest { start, trees: Vec::with_capacity(growth.trees) };
    let mut errors: Vec<f32> = table.truths.iter().map(|truth| truth - start).collect();
    for _ in 0..growth.trees {
        let drawn: Vec<u32> =
            rows.iter().copied().filter(|_| random.below(100) < growth.row_percent).collect();
        let mut grower = Grower { bins, errors: &errors, weights: &weights, level, growth };
        let tree = grower.tree(&drawn, &mut random);
        for (row, error) in errors.iter_mut().enumerate() {
            *error -= tree.value(&table.inputs[row]);
        }
        forest.trees.push(tree);
    }
    forest
}

struct Grower<'a> {
    bins: &'a Binned,
    errors: &'a [f32],
    weights: &'a [f32],
    level: f32,
    growth: Growth,
}

impl Grower<'_> {
    fn tree(&mut self, drawn: &[u32], random: &mut Random) -> Tree {
        let mut tree = Tree {
            features: [0; SPLITS],
            thresholds: [f32::INFINITY; SPLITS],
            leaves: [0.0; LEAVES],
        };
        let used: Vec<usize> =
            (0..FEATURES).filter(|_| random.below(100) < FEATURE_PERCENT).collect();
        let mut groups = vec![drawn.to_vec()];
        for depth in 0..DEPTH {
            let mut next = Vec::with_capacity(groups.len() * 2);
            for (i, rows) in groups.into_iter().enumerate() {
                let node = (1 << depth) - 1 + i;
                match self.split(&rows, &used, drawn.len()) {
                    Some(split) => {
                        tree.features[node] = split.feature as u8;
                        tree.thresholds[node] = self.bins.edges[split.feature][split.bin];
                        let column = &self.bins.columns[split.feature];
                        let right = |row: &u32| usize::from(column[*row as usize]) > split.bin;
                        let (high, low): (Vec<u32>, Vec<u32>) = rows.into_iter().partition(right);
                        next.push(low);
                        next.push(high);
                    }
                    // Everything goes left of infinity.
                    None => {
                        next.push(rows);
                        next.push(Vec::new());
                    }
                }
            }
            groups = next;
        }
        for (leaf, rows) in groups.iter().enumerate() {
            let mut errors: Vec<(f32, f32)> = rows
                .iter()
                .map(|&row| (self.errors[row as usize], self.weights[row as usize]))
                .collect();
            tree.leaves[leaf] = self.growth.rate * quantile(&mut errors, self.level);
        }
        tree
    }

    fn split(&self, rows: &[u32], used: &[usize], drawn: usize) -> Option<Split> {
        let least = self.growth.leaf_share * drawn as f32;
        let gradients: Vec<Sum> = rows
            .iter()
            .map(|&row| {
                let (error, weight) = (self.errors[row as usize], self.weights[row as usize]);
                let slope = if error > 0.0 { self.level } else { self.level - 1.0 };
                Sum { gradient: slope * weight, weight }
            })
            .collect();
        let mut whole = Sum::default();
        for sum in &gradients {
            whole.gradient += sum.gradient;
            whole.weight += sum.weight;
        }
        if whole.weight < 2.0 * least {
            return None;
        }
        let mut best: Option<Split> = None;
        for &feature in used {
            let mut sums = [Sum::default(); BINS];
            let column = &self.bins.columns[feature];
            for (&row, sum) in rows.iter().zip(&gradients) {
                let bin = &mut sums[usize::from(column[row as usize]) % BINS];
                bin.gradient += sum.gradient;
                bin.weight += sum.weight;
            }
            let mut left = Sum::default();
            for (bin, sum) in sums.iter().enumerate().take(self.bins.edges[feature].len()) {
                left.gradient += sum.gradient;
                left.weight += sum.weight;
                let right = Sum {
                    gradient: whole.gradient - left.gradient,
                    weight: whole.weight - left.weight,
                };
                if left.weight < least || right.weight < least {
                    continue;
                }
                let gain = left.score() + right.score() - whole.score();
                if gain > best.map_or(1e-6, |b| b.gain) {
                    best = Some(Split { gain, feature, bin });
                }
            }
        }
        best
    }
}

/// The weighted quantile of (value, weight); 0 of nothing. Reorders them.
pub(crate) fn quantile(values: &mut [(f32, f32)], level: f32) -> f32 {
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = values.iter().map(|v| f64::from(v.1)).sum();
    let mut sum = 0.0;
    for (value, weight) in values.iter() {
        sum += f64::from(*weight);
        if sum >= f64::from(level) * total {
            return *value;
        }
    }
    values.last().map_or(0.0, |v| v.0)
}
