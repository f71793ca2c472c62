//! A forecast and who makes one.
//!
//! Runs on the caller's thread; nothing here allocates or blocks. It must not know any one
//! forecaster.

use crate::features::Features;
use crate::history::{RATE_FLOOR, RATE_MAX, STEP_S};

/// Horizons, in steps of 5 s, that every forecaster answers: 30, 60, 120 and 300 s.
pub const KNOT_STEPS: [usize; KNOTS] = [6, 12, 24, 60];
/// Number of horizons.
pub const KNOTS: usize = 4;
/// The quantiles of a forecast.
pub const LEVELS: [f64; 3] = [0.1, 0.5, 0.9];
/// Shortest horizon in seconds; a shorter one is answered as this.
pub const HORIZON_MIN_S: f64 = KNOT_STEPS[0] as f64 * STEP_S;
/// Longest horizon in seconds; a longer one is answered as this.
pub const HORIZON_MAX_S: f64 = KNOT_STEPS[KNOTS - 1] as f64 * STEP_S;

/// Mean rate of a link over the horizon, in bytes per second: 9 of 10 times at least `p10`, half of the
/// time at least `p50`, 1 of 10 times at least `p90`. Always `RATE_FLOOR <= p10 <= p50 <= p90 <= RATE_MAX`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// The careful one.
    pub p10: f64,
    /// The middle.
    pub p50: f64,
    /// The bold one.
    pub p90: f64,
}

impl Forecast {
    /// From logarithms of bytes per second, whatever they are: sorted, bounded, and the floor where
    /// they are no numbers.
    pub fn from_logs(logs: [f64; 3]) -> Self {
        let mut rates = logs.map(|log| {
            let rate = log.exp();
            if rate.is_nan() { RATE_FLOOR } else { rate.clamp(RATE_FLOOR, RATE_MAX) }
        });
        rates.sort_unstable_by(f64::total_cmp);
        let [p10, p50, p90] = rates;
        Self { p10, p50, p90 }
    }

    /// The three quantiles, lowest first.
    pub fn quantiles(&self) -> [f64; 3] {
        [self.p10, self.p50, self.p90]
    }
}

/// Logarithms of P10, P50 and P90 at every knot, in ln(bytes per second).
pub type Logs = [[f32; 3]; KNOTS];

/// What a forecaster says at one moment, for every horizon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve(pub Logs);

impl Curve {
    /// The forecast of the mean rate over the next `horizon_s` seconds: linear in the logarithm
    /// between knots. Outside [`HORIZON_MIN_S`]..=[`HORIZON_MAX_S`], or for NaN, the nearest end
    /// (NaN: the shortest) answers.
    pub fn at(&self, horizon_s: f64) -> Forecast {
        let steps = (horizon_s / STEP_S).max(KNOT_STEPS[0] as f64);
        let after = KNOT_STEPS.iter().position(|&knot| knot as f64 >= steps);
        let (low, high) = match after {
            Some(0) => (0, 0),
            Some(knot) => (knot - 1, knot),
            None => (KNOTS - 1, KNOTS - 1),
        };
        let width = (KNOT_STEPS[high] - KNOT_STEPS[low]) as f64;
        let share = if width > 0.0 { (steps - KNOT_STEPS[low] as f64) / width } else { 0.0 };
        let mut logs = [0.0; 3];
        for (q, log) in logs.iter_mut().enumerate() {
            let (a, b) = (f64::from(self.0[low][q]), f64::from(self.0[high][q]));
            *log = a + share * (b - a);
        }
        Forecast::from_logs(logs)
    }
}

/// A way to forecast. The names are those of reports and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The rate of the last step.
    Last,
    /// Running mean with weight 0.2 on the newest step.
    Ewma,
    /// Mean of the last 300 s.
    Mean300,
    /// Mean of this hour of the week so far.
    Seasonal,
    /// Linear in the logarithms.
    Ridge,
    /// Gradient-boosted trees.
    Trees,
    /// LSTM 128-64-32.
    Lstm,
    /// What has been best lately on this link.
    Selector,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 8] = [
        Kind::Last,
        Kind::Ewma,
        Kind::Mean300,
        Kind::Seasonal,
        Kind::Ridge,
        Kind::Trees,
        Kind::Lstm,
        Kind::Selector,
    ];

    /// Its name in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Last => "last",
            Kind::Ewma => "ewma",
            Kind::Mean300 => "mean300",
            Kind::Seasonal => "seasonal",
            Kind::Ridge => "ridge",
            Kind::Trees => "trees",
            Kind::Lstm => "lstm",
            Kind::Selector => "selector",
        }
    }
}

/// One link at the end of one step.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// Rates of the closed steps in bytes per second, oldest first; never empty.
    pub rates: &'a [f64],
    /// The look of them.
    pub features: &'a Features,
    /// Number of the step that just closed, since the clock's start.
    pub step: u64,
}

/// Forecasts one link. It is told of every closed step once, in order.
pub trait Forecaster {
    /// Which way.
    fn kind(&self) -> Kind;

    /// A step has closed.
    fn observe(&mut self, moment: &Moment<'_>);

    /// What it says now. Before the first step: the floor, everywhere.
    fn curve(&self) -> Curve;

    /// The link's history began anew.
    fn restart(&mut self);
}

/// What is said before anything is known.
pub(crate) fn unknown() -> Curve {
    let low = RATE_FLOOR.ln() as f32;
    Curve([[low; 3]; KNOTS])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn between_knots_the_logarithm_is_linear() {
        let at = |log: f32| [log; 3];
        let curve = Curve([at(10.0), at(11.0), at(12.0), at(15.0)]);
        let log = |horizon_s| curve.at(horizon_s).p50.ln();
        for (horizon_s, expected) in
            [(30.0, 10.0), (45.0, 10.5), (60.0, 11.0), (210.0, 13.5), (300.0, 15.0)]
        {
            assert!((log(horizon_s) - expected).abs() < 1e-6, "{horizon_s}");
        }
        assert_eq!(curve.at(f64::NAN), curve.at(30.0));
        assert_eq!(curve.at(-5.0), curve.at(30.0));
        assert_eq!(curve.at(1e9), curve.at(300.0));
    }

    proptest! {
        #[test]
        fn quantiles_are_in_order_whatever_the_logs(logs in any::<[f32; 12]>(), s in any::<f64>()) {
            let mut knots = [[0.0; 3]; KNOTS];
            for (i, log) in logs.into_iter().enumerate() {
                knots[i / 3][i % 3] = log;
            }
            let f = Curve(knots).at(s);
            prop_assert!(RATE_FLOOR <= f.p10 && f.p10 <= f.p50);
            prop_assert!(f.p50 <= f.p90 && f.p90 <= RATE_MAX);
        }
    }
}
