//! Windows of traces: what a forecaster would have seen, and what came then.

use dwcp_prediction::{FEATURES, Features, KNOT_STEPS, KNOTS, STEPS_MAX, ln_rate};

use crate::trace::Trace;

/// Steps that a history must have before a window of it is used for fitting.
pub(crate) const FIT_STEPS_MIN: usize = 12;

/// One moment of one trace.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// Which trace.
    pub(crate) trace: usize,
    /// Steps closed before this moment.
    pub(crate) at: usize,
    pub(crate) features: Features,
    /// ln(mean rate over the knot) - base; `None` where the trace ends before.
    pub(crate) truths: [Option<f32>; KNOTS],
}

/// Every window of these traces whose history has at least `steps_min` steps.
pub(crate) fn windows(traces: &[&Trace], steps_min: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    for (index, trace) in traces.iter().enumerate() {
        for at in steps_min..trace.rates.len() {
            let seen = &trace.rates[at.saturating_sub(STEPS_MAX)..at];
            let Some(features) = Features::of(seen) else { continue };
            let truths = KNOT_STEPS.map(|steps| {
                let truth = ahead(&trace.rates, at, steps)?;
                Some(ln_rate(truth) - features.base)
            });
            if truths[0].is_some() {
                windows.push(Window { trace: index, at, features, truths });
            }
        }
    }
    windows
}

/// Mean rate of the steps from `at` on; `None` where the trace ends before.
pub(crate) fn ahead(rates: &[f64], at: usize, steps: usize) -> Option<f64> {
    let window = rates.get(at..at + steps)?;
    Some(window.iter().sum::<f64>() / steps as f64)
}

/// Inputs and truths of one knot, with the weight of each.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) inputs: Vec<[f32; FEATURES]>,
    pub(crate) truths: Vec<f32>,
    pub(crate) weights: Vec<f32>,
}

impl Table {
    /// The windows that reach this knot.
    pub(crate) fn of(windows: &[Window], knot: usize, weight: impl Fn(&Window) -> f32) -> Self {
        let mut table = Self::default();
        for window in windows {
            let Some(truth) = window.truths[knot] else { continue };
            table.inputs.push(window.features.values);
            table.truths.push(truth);
            table.weights.push(weight(window));
        }
        table
    }

    pub(crate) fn len(&self) -> usize {
        self.truths.len()
    }
}
