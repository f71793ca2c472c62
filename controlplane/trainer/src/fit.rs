//! Fits every forecaster on some links, calibrates on others, and puts the model together.
//!
//! Runs on the caller's thread: seconds for the trees, minutes for the network (see [`crate::deep`]).

use std::sync::Arc;

use dwcp_prediction::{
    FEATURES, Forest, KNOTS, Kind, LEVELS, Logs, LstmState, LstmWeights, Model, Residuals,
    RidgeWeights, Simple, TreesWeights, WINDOW, ln_rate, pinball, ridge_scale,
};

use crate::boost::{Binned, Growth, grow, quantile};
use crate::error::TrainError;
use crate::linear;
use crate::trace::Trace;
use crate::windows::{FIT_STEPS_MIN, Table, Window, windows};

/// Windows that it takes to fit anything.
const WINDOWS_MIN: usize = 200;
/// A window weighs as the rate to this power: between equal shares and equal errors in bytes.
const RATE_POWER: f32 = 0.5;
/// And as the length of its trace to this power, so that one long session is not everything.
const LENGTH_POWER: f32 = -0.25;
/// Ridge penalty.
const PENALTY: f64 = 1e-3;
/// How the shipped trees grow.
const GROWTH: Growth = Growth { trees: 120, rate: 0.07, leaf_share: 0.004, row_percent: 50 };

/// Traces as windows, with the weight of each.
pub(crate) struct Data<'a> {
    traces: Vec<&'a Trace>,
    /// From the first step on, so that a network can run over them.
    pub(crate) windows: Vec<Window>,
    mean: f32,
}

impl<'a> Data<'a> {
    pub(crate) fn of(traces: &[&'a Trace]) -> Self {
        let windows = windows(traces, 1);
        let mut data = Self { traces: traces.to_vec(), windows, mean: 1.0 };
        let sum: f32 = data.windows.iter().map(|w| data.weight(w)).sum();
        data.mean = sum / data.windows.len().max(1) as f32;
        data
    }

    /// Weight of a window; one on average.
    pub(crate) fn weight(&self, window: &Window) -> f32 {
        let len = self.traces[window.trace].rates.len() as f32;
        (window.features.base * RATE_POWER).exp() * len.powf(LENGTH_POWER) / self.mean
    }

    /// The windows with enough history to fit on.
    fn old_enough(&self) -> Vec<Window> {
        self.windows.iter().filter(|w| w.at >= FIT_STEPS_MIN).cloned().collect()
    }
}

/// What a fit is made of.
pub(crate) struct Order<'a> {
    pub(crate) fit: &'a [&'a Trace],
    pub(crate) held_out: &'a [&'a Trace],
    pub(crate) lstm: Option<LstmWeights>,
    pub(crate) seed: u64,
    pub(crate) note: String,
}

/// Fits on the one part, calibrates and measures skill on the other. Nothing is fitted on the
/// calibration's links afterwards: whether a model is better than the one before is judged there.
///
/// # Errors
/// [`TrainError::TooFew`]: there is too little to learn from.
pub(crate) fn fit(order: &Order<'_>) -> Result<Model, TrainError> {
    let (data, held_out) = (Data::of(order.fit), Data::of(order.held_out));
    for (what, data) in [("fitting", &data), ("calibration", &held_out)] {
        let found = data.windows.iter().filter(|w| w.truths[KNOTS - 1].is_some()).count();
        if found < WINDOWS_MIN {
            return Err(TrainError::TooFew { what, found, needed: WINDOWS_MIN });
        }
    }
    let seen = data.old_enough();
    let judged = Judged::of(&held_out);
    let mut ridge = fit_ridge(&data, &seen);
    ridge.residuals = judged.shifts(|w, _| ridge.logs(&w.features), true);
    let mut trees = fit_trees(&data, &seen, order.seed);
    trees.shifts = judged.shifts(|w, _| trees.logs(&w.features), false);
    let mut lstm = order.lstm.clone();
    if let Some(lstm) = &mut lstm {
        lstm.shifts = [[0.0; 3]; KNOTS];
        let logs = run(lstm, &held_out);
        lstm.shifts = judged.shifts(|_, i| logs[i], false);
    }
    let residuals = [Kind::Last, Kind::Ewma, Kind::Mean300].map(|kind| residuals(kind, &data));
    let mut model = Model {
        seed: order.seed,
        windows: (data.windows.len() + held_out.windows.len()) as u64,
        note: order.note.clone(),
        default: Kind::Trees,
        skills: [[0.0; KNOTS]; Kind::ALL.len()],
        residuals,
        ridge: Arc::new(ridge),
        trees: Arc::new(trees),
        lstm: lstm.map(Arc::new),
    };
    model.skills = judged.skills(&model);
    model.default = best(&model);
    Ok(model)
}

fn fit_ridge(data: &Data<'_>, seen: &[Window]) -> RidgeWeights {
    let mut weights = [[0.0; FEATURES + 1]; KNOTS];
    for (knot, weights) in weights.iter_mut().enumerate() {
        *weights = linear::fit(&Table::of(seen, knot, |w| data.weight(w)), PENALTY);
    }
    RidgeWeights { weights, residuals: [[0.0; 3]; KNOTS] }
}

fn fit_trees(data: &Data<'_>, seen: &[Window], seed: u64) -> TreesWeights {
    let mut forests: [[Forest; 3]; KNOTS] = Default::default();
    for (knot, forests) in forests.iter_mut().enumerate() {
        let table = Table::of(seen, knot, |w| data.weight(w));
        let bins = Binned::of(&table.inputs);
        for (q, forest) in forests.iter_mut().enumerate() {
            let seed = seed.wrapping_mul(31).wrapping_add((knot * 3 + q) as u64);
            *forest = grow(&table, &bins, LEVELS[q] as f32, GROWTH, seed);
        }
    }
    TreesWeights { forests, shifts: [[0.0; 3]; KNOTS] }
}

/// Quantiles of a simple forecaster's error in logarithms; the middle one is 0, so that the point stays
/// what its name says.
fn residuals(kind: Kind, data: &Data<'_>) -> Residuals {
    let mut errors: [Vec<(f32, f32)>; KNOTS] = Default::default();
    for window in data.windows.iter().filter(|w| w.at >= WINDOW) {
        let Some(point) = point(kind, data.traces[window.trace], window) else { continue };
        for (errors, truth) in errors.iter_mut().zip(window.truths) {
            errors.extend(truth.map(|truth| (truth + window.features.base - point, 1.0)));
        }
    }
    errors.map(|mut errors| {
        [quantile(&mut errors, LEVELS[0] as f32), 0.0, quantile(&mut errors, LEVELS[2] as f32)]
    })
}

fn point(kind: Kind, trace: &Trace, window: &Window) -> Option<f32> {
    Simple::point(kind, &trace.rates[..window.at]).map(ln_rate)
}

/// What a network says at every window, its state kept from step to step of a trace.
fn run(lstm: &LstmWeights, data: &Data<'_>) -> Vec<Logs> {
    let mut state = LstmState::default();
    let mut trace = usize::MAX;
    let mut logs = Vec::with_capacity(data.windows.len());
    for window in &data.windows {
        if window.trace != trace {
            trace = window.trace;
            state.clear();
        }
        state.step(lstm, &window.features.values);
        logs.push(state.logs(lstm, &window.features));
    }
    logs
}

/// Mean pinball loss of the logarithm over all windows and knots.
#[cfg(feature = "lstm")]
pub(crate) fn network_loss(lstm: &LstmWeights, data: &Data<'_>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (window, logs) in data.windows.iter().zip(run(lstm, data)) {
        let weight = f64::from(data.weight(window));
        for (truth, logs) in window.truths.iter().zip(logs).filter(|_| window.at >= WINDOW) {
            let Some(truth) = truth else { continue };
            let truth = f64::from(truth + window.features.base);
            sum += weight * pinball(logs.map(f64::from), truth);
            count += weight;
        }
    }
    if count > 0.0 { sum / count } else { f64::INFINITY }
}

/// Held-out windows with a whole history.
struct Judged<'a> {
    data: &'a Data<'a>,
    places: Vec<usize>,
}

impl<'a> Judged<'a> {
    fn of(data: &'a Data<'a>) -> Self {
        let places = (0..data.windows.len()).filter(|&i| data.windows[i].at >= WINDOW).collect();
        Self { data, places }
    }

    /// How far the quantiles have to move, in units of the scale, to hold what they say here. The
    /// median moves only if `with_median`.
    fn shifts(&self, logs: impl Fn(&Window, usize) -> Logs, with_median: bool) -> Residuals {
        let mut shifts = [[0.0; 3]; KNOTS];
        let all: Vec<(usize, Logs)> =
            self.places.iter().map(|&i| (i, logs(&self.data.windows[i], i))).collect();
        for (knot, shifts) in shifts.iter_mut().enumerate() {
            for (q, shift) in shifts.iter_mut().enumerate() {
                if q == 1 && !with_median {
                    continue;
                }
                let error = |(i, logs): &(usize, Logs)| {
                    let window = &self.data.windows[*i];
                    let truth = window.truths[knot]? + window.features.base;
                    let len = self.data.traces[window.trace].rates.len() as f32;
                    let error = (truth - logs[knot][q]) / ridge_scale(&window.features);
                    // Every trace counts the same: links differ more than moments of one link.
                    Some((error, 1.0 / len))
                };
                let mut errors: Vec<(f32, f32)> = all.iter().filter_map(error).collect();
                *shift = quantile(&mut errors, LEVELS[q] as f32);
            }
        }
        shifts
    }

    /// Mean pinball loss of the logarithm relative to EWMA's, by kind and knot.
    fn skills(&self, model: &Model) -> [[f32; KNOTS]; Kind::ALL.len()] {
        let mut sums = [[0f64; KNOTS]; Kind::ALL.len()];
        let network = model.lstm.as_ref().map(|lstm| run(lstm, self.data));
        for &i in &self.places {
            let window = &self.data.windows[i];
            for (row, kind) in Kind::ALL.into_iter().enumerate() {
                let logs = match kind {
                    Kind::Ridge => Some(model.ridge.logs(&window.features)),
                    Kind::Trees => Some(model.trees.logs(&window.features)),
                    Kind::Lstm => network.as_ref().map(|logs| logs[i]),
                    Kind::Seasonal | Kind::Selector => None,
                    Kind::Last => self.simple(kind, &model.residuals[0], window),
                    Kind::Ewma => self.simple(kind, &model.residuals[1], window),
                    Kind::Mean300 => self.simple(kind, &model.residuals[2], window),
                };
                let Some(logs) = logs else { continue };
                for (knot, truth) in window.truths.iter().enumerate() {
                    let Some(truth) = truth else { continue };
                    let truth = f64::from(truth + window.features.base);
                    sums[row][knot] += pinball(logs[knot].map(f64::from), truth);
                }
            }
        }
        let ewma = sums[Kind::Ewma as usize];
        sums.map(|row| std::array::from_fn(|knot| (row[knot] / ewma[knot].max(1e-9)) as f32))
    }

    fn simple(&self, kind: Kind, residuals: &Residuals, window: &Window) -> Option<Logs> {
        let point = point(kind, self.data.traces[window.trace], window)?;
        Some(residuals.map(|row| row.map(|error| point + error)))
    }
}

/// The kind of least loss over all knots.
fn best(model: &Model) -> Kind {
    let loss = |kind: Kind| {
        let skills = model.skills[kind as usize];
        let sum: f32 = skills.iter().sum();
        if skills.contains(&0.0) { f32::INFINITY } else { sum }
    };
    let kinds = Kind::ALL.into_iter();
    kinds.min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap_or(Kind::Ewma)
}
