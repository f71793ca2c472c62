//! What the learned forecasters look at: logarithms relative to the running mean, so that a link of ten
//! times the speed looks the same.
//!
//! Runs on the caller's thread, allocates nothing but a fixed array, never blocks. It must not know
//! any model.

use crate::history::{RATE_FLOOR, WINDOW};

/// Latest steps that stand in the features one by one.
pub const LAGS: usize = 12;
/// Length of [`Features::values`].
pub const FEATURES: usize = LAGS + 27;
/// Place of the standard deviation of the logarithms over 60 s.
pub(crate) const SPREAD_60_S: usize = LAGS + 11;
/// Place of the same over 300 s.
pub(crate) const SPREAD_300_S: usize = LAGS + 13;
/// Weight of the newest sample in the running mean that everything is relative to.
pub const EWMA_WEIGHT: f64 = 0.2;
/// Logarithms of ratios are cut to this range: e^6 is a factor of 400.
pub const LOG_RATIO_MAX: f32 = 6.0;

/// Natural logarithm of a rate in bytes per second, at least that of [`RATE_FLOOR`].
pub fn ln_rate(rate: f64) -> f32 {
    rate.max(RATE_FLOOR).ln() as f32
}

/// The look of one history at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Logarithm of the running mean (EWMA of weight 0.2), in ln(bytes per second).
    pub base: f32,
    /// Model inputs; each is finite. All but the last are independent of the link's scale as long as
    /// rates stay above [`RATE_FLOOR`].
    pub values: [f32; FEATURES],
}

/// Writes features one after the other.
struct Writer {
    values: [f32; FEATURES],
    used: usize,
}

impl Writer {
    fn put(&mut self, value: f32) {
        if let Some(slot) = self.values.get_mut(self.used) {
            let value = if value.is_finite() { value } else { 0.0 };
            *slot = value.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX);
        }
        self.used += 1;
    }
}

impl Features {
    /// Looks at rates in bytes per second, oldest first. `None` for no rates at all.
    ///
    /// Of more than [`WINDOW`] rates the older ones count only in the long means.
    pub fn of(rates: &[f64]) -> Option<Self> {
        let newest = *rates.last()?;
        let recent = &rates[rates.len().saturating_sub(WINDOW)..];
        let base = ln_rate(ewma(recent, EWMA_WEIGHT));
        let mut logs = [0f32; WINDOW];
        let logs = &mut logs[..recent.len()];
        for (log, &rate) in logs.iter_mut().zip(recent) {
            *log = ln_rate(rate) - base;
        }
        let mut out = Writer { values: [0.0; FEATURES], used: 0 };
        let oldest = logs[0];
        for lag in 0..LAGS {
            out.put(logs.len().checked_sub(lag + 1).map_or(oldest, |i| logs[i]));
        }
        for n in [3, 6, 12, 24, WINDOW] {
            out.put(ln_rate(mean(last(recent, n))) - base);
        }
        for weight in [0.5, 0.05] {
            out.put(ln_rate(ewma(recent, weight)) - base);
        }
        let long = mean(rates);
        out.put(ln_rate(long) - base);
        out.put(ln_rate(ewma(rates, 0.01)) - base);
        for n in [6, 12, WINDOW] {
            let logs = last(logs, n);
            out.put(spread(logs));
            out.put(slope(logs) * logs.len() as f32);
        }
        out.put(spread_linear(last(recent, LAGS)));
        out.put(spread_linear(recent));
        out.put(spread_linear(rates));
        out.put(lag_one(logs));
        order_statistics(&mut out, logs);
        out.put((rates.len() as f32 / WINDOW as f32).ln());
        out.put((newest.max(RATE_FLOOR) / 1e6).ln() as f32);
        debug_assert_eq!(out.used, FEATURES);
        Some(Self { base, values: out.values })
    }
}

fn order_statistics(out: &mut Writer, logs: &[f32]) {
    let mut sorted = [0f32; WINDOW];
    for n in [LAGS, WINDOW] {
        let logs = last(logs, n);
        let sorted = &mut sorted[..logs.len()];
        sorted.copy_from_slice(logs);
        sorted.sort_unstable_by(f32::total_cmp);
        let at = |share: f32| sorted[(share * (sorted.len() - 1) as f32).round() as usize];
        if n == LAGS {
            out.put(at(0.5));
        } else {
            for share in [0.1, 0.25, 0.5, 0.75, 0.9] {
                out.put(at(share));
            }
        }
    }
}

/// The last `n` of a slice, or all of it.
fn last<T>(values: &[T], n: usize) -> &[T] {
    &values[values.len().saturating_sub(n)..]
}

/// Mean; 0 of nothing.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Running mean that begins with the oldest value.
pub(crate) fn ewma(values: &[f64], weight: f64) -> f64 {
    let mut values = values.iter();
    let first = values.next().copied().unwrap_or(0.0);
    values.fold(first, |mean, value| mean + weight * (value - mean))
}

/// Standard deviation.
fn spread(values: &[f32]) -> f32 {
    let n = values.len() as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n).sqrt()
}

/// Standard deviation over mean.
fn spread_linear(values: &[f64]) -> f32 {
    let mean = mean(values);
    let squares = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>();
    ((squares / values.len() as f64).sqrt() / mean.max(RATE_FLOOR)) as f32
}

/// Least-squares slope per step.
fn slope(values: &[f32]) -> f32 {
    let middle = (values.len() as f32 - 1.0) / 2.0;
    let (mut above, mut below) = (0.0, 0.0);
    for (i, value) in values.iter().enumerate() {
        let x = i as f32 - middle;
        above += x * value;
        below += x * x;
    }
    if below > 0.0 { above / below } else { 0.0 }
}

/// Correlation of each step with the one before.
fn lag_one(values: &[f32]) -> f32 {
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let below: f32 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    let above: f32 = values.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum();
    if below > 1e-6 { above / below } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_has_no_features_and_one_sample_has() {
        assert_eq!(Features::of(&[]), None);
        let one = Features::of(&[0.0]).map(|f| f.base);
        assert_eq!(one, Some(ln_rate(RATE_FLOOR)));
    }

    proptest! {
        #[test]
        fn always_finite(rates in proptest::collection::vec(0.0..1e13f64, 1..800)) {
            let features = Features::of(&rates).expect("not empty");
            prop_assert!(features.base.is_finite());
            prop_assert!(features.values.iter().all(|v| v.is_finite()));
        }

        #[test]
        fn all_but_the_level_are_independent_of_scale(
            rates in proptest::collection::vec(1e4..1e8f64, 1..100), factor in 0.5..50.0f64,
        ) {
            let scaled: Vec<f64> = rates.iter().map(|r| r * factor).collect();
            let (one, other) = (Features::of(&rates), Features::of(&scaled));
            let (one, other) = (one.expect("not empty"), other.expect("not empty"));
            prop_assert!((other.base - one.base - factor.ln() as f32).abs() < 1e-3);
            for (a, b) in one.values.iter().zip(&other.values).take(FEATURES - 1) {
                prop_assert!((a - b).abs() < 1e-2, "{a} {b}");
            }
        }
    }
}
