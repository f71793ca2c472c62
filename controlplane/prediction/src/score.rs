//! How good forecasts were: the measures of every report.
//!
//! Pure sums on the caller's thread.

use crate::forecast::{Forecast, LEVELS};

/// A forecast within this share of the truth counts as right.
pub const RIGHT_SHARE: f64 = 0.3;

/// Mean pinball loss of the three quantiles (Koenker and Bassett 1978), in the unit of the truth.
pub fn pinball(quantiles: [f64; 3], truth: f64) -> f64 {
    let losses = quantiles.iter().zip(LEVELS).map(|(quantile, level)| {
        let error = truth - quantile;
        if error > 0.0 { level * error } else { (level - 1.0) * error }
    });
    losses.sum::<f64>() / LEVELS.len() as f64
}

/// Sums over many forecasts and what came.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// Forecasts.
    pub count: u64,
    /// Sum of |truth - P50|.
    pub absolute: f64,
    /// Sum of the truths.
    pub truth: f64,
    /// Forecasts whose P50 was within 30 % of the truth.
    pub right: u64,
    /// Sum of the pinball losses.
    pub pinball: f64,
    /// Truths within P10..=P90.
    pub covered: u64,
}

impl Score {
    /// Adds one; bytes per second. A truth that is no finite number is left out.
    pub fn add(&mut self, forecast: &Forecast, truth: f64) {
        if !truth.is_finite() {
            return;
        }
        let error = (truth - forecast.p50).abs();
        self.count += 1;
        self.absolute += error;
        self.truth += truth;
        self.right += u64::from(error <= RIGHT_SHARE * truth);
        self.pinball += pinball(forecast.quantiles(), truth);
        self.covered += u64::from(forecast.p10 <= truth && truth <= forecast.p90);
    }

    fn share(&self, sum: f64) -> f64 {
        if self.count == 0 { 0.0 } else { sum / self.count as f64 }
    }

    /// Mean absolute error in bytes per second; 0 of nothing, as all that follow.
    pub fn mae(&self) -> f64 {
        self.share(self.absolute)
    }

    /// Sum of the absolute errors over the sum of the truths.
    pub fn wape(&self) -> f64 {
        if self.truth > 0.0 { self.absolute / self.truth } else { 0.0 }
    }

    /// Share of forecasts within 30 %.
    pub fn right_share(&self) -> f64 {
        self.share(self.right as f64)
    }

    /// Mean pinball loss in bytes per second.
    pub fn mean_pinball(&self) -> f64 {
        self.share(self.pinball)
    }

    /// Share of truths between P10 and P90.
    pub fn coverage(&self) -> f64 {
        self.share(self.covered as f64)
    }
}

/// How well one horizon went lately on one link: exponentially forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Recent {
    /// Share of forecasts within 30 % of the truth: `dwcp_pba_prediction_accuracy`.
    pub right: f64,
    /// Share of truths between P10 and P90.
    pub coverage: f64,
    /// Mean pinball loss of the logarithm, and EWMA's.
    pub loss: f64,
    /// The same of EWMA.
    pub ewma_loss: f64,
    /// Forecasts that were judged, without forgetting.
    pub judged: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_what_their_names_say() {
        let mut score = Score::default();
        score.add(&Forecast { p10: 8.0, p50: 10.0, p90: 12.0 }, 11.0);
        score.add(&Forecast { p10: 8.0, p50: 10.0, p90: 12.0 }, 20.0);
        score.add(&Forecast { p10: 8.0, p50: 10.0, p90: 12.0 }, f64::NAN);
        assert_eq!((score.count, score.right, score.covered), (2, 1, 1));
        assert!((score.mae() - 5.5).abs() < 1e-12);
        assert!((score.wape() - 11.0 / 31.0).abs() < 1e-12);
        // (0.1 x 3 + 0.5 x 1 + 0.1 x 1) / 3 and (0.1 x 12 + 0.5 x 10 + 0.9 x 8) / 3.
        assert!((score.mean_pinball() - (0.3 + 13.4 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(Score::default().mae(), 0.0);
    }

    #[test]
    fn pinball_is_least_at_the_quantile() {
        let truths: Vec<f64> = (0..1_000).map(f64::from).collect();
        let mean = |p10: f64| truths.iter().map(|&t| pinball([p10, 500.0, 900.0], t)).sum::<f64>();
        assert!(mean(100.0) < mean(60.0) && mean(100.0) < mean(140.0));
    }
}
