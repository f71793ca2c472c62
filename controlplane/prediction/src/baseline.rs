//! The simple forecasters: last value, running mean, mean of 300 s, mean of the hour of the week.
//!
//! They run on the caller's thread and allocate nothing after construction. Their intervals are
//! the quantiles of their own errors on the links that the model was fitted on.

use crate::features::{EWMA_WEIGHT, ewma, ln_rate, mean};
use crate::forecast::{Curve, Forecaster, KNOTS, Kind, Logs, Moment, unknown};
use crate::history::{STEP_MS, WINDOW};

/// Quantiles of ln(truth / forecast) at every knot: added to a point forecast they give its interval.
pub type Residuals = [[f32; 3]; KNOTS];

/// Hours of a week.
const HOURS: usize = 168;
/// Steps of an hour.
const HOUR_STEPS: u64 = 3_600_000 / STEP_MS;
/// Steps that an hour of the week needs before its mean counts.
const HOUR_STEPS_MIN: u32 = 60;
/// Weight of the newest step in the mean of its hour of the week: a day or two of that hour.
const HOUR_WEIGHT: f64 = 1.0 / 1_440.0;

/// A point and the quantiles of its error.
fn spread(point: f32, residuals: &Residuals) -> Curve {
    let mut logs: Logs = *residuals;
    for log in logs.iter_mut().flatten() {
        *log += point;
    }
    Curve(logs)
}

/// Last value, EWMA(0.2) or the mean of 300 s.
///
/// Scale equivariant: ten times the rates give ten times the forecast, above the floor.
#[derive(Debug, Clone)]
pub struct Simple {
    kind: Kind,
    residuals: Residuals,
    point: Option<f32>,
}

impl Simple {
    /// One of [`Kind::Last`], [`Kind::Ewma`], [`Kind::Mean300`]; any other kind counts as EWMA.
    pub fn new(kind: Kind, residuals: Residuals) -> Self {
        let kind = if matches!(kind, Kind::Last | Kind::Mean300) { kind } else { Kind::Ewma };
        Self { kind, residuals, point: None }
    }

    /// The point forecast of a kind in bytes per second for any horizon. `None` without rates.
    pub fn point(kind: Kind, rates: &[f64]) -> Option<f64> {
        let newest = *rates.last()?;
        let recent = &rates[rates.len().saturating_sub(WINDOW)..];
        Some(match kind {
            Kind::Last => newest,
            Kind::Mean300 => mean(recent),
            _ => ewma(recent, EWMA_WEIGHT),
        })
    }
}

impl Forecaster for Simple {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn observe(&mut self, moment: &Moment<'_>) {
        self.point = Self::point(self.kind, moment.rates).map(ln_rate);
    }

    fn curve(&self) -> Curve {
        self.point.map_or_else(unknown, |point| spread(point, &self.residuals))
    }

    fn restart(&mut self) {
        self.point = None;
    }
}

/// Mean of the hour of the week, once that hour has been seen for 300 s; before it, the mean of 300 s.
#[derive(Debug, Clone)]
pub struct Seasonal {
    residuals: Residuals,
    hours: Vec<(f64, u32)>,
    point: Option<f32>,
}

impl Seasonal {
    /// An empty week.
    pub fn new(residuals: Residuals) -> Self {
        Self { residuals, hours: vec![(0.0, 0); HOURS], point: None }
    }
}

impl Forecaster for Seasonal {
    fn kind(&self) -> Kind {
        Kind::Seasonal
    }

    fn observe(&mut self, moment: &Moment<'_>) {
        let Some(&newest) = moment.rates.last() else { return };
        let hour = (moment.step / HOUR_STEPS % HOURS as u64) as usize;
        let Some((rate, count)) = self.hours.get_mut(hour) else { return };
        let known = *count >= HOUR_STEPS_MIN;
        let recent = Simple::point(Kind::Mean300, moment.rates);
        self.point = if known { Some(ln_rate(*rate)) } else { recent.map(ln_rate) };
        *count = count.saturating_add(1);
        *rate += (newest - *rate) * (1.0 / f64::from(*count)).max(HOUR_WEIGHT);
    }

    fn curve(&self) -> Curve {
        self.point.map_or_else(unknown, |point| spread(point, &self.residuals))
    }

    /// The week stays: it is what this forecaster knows.
    fn restart(&mut self) {
        self.point = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Features;

    fn observe(forecaster: &mut dyn Forecaster, rates: &[f64], step: u64) {
        let features = Features::of(rates).expect("not empty");
        forecaster.observe(&Moment { rates, features: &features, step });
    }

    #[test]
    fn points_are_what_their_names_say() {
        let rates: Vec<f64> = (1..=100).map(|i| f64::from(i) * 1e5).collect();
        assert_eq!(Simple::point(Kind::Last, &rates), Some(1e7));
        assert_eq!(Simple::point(Kind::Mean300, &rates), Some(7.05e6));
        let ewma = Simple::point(Kind::Ewma, &rates).expect("not empty");
        assert!((ewma - 9.6e6).abs() < 1e3, "{ewma}");
        assert_eq!(Simple::point(Kind::Ewma, &[]), None);
    }

    #[test]
    fn an_hour_of_the_week_is_remembered_for_the_next_week() {
        let mut seasonal = Seasonal::new([[0.0; 3]; KNOTS]);
        let week = HOURS as u64 * HOUR_STEPS;
        for step in 0..HOUR_STEPS {
            observe(&mut seasonal, &[5e6], step);
        }
        observe(&mut seasonal, &[1e6], week / 2);
        assert!((seasonal.curve().at(30.0).p50 / 1e6 - 1.0).abs() < 1e-3);
        observe(&mut seasonal, &[1e6], week + 3);
        assert!((seasonal.curve().at(30.0).p50 / 5e6 - 1.0).abs() < 1e-3);
    }
}
