//! LSTM 128-64-32 in plain f32 with kept state: one step costs one pass over the weights.
//!
//! Runs on the caller's thread; a step allocates nothing. It must not know how it was trained. The
//! cell is that of Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000):
//! `i, f, o = sigmoid(..)`, `g = tanh(..)`, `c = f c + i g`, `h = o tanh(c)`.

use std::sync::Arc;

use crate::features::{FEATURES, Features};
use crate::forecast::{Curve, Forecaster, KNOTS, Kind, Logs, Moment, unknown};

/// Units of the three layers.
pub const LSTM_UNITS: [usize; LSTM_LAYERS] = [128, 64, 32];
/// Number of layers.
pub const LSTM_LAYERS: usize = 3;
/// Outputs of the head: for every knot the median, and the distances down to P10 and up to P90 before
/// the softplus that makes them positive.
pub const LSTM_OUTPUTS: usize = 3 * KNOTS;
/// Gates of a unit, in this order: input, forget, cell, output.
pub const LSTM_GATES: usize = 4;
/// Standardised inputs are cut to this.
pub const LSTM_INPUT_MAX: f32 = 5.0;
/// Width of the gates of the widest layer.
const GATES_MAX: usize = LSTM_GATES * LSTM_UNITS[0];
/// Rows taken in one pass over the sums.
const ROWS: usize = 4;

/// Inputs of each layer.
pub fn lstm_inputs(layer: usize) -> usize {
    match layer.checked_sub(1) {
        None => FEATURES,
        Some(before) => LSTM_UNITS.get(before).copied().unwrap_or(0),
    }
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmLayer {
    /// `[inputs + units][4 * units]`, row by row: what each input and each unit's last output adds to
    /// every gate; the gates lie as input, forget, cell, output.
    pub weights: Vec<f32>,
    /// `[4 * units]`.
    pub bias: Vec<f32>,
}

/// All weights.
#[derive(Debug, Clone, PartialEq)]
pub struct LstmWeights {
    /// Mean of every feature in training.
    pub means: [f32; FEATURES],
    /// One over its standard deviation.
    pub scales: [f32; FEATURES],
    /// The layers, first first.
    pub layers: [LstmLayer; LSTM_LAYERS],
    /// `[units of the last layer][LSTM_OUTPUTS]`, row by row.
    pub head: Vec<f32>,
    /// Constant of every output.
    pub head_bias: [f32; LSTM_OUTPUTS],
    /// `[knot][quantile]`, added, in units of [`crate::ridge_scale`]: conformal calibration.
    pub shifts: [[f32; 3]; KNOTS],
}

impl LstmWeights {
    /// Do all lengths fit the architecture?
    pub fn is_well_formed(&self) -> bool {
        let layers = self.layers.iter().enumerate().all(|(i, layer)| {
            let gates = LSTM_GATES * LSTM_UNITS[i];
            layer.weights.len() == (lstm_inputs(i) + LSTM_UNITS[i]) * gates
                && layer.bias.len() == gates
        });
        layers && self.head.len() == LSTM_UNITS[LSTM_LAYERS - 1] * LSTM_OUTPUTS
    }
}

/// Output and cell of every unit of one layer.
#[derive(Debug, Clone, Default)]
struct LayerState {
    hidden: Vec<f32>,
    cell: Vec<f32>,
}

/// What the network remembers of one link.
#[derive(Debug, Clone)]
pub struct LstmState {
    layers: [LayerState; LSTM_LAYERS],
    outputs: [f32; LSTM_OUTPUTS],
}

impl Default for LstmState {
    fn default() -> Self {
        let layers =
            LSTM_UNITS.map(|units| LayerState { hidden: vec![0.0; units], cell: vec![0.0; units] });
        Self { layers, outputs: [0.0; LSTM_OUTPUTS] }
    }
}

impl LstmState {
    /// Forgets.
    pub fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.hidden.fill(0.0);
            layer.cell.fill(0.0);
        }
        self.outputs.fill(0.0);
    }

    /// One step. Weights that are not well formed leave the state as it was.
    pub fn step(&mut self, weights: &LstmWeights, features: &[f32; FEATURES]) {
        if !weights.is_well_formed() {
            return;
        }
        let mut inputs = [0f32; FEATURES];
        for (i, input) in inputs.iter_mut().enumerate() {
            let value = (features[i] - weights.means[i]) * weights.scales[i];
            *input = value.clamp(-LSTM_INPUT_MAX, LSTM_INPUT_MAX);
        }
        let [first, second, third] = &mut self.layers;
        step_layer(&weights.layers[0], &inputs, first);
        step_layer(&weights.layers[1], &first.hidden, second);
        step_layer(&weights.layers[2], &second.hidden, third);
        self.outputs = weights.head_bias;
        add_rows(&mut self.outputs, &weights.head, &third.hidden);
    }

    /// The head's outputs after the latest step, as logarithms relative to the base, calibrated.
    pub fn logs(&self, weights: &LstmWeights, features: &Features) -> Logs {
        let scale = crate::ridge::scale(features);
        let mut logs = weights.shifts;
        for (knot, outputs) in logs.iter_mut().zip(self.outputs.chunks_exact(3)) {
            let [middle, down, up] = [outputs[0], softplus(outputs[1]), softplus(outputs[2])];
            for (log, value) in knot.iter_mut().zip([middle - down, middle, middle + up]) {
                *log = features.base + value + *log * scale;
            }
        }
        logs
    }
}

/// `sums += inputs x rows`, where `rows` has one row of `sums.len()` for every input.
fn add_rows(sums: &mut [f32], rows: &[f32], inputs: &[f32]) {
    let width = sums.len();
    let mut groups = rows.chunks_exact(ROWS * width);
    let mut quads = inputs.chunks_exact(ROWS);
    for (group, quad) in groups.by_ref().zip(quads.by_ref()) {
        let (a, rest) = group.split_at(width);
        let (b, rest) = rest.split_at(width);
        let (c, d) = rest.split_at(width);
        let [w, x, y, z] = [quad[0], quad[1], quad[2], quad[3]];
        for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
            *sum += (w * a + x * b) + (y * c + z * d);
        }
    }
    for (row, x) in groups.remainder().chunks_exact(width).zip(quads.remainder()) {
        for (sum, a) in sums.iter_mut().zip(row) {
            *sum += x * a;
        }
    }
}

fn step_layer(layer: &LstmLayer, inputs: &[f32], state: &mut LayerState) {
    let units = state.hidden.len();
    let mut buffer = [0f32; GATES_MAX];
    let sums = &mut buffer[..LSTM_GATES * units];
    sums.copy_from_slice(&layer.bias);
    let (from_inputs, from_hidden) = layer.weights.split_at(inputs.len() * sums.len());
    add_rows(sums, from_inputs, inputs);
    add_rows(sums, from_hidden, &state.hidden);
    let (input, rest) = sums.split_at(units);
    let (forget, rest) = rest.split_at(units);
    let (cell, output) = rest.split_at(units);
    let gates = input.iter().zip(forget).zip(cell).zip(output);
    let states = state.cell.iter_mut().zip(&mut state.hidden);
    for ((((input, forget), cell), output), (memory, hidden)) in gates.zip(states) {
        *memory = sigmoid(*forget) * *memory + sigmoid(*input) * tanh(*cell);
        *hidden = sigmoid(*output) * tanh(*memory);
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// `ln(1 + e^x)`: positive, and close to x where x is large.
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The network on one link. Not scale equivariant: the link's level is one of the features.
#[derive(Debug, Clone)]
pub struct Lstm {
    weights: Arc<LstmWeights>,
    state: LstmState,
    curve: Curve,
}

impl Lstm {
    /// With these weights and nothing remembered.
    pub fn new(weights: Arc<LstmWeights>) -> Self {
        Self { weights, state: LstmState::default(), curve: unknown() }
    }
}

impl Forecaster for Lstm {
    fn kind(&self) -> Kind {
        Kind::Lstm
    }

    fn observe(&mut self, moment: &Moment<'_>) {
        self.state.step(&self.weights, &moment.features.values);
        self.curve = Curve(self.state.logs(&self.weights, moment.features));
    }

    fn curve(&self) -> Curve {
        self.curve
    }

    fn restart(&mut self) {
        self.state.clear();
        self.curve = unknown();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Weights of the right shape from a small generator.
    pub(crate) fn some_weights(mut seed: u64, size: f32) -> LstmWeights {
        let mut next = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * size
        };
        let mut many = |n: usize| (0..n).map(|_| next()).collect::<Vec<f32>>();
        let layers = [0, 1, 2].map(|i| LstmLayer {
            weights: many((lstm_inputs(i) + LSTM_UNITS[i]) * LSTM_GATES * LSTM_UNITS[i]),
            bias: many(LSTM_GATES * LSTM_UNITS[i]),
        });
        LstmWeights {
            means: [0.1; FEATURES],
            scales: [2.0; FEATURES],
            layers,
            head: many(LSTM_UNITS[2] * LSTM_OUTPUTS),
            head_bias: [0.5; LSTM_OUTPUTS],
            shifts: [[0.0; 3]; KNOTS],
        }
    }

    /// The same step written the slow and obvious way, in f64.
    fn slow(weights: &LstmWeights, steps: &[[f32; FEATURES]]) -> Vec<f64> {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut hidden: Vec<Vec<f64>> = LSTM_UNITS.iter().map(|&n| vec![0.0; n]).collect();
        let mut cells = hidden.clone();
        for step in steps {
            let mut x: Vec<f64> = (0..FEATURES)
                .map(|i| f64::from(((step[i] - 0.1) * 2.0).clamp(-LSTM_INPUT_MAX, LSTM_INPUT_MAX)))
                .collect();
            for (l, layer) in weights.layers.iter().enumerate() {
                let n = LSTM_UNITS[l];
                let all: Vec<f64> = x.iter().chain(&hidden[l]).copied().collect();
                let gate = |g: usize, unit: usize| {
                    let column = g * n + unit;
                    let sum = all
                        .iter()
                        .enumerate()
                        .map(|(i, v)| v * f64::from(layer.weights[i * LSTM_GATES * n + column]));
                    sum.sum::<f64>() + f64::from(layer.bias[column])
                };
                for unit in 0..n {
                    let cell = sigmoid(gate(1, unit)) * cells[l][unit]
                        + sigmoid(gate(0, unit)) * gate(2, unit).tanh();
                    cells[l][unit] = cell;
                    x.resize(n.max(x.len()), 0.0);
                    x[unit] = sigmoid(gate(3, unit)) * cell.tanh();
                }
                x.truncate(n);
                hidden[l] = x.clone();
            }
        }
        let last = &hidden[LSTM_LAYERS - 1];
        (0..LSTM_OUTPUTS)
            .map(|o| {
                let sum = last.iter().enumerate();
                0.5 + sum
                    .map(|(i, h)| h * f64::from(weights.head[i * LSTM_OUTPUTS + o]))
                    .sum::<f64>()
            })
            .collect()
    }

    #[test]
    fn the_kernel_computes_what_the_formulas_say() {
        let weights = some_weights(1, 0.3);
        let steps: Vec<[f32; FEATURES]> =
            (0..5).map(|t| std::array::from_fn(|i| ((t * 7 + i) as f32 * 0.37).sin())).collect();
        let mut state = LstmState::default();
        for step in &steps {
            state.step(&weights, step);
        }
        for (fast, slow) in state.outputs.iter().zip(slow(&weights, &steps)) {
            assert!((f64::from(*fast) - slow).abs() < 1e-3, "{fast} {slow}");
        }
    }

    #[test]
    fn kept_state_equals_a_replay() {
        let weights = some_weights(2, 0.3);
        let features = Features::of(&[1e6, 2e6, 5e5]).expect("not empty");
        let (mut kept, mut replayed) = (LstmState::default(), LstmState::default());
        for n in 1..10 {
            kept.step(&weights, &features.values);
            replayed.clear();
            for _ in 0..n {
                replayed.step(&weights, &features.values);
            }
        }
        assert_eq!(kept.logs(&weights, &features), replayed.logs(&weights, &features));
    }

    #[test]
    fn weights_of_another_shape_do_nothing() {
        let mut weights = some_weights(3, 0.3);
        weights.head.pop();
        let mut state = LstmState::default();
        state.step(&weights, &[1.0; FEATURES]);
        assert_eq!(state.outputs, [0.0; LSTM_OUTPUTS]);
    }

    #[test]
    fn wild_weights_stay_finite_or_become_the_floor() {
        let weights = some_weights(4, 1e30);
        let features = Features::of(&[1e6]).expect("not empty");
        let mut state = LstmState::default();
        for _ in 0..3 {
            state.step(&weights, &features.values);
        }
        let forecast = Curve(state.logs(&weights, &features)).at(30.0);
        assert!(forecast.quantiles().iter().all(|q| q.is_finite()));
    }
}
