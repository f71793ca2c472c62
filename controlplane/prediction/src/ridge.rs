//! Linear in the logarithms: the cheapest learned forecaster.
//!
//! Runs on the caller's thread; inference allocates nothing. It must not know how it was fitted.

use std::sync::Arc;

use crate::baseline::Residuals;
use crate::features::{FEATURES, Features};
use crate::forecast::{Curve, Forecaster, KNOTS, Kind, Logs, Moment, unknown};

/// Weights of every knot: one for each feature, then the constant.
#[derive(Debug, Clone, PartialEq)]
pub struct RidgeWeights {
    /// `[knot][feature]`; the last entry is the constant.
    pub weights: [[f32; FEATURES + 1]; KNOTS],
    /// Quantiles of the error in units of [`scale`].
    pub residuals: Residuals,
}

/// How uncertain a link looks: residuals are measured in this, so that a steady link gets a narrow
/// interval and a wild one a wide interval. Between 0.05 and 2.
pub fn scale(features: &Features) -> f32 {
    // Standard deviation of the logarithms over 60 s and over 300 s: see `Features::of`.
    let [short, long] = SPREADS.map(|i| features.values[i]);
    (0.05 + 0.5 * (short + long)).clamp(0.05, 2.0)
}

/// Places of the two spreads among the features.
const SPREADS: [usize; 2] = [crate::features::SPREAD_60_S, crate::features::SPREAD_300_S];

impl RidgeWeights {
    /// The logarithm of the expected rate relative to the base, at every knot.
    pub fn points(&self, features: &Features) -> [f32; KNOTS] {
        self.weights.map(|weights| {
            let (constant, weights) = (weights[FEATURES], &weights[..FEATURES]);
            constant + weights.iter().zip(&features.values).map(|(w, x)| w * x).sum::<f32>()
        })
    }

    /// What it says for these features.
    pub fn logs(&self, features: &Features) -> Logs {
        let (points, scale) = (self.points(features), scale(features));
        let mut logs = self.residuals;
        for (knot, point) in logs.iter_mut().zip(points) {
            for log in knot {
                *log = features.base + point + *log * scale;
            }
        }
        logs
    }
}

/// The ridge regression on one link. Not scale equivariant: the link's level is one of its features.
#[derive(Debug, Clone)]
pub struct Ridge {
    weights: Arc<RidgeWeights>,
    curve: Curve,
}

impl Ridge {
    /// With these weights.
    pub fn new(weights: Arc<RidgeWeights>) -> Self {
        Self { weights, curve: unknown() }
    }
}

impl Forecaster for Ridge {
    fn kind(&self) -> Kind {
        Kind::Ridge
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
