//! Gradient-boosted trees: one forest for each quantile and knot.
//!
//! Runs on the caller's thread; inference allocates nothing. It must not know how the trees grew.

use std::sync::Arc;

use crate::features::{FEATURES, Features};
use crate::forecast::{Curve, Forecaster, KNOTS, Kind, Logs, Moment, unknown};

/// Splits from the root to a leaf. Every tree is complete: a branch that ended early splits on and on
/// with the same value on both sides.
pub const DEPTH: usize = 5;
/// Splits of a tree.
pub const SPLITS: usize = (1 << DEPTH) - 1;
/// Leaves of a tree.
pub const LEAVES: usize = 1 << DEPTH;
/// Most trees of a forest.
pub const TREES_MAX: usize = 400;

/// A complete binary tree, splits by level from the root.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// Which feature each split looks at, below [`FEATURES`].
    pub features: [u8; SPLITS],
    /// Right if the feature is greater than this.
    pub thresholds: [f32; SPLITS],
    /// What each leaf adds to the logarithm.
    pub leaves: [f32; LEAVES],
}

impl Tree {
    /// What the tree adds for these features.
    pub fn value(&self, features: &[f32; FEATURES]) -> f32 {
        let mut node = 0;
        for _ in 0..DEPTH {
            let feature = usize::from(self.features[node]).min(FEATURES - 1);
            node = 2 * node + 1 + usize::from(features[feature] > self.thresholds[node]);
        }
        self.leaves[node - SPLITS]
    }
}

/// A constant and trees that correct it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Forest {
    /// Where it starts.
    pub start: f32,
    /// At most [`TREES_MAX`].
    pub trees: Vec<Tree>,
}

impl Forest {
    /// The sum of all.
    pub fn value(&self, features: &[f32; FEATURES]) -> f32 {
        self.start + self.trees.iter().map(|tree| tree.value(features)).sum::<f32>()
    }
}

/// Forests of all quantiles and knots, and by how much their quantiles are moved so that the interval
/// holds what it says on links they never saw (conformal calibration, Romano et al. 2019).
#[derive(Debug, Clone, PartialEq)]
pub struct TreesWeights {
    /// `[knot][quantile]`, relative to the base.
    pub forests: [[Forest; 3]; KNOTS],
    /// `[knot][quantile]`, added, in units of [`crate::ridge_scale`].
    pub shifts: [[f32; 3]; KNOTS],
}

impl TreesWeights {
    /// What they say for these features.
    pub fn logs(&self, features: &Features) -> Logs {
        let scale = crate::ridge::scale(features);
        let mut logs = self.shifts;
        for (knot, forests) in logs.iter_mut().zip(&self.forests) {
            for (log, forest) in knot.iter_mut().zip(forests) {
                *log = features.base + forest.value(&features.values) + *log * scale;
            }
        }
        logs
    }
}

/// The boosted trees on one link. Not scale equivariant: the link's level is one of the features.
#[derive(Debug, Clone)]
pub struct Trees {
    weights: Arc<TreesWeights>,
    curve: Curve,
}

impl Trees {
    /// With these weights.
    pub fn new(weights: Arc<TreesWeights>) -> Self {
        Self { weights, curve: unknown() }
    }
}

impl Forecaster for Trees {
    fn kind(&self) -> Kind {
        Kind::Trees
    }

    fn observe(&mut self, moment: &Moment<'_>) {
        self.curve = Curve(self.weights.logs(moment.features));
    }

    fn curve(&self) -> Curve {
        self.curve
    }

    fn restart(&mut self) {
        self.curve = unknown();
    }
}
