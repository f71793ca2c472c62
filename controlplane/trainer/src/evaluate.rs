//! Judges a model on links it never saw, step by step as it would live there.
//!
//! Runs on the caller's thread: about 0.1 ms a step of a trace.

use std::collections::BTreeMap;

use dwcp_prediction::{
    Forecast, KNOT_STEPS, KNOTS, Kind, Link, LinkSample, Model, RATE_MAX, STEP_MS, STEP_S, Score,
    WINDOW,
};
use serde::Serialize;

use crate::error::TrainError;
use crate::trace::{BYTES_PER_MBIT, Trace};
use crate::windows::ahead;

/// Parts of the speeds that coverage is told of.
const THIRDS: usize = 3;

/// Figures of one forecaster on one set at one horizon.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The set of traces.
    pub set: String,
    /// Seconds ahead.
    pub horizon_s: u32,
    /// Name of the forecaster.
    pub forecaster: &'static str,
    /// Forecasts judged.
    pub windows: u64,
    /// Mean absolute error in Mbit/s.
    pub mae_mbit_s: f64,
    /// Sum of errors over sum of truths.
    pub wape: f64,
    /// Share within 30 % of the truth.
    pub within_30: f64,
    /// Mean pinball loss of P10, P50 and P90 in Mbit/s.
    pub pinball_mbit_s: f64,
    /// Share of truths between P10 and P90.
    pub coverage: f64,
    /// The same by thirds of the speed (EWMA at the moment of the forecast), slowest first.
    pub coverage_by_third: [f64; THIRDS],
}

/// One forecast that was judged.
struct Judgement {
    forecast: Forecast,
    truth: f64,
    level: f64,
}

/// Every figure of a model on these traces.
///
/// # Errors
/// [`TrainError::TooFew`]: no trace is long enough to judge anything.
pub fn evaluate(model: &Model, traces: &[&Trace]) -> Result<Vec<Row>, TrainError> {
    let mut judged: BTreeMap<(String, usize, Kind), Vec<Judgement>> = BTreeMap::new();
    for trace in traces {
        follow(model, trace, |link, at| {
            let Some(level) = link.curve_of(Kind::Ewma).map(|c| c.at(0.0).p50) else { return };
            for (knot, steps) in KNOT_STEPS.into_iter().enumerate() {
                let Some(truth) = ahead(&trace.rates, at, steps) else { break };
                for kind in Kind::ALL {
                    let Some(curve) = link.curve_of(kind) else { continue };
                    let forecast = curve.at(steps as f64 * STEP_S);
                    let key = (trace.set.clone(), knot, kind);
                    judged.entry(key).or_default().push(Judgement { forecast, truth, level });
                }
            }
        });
    }
    if judged.is_empty() {
        return Err(TrainError::TooFew { what: "evaluation", found: 0, needed: 1 });
    }
    Ok(judged.iter().map(|(key, judged)| row(key, judged)).collect())
}

/// Mean over sets and horizons of the selector's pinball loss relative to EWMA's: what decides
/// whether a model is better than another.
pub fn pinball_ratio(rows: &[Row]) -> f64 {
    let of = |kind: Kind| rows.iter().filter(move |row| row.forecaster == kind.name());
    let same = |a: &Row, b: &Row| a.set == b.set && a.horizon_s == b.horizon_s;
    let (mut sum, mut count) = (0.0, 0.0);
    for ours in of(Kind::Selector) {
        if let Some(ewma) = of(Kind::Ewma).find(|row| same(row, ours)) {
            sum += ours.pinball_mbit_s / ewma.pinball_mbit_s.max(1e-9);
            count += 1.0;
        }
    }
    sum / count
}

/// Lives through a trace; calls back at every step with at least a window of history.
pub(crate) fn follow(model: &Model, trace: &Trace, mut at_step: impl FnMut(&Link, usize)) {
    let mut link = Link::new(model);
    for (step, rate) in trace.rates.iter().enumerate() {
        link.advance(step as u64 * STEP_MS);
        if step >= WINDOW {
            at_step(&link, step);
        }
        let sample = LinkSample::rate(step as u64 * STEP_MS, rate.min(RATE_MAX));
        // A trace holds only samples that a link takes.
        let _ = link.push(&sample);
    }
}

fn row(key: &(String, usize, Kind), judged: &[Judgement]) -> Row {
    let (set, knot, kind) = key;
    let mut levels: Vec<f64> = judged.iter().map(|j| j.level).collect();
    levels.sort_unstable_by(f64::total_cmp);
    let cut = |i: usize| levels[(i * levels.len() / THIRDS).min(levels.len() - 1)];
    let cuts = [cut(1), cut(2)];
    let mut all = Score::default();
    let mut thirds = [Score::default(); THIRDS];
    for judgement in judged {
        all.add(&judgement.forecast, judgement.truth);
        let third = cuts.iter().filter(|cut| judgement.level >= **cut).count();
        thirds[third].add(&judgement.forecast, judgement.truth);
    }
    Row {
        set: set.clone(),
        horizon_s: (KNOT_STEPS[(*knot).min(KNOTS - 1)] as f64 * STEP_S) as u32,
        forecaster: kind.name(),
        windows: all.count,
        mae_mbit_s: all.mae() / BYTES_PER_MBIT,
        wape: all.wape(),
        within_30: all.right_share(),
        pinball_mbit_s: all.mean_pinball() / BYTES_PER_MBIT,
        coverage: all.coverage(),
        coverage_by_third: thirds.map(|t| t.coverage()),
    }
}
