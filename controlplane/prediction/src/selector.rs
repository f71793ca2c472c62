//! Weighs the forecasters of one link by what they were worth there lately.
//!
//! Runs on the caller's thread; memory is fixed: the forecasts of the last 300 s, which wait for their
//! truth. It must not know how a forecaster works.
//!
//! Losses are pinball losses of the logarithm, so that a link's speed does not matter. Every
//! forecaster starts with the loss it had on held-out links, counted as [`PRIOR_STEPS`] steps,
//! and what it lost on this link is forgotten exponentially. The weights are `exp(-loss/(tau x best))`: as
//! good as the best within a few, and a clear loser counts for nothing. When the blend has lost
//! more than EWMA lately, EWMA answers. The interval is then moved up and down by the
//! share of truths that fell out of it (adaptive conformal inference: Gibbs and Candes 2021).

use std::collections::VecDeque;

use crate::features::{LOG_RATIO_MAX, ln_rate, mean};
use crate::forecast::{Curve, KNOT_STEPS, KNOTS, Kind, LEVELS, Logs, Moment, unknown};
use crate::model::Model;
use crate::score::{RIGHT_SHARE, Recent, pinball};

/// Most forecasters.
const EXPERTS_MAX: usize = Kind::ALL.len();
/// Steps that the losses on held-out links count for at first.
const PRIOR_STEPS: f64 = 200.0;
/// What a loss counts after one more step: half after 360 steps, 30 minutes.
const KEEP: f64 = 0.998_076_443_6;
/// A loss that is this share above the best has its weight divided by e.
const TEMPERATURE: f64 = 0.04;
/// The blend may lose this much more than EWMA before EWMA answers.
const PATIENCE: f64 = 1.02;
/// Loss of EWMA on a link nothing is known of: a spread of about a fifth.
const EWMA_LOSS: f64 = 0.05;
/// Smallest loss: on a link without any change all are equally good.
const LOSS_MIN: f64 = 1e-4;
/// How far one truth outside the interval moves its end, as a share of the half width.
const WIDEN: f64 = 0.001;
/// Bounds of the factor on each half of the interval.
const WIDTH: (f64, f64) = (0.4, 3.0);

/// Forecasts of one moment, waiting.
#[derive(Debug, Clone)]
struct Waiting {
    experts: [Logs; EXPERTS_MAX],
    blend: Logs,
    shown: Logs,
}

/// Running sums of one forecaster at one knot.
#[derive(Debug, Clone, Copy, Default)]
struct Loss {
    sum: f64,
    weight: f64,
}

impl Loss {
    fn starting(loss: f64) -> Self {
        Self { sum: loss * PRIOR_STEPS, weight: PRIOR_STEPS }
    }

    fn add(&mut self, loss: f64) {
        self.sum = self.sum * KEEP + loss;
        self.weight = self.weight * KEEP + 1.0;
    }

    fn mean(&self) -> f64 {
        (self.sum / self.weight.max(1e-9)).max(LOSS_MIN)
    }
}

/// What is kept for one knot.
#[derive(Debug, Clone, Copy)]
struct Knot {
    losses: [Loss; EXPERTS_MAX],
    blend: Loss,
    /// Factors on the lower and upper half of the interval.
    widths: [f64; 2],
    right: Loss,
    covered: Loss,
    judged: u64,
}

/// Chooses among forecasters.
#[derive(Debug, Clone)]
pub struct Selector {
    kinds: Vec<Kind>,
    ewma: usize,
    knots: [Knot; KNOTS],
    waiting: VecDeque<Waiting>,
    curve: Curve,
}

impl Selector {
    /// For forecasters of these kinds, in this order.
    pub fn new(kinds: &[Kind], model: &Model) -> Self {
        let kinds: Vec<Kind> = kinds.iter().copied().take(EXPERTS_MAX).collect();
        let knots = std::array::from_fn(|knot| {
            let skill = |kind: Kind| {
                let row = Kind::ALL.iter().position(|&k| k == kind).unwrap_or(0);
                let skill = f64::from(model.skills[row][knot]);
                // Not measured: it has to show its worth here first.
                if skill > 0.0 { skill } else { 2.0 }
            };
            let mut losses = [Loss::default(); EXPERTS_MAX];
            let mut best = f64::INFINITY;
            for (loss, &kind) in losses.iter_mut().zip(&kinds) {
                *loss = Loss::starting(EWMA_LOSS * skill(kind));
                best = best.min(loss.mean());
            }
            let blend = Loss::starting(if best.is_finite() { best } else { EWMA_LOSS });
            let widths = [1.0; 2];
            let (right, covered) = (Loss::default(), Loss::default());
            Knot { losses, blend, widths, right, covered, judged: 0 }
        });
        let ewma = kinds.iter().position(|&k| k == Kind::Ewma).unwrap_or(0);
        let waiting = VecDeque::with_capacity(KNOT_STEPS[KNOTS - 1] + 1);
        Self { kinds, ewma, knots, waiting, curve: unknown() }
    }

    /// A step has closed: what was said before is judged, and something new is said.
    pub fn observe(&mut self, moment: &Moment<'_>, curve_of: impl Fn(usize) -> Curve) {
        self.judge(moment.rates);
        let mut experts = [[[0.0; 3]; KNOTS]; EXPERTS_MAX];
        for (i, expert) in experts.iter_mut().enumerate().take(self.kinds.len()) {
            *expert = curve_of(i).0;
        }
        let (mut blend, mut shown) = (Logs::default(), Logs::default());
        for (knot, state) in self.knots.iter().enumerate() {
            let weights = state.weights(self.kinds.len());
            for q in 0..LEVELS.len() {
                let sum = weights.iter().zip(&experts).map(|(w, e)| w * f64::from(e[knot][q]));
                blend[knot][q] = sum.sum::<f64>() as f32;
            }
            let is_behind = state.blend.mean() > PATIENCE * state.losses[self.ewma].mean();
            let said = if is_behind { experts[self.ewma][knot] } else { blend[knot] };
            let [low, high] = state.widths.map(|w| w as f32);
            shown[knot] = [
                said[1] - (said[1] - said[0]) * low,
                said[1],
                said[1] + (said[2] - said[1]) * high,
            ];
        }
        if self.waiting.len() > KNOT_STEPS[KNOTS - 1] {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { experts, blend, shown });
        self.curve = Curve(shown);
    }

    /// What it says now.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// The history began anew: what waits is never judged, what was learned stays.
    pub fn restart(&mut self) {
        self.waiting.clear();
        self.curve = unknown();
    }

    /// The forecaster of most weight at every knot.
    pub fn leaders(&self) -> [Kind; KNOTS] {
        let best = |state: &Knot| {
            let is_behind = state.blend.mean() > PATIENCE * state.losses[self.ewma].mean();
            let losses = state.losses.iter().zip(&self.kinds);
            let least = losses.min_by(|a, b| a.0.mean().total_cmp(&b.0.mean()));
            if is_behind { Kind::Ewma } else { least.map_or(Kind::Ewma, |(_, kind)| *kind) }
        };
        [0, 1, 2, 3].map(|knot: usize| best(&self.knots[knot]))
    }

    /// How well it did lately.
    pub fn recent(&self) -> [Recent; KNOTS] {
        self.knots.map(|state| Recent {
            right: state.right.sum / state.right.weight.max(1.0),
            coverage: state.covered.sum / state.covered.weight.max(1.0),
            loss: state.blend.mean(),
            ewma_loss: state.losses[self.ewma].mean(),
            judged: state.judged,
        })
    }

    /// Judges the forecasts whose horizon ends with the newest step.
    fn judge(&mut self, rates: &[f64]) {
        for (knot, steps) in KNOT_STEPS.into_iter().enumerate() {
            let Some(place) = self.waiting.len().checked_sub(steps) else { continue };
            let (Some(waiting), Some(from)) =
                (self.waiting.get(place), rates.len().checked_sub(steps))
            else {
                continue;
            };
            let truth = mean(&rates[from..]);
            let log = ln_rate(truth);
            let state = &mut self.knots[knot];
            let loss = |logs: &Logs| log_loss(logs[knot], log);
            for (sum, logs) in state.losses.iter_mut().zip(&waiting.experts).take(self.kinds.len())
            {
                sum.add(loss(logs));
            }
            state.blend.add(loss(&waiting.blend));
            state.judge(waiting.shown[knot], log, steps);
        }
    }
}

impl Knot {
    /// Shares of the forecasters; they sum to one.
    fn weights(&self, kinds: usize) -> [f64; EXPERTS_MAX] {
        let losses = &self.losses[..kinds.min(EXPERTS_MAX)];
        let best = losses.iter().map(Loss::mean).fold(f64::INFINITY, f64::min);
        let mut weights = [0.0; EXPERTS_MAX];
        for (weight, loss) in weights.iter_mut().zip(losses) {
            *weight = (-(loss.mean() / best - 1.0) / TEMPERATURE).exp();
        }
        let sum: f64 = weights.iter().sum();
        weights.map(|w| if sum > 0.0 { w / sum } else { 0.0 })
    }

    fn judge(&mut self, shown: [f32; 3], log: f32, steps: usize) {
        let (is_low, is_high) = (log < shown[0], log > shown[2]);
        // Truths of overlapping horizons fail together: each counts for its share of one.
        let step = WIDEN * 6.0 / steps as f64;
        for (width, is_out) in self.widths.iter_mut().zip([is_low, is_high]) {
            let tail = LEVELS[0];
            let error = if is_out { 1.0 - tail } else { -tail };
            *width = (*width * (1.0 + step * error / tail)).clamp(WIDTH.0, WIDTH.1);
        }
        let ratio = f64::from((shown[1] - log).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)).exp();
        self.right.add(f64::from(u8::from((ratio - 1.0).abs() <= RIGHT_SHARE)));
        self.covered.add(f64::from(u8::from(!is_low && !is_high)));
        self.judged += 1;
    }
}

/// Pinball loss of the logarithm, bounded so that one outage does not decide for an hour.
fn log_loss(logs: [f32; 3], truth: f32) -> f64 {
    let loss = pinball(logs.map(f64::from), f64::from(truth));
    if loss.is_finite() {
        loss.min(f64::from(LOG_RATIO_MAX) / 3.0)
    } else {
        f64::from(LOG_RATIO_MAX)
    }
}
