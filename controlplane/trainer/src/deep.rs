//! Trains the LSTM with burn on the CPU, in rounds that can be stopped between.
//!
//! Runs on the caller's thread, which burn may help with threads of its own. Each round starts Adam
//! (Kingma and Ba 2015) anew, so that a training that stopped after a round and went on later gives
//! the same weights as one that did not stop.

use burn::grad_clipping::GradientClipping;
use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::{sigmoid, softplus, tanh};
use burn::tensor::{Device, Tensor, TensorData};
use dwcp_prediction::{
    FEATURES, KNOTS, LEVELS, LSTM_GATES, LSTM_INPUT_MAX, LSTM_LAYERS, LSTM_OUTPUTS, LSTM_UNITS,
    LstmLayer, LstmWeights, lstm_inputs,
};

use crate::random::Random;
use crate::windows::Window;

/// Steps of a training sequence.
const SEQUENCE: usize = 72;
/// First steps of a sequence that are not judged: the state is still empty there.
const WARM_UP: usize = 8;
/// Sequences of a batch.
const BATCH: usize = 32;
/// Norm that the gradient of a parameter is cut to.
const GRADIENT_MAX: f32 = 1.0;

#[derive(Module, Debug)]
struct Cell {
    inputs: Param<Tensor<2>>,
    hidden: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Network {
    cells: Vec<Cell>,
    head: Param<Tensor<2>>,
    head_bias: Param<Tensor<1>>,
}

fn matrix(values: &[f32], rows: usize, columns: usize, device: &Device) -> Param<Tensor<2>> {
    let data = TensorData::new(values.to_vec(), [rows, columns]);
    Param::from_tensor(Tensor::from_data(data, device))
}

fn vector(values: &[f32], device: &Device) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device))
}

impl Network {
    fn of(weights: &LstmWeights, device: &Device) -> Self {
        let cell = |(i, layer): (usize, &LstmLayer)| {
            let (inputs, units) = (lstm_inputs(i), LSTM_UNITS[i]);
            let gates = LSTM_GATES * units;
            let (from_inputs, from_hidden) = layer.weights.split_at(inputs * gates);
            Cell {
                inputs: matrix(from_inputs, inputs, gates, device),
                hidden: matrix(from_hidden, units, gates, device),
                bias: vector(&layer.bias, device),
            }
        };
        Self {
            cells: weights.layers.iter().enumerate().map(cell).collect(),
            head: matrix(&weights.head, LSTM_UNITS[LSTM_LAYERS - 1], LSTM_OUTPUTS, device),
            head_bias: vector(&weights.head_bias, device),
        }
    }

    /// Writes the parameters back.
    fn save(&self, weights: &mut LstmWeights) {
        for (cell, layer) in self.cells.iter().zip(&mut weights.layers) {
            layer.weights = floats(cell.inputs.val());
            layer.weights.extend(floats(cell.hidden.val()));
            layer.bias = floats(cell.bias.val());
        }
        weights.head = floats(self.head.val());
        for (to, from) in weights.head_bias.iter_mut().zip(floats(self.head_bias.val())) {
            *to = from;
        }
    }

    /// `[SEQUENCE * batch][LSTM_OUTPUTS]` for `[SEQUENCE * batch][FEATURES]`, step by step.
    fn forward(&self, inputs: Tensor<2>, batch: usize, device: &Device) -> Tensor<2> {
        let mut flow = inputs;
        for (cell, units) in self.cells.iter().zip(LSTM_UNITS) {
            let gates = flow.matmul(cell.inputs.val()) + cell.bias.val().unsqueeze::<2>();
            let mut hidden = Tensor::<2>::zeros([batch, units], device);
            let mut memory = Tensor::<2>::zeros([batch, units], device);
            let mut outputs = Vec::with_capacity(SEQUENCE);
            for step in 0..SEQUENCE {
                let here = gates.clone().narrow(0, step * batch, batch);
                let sums = if step == 0 { here } else { here + hidden.matmul(cell.hidden.val()) };
                let gate = |i: usize| sums.clone().narrow(1, i * units, units);
                memory = sigmoid(gate(1)) * memory + sigmoid(gate(0)) * tanh(gate(2));
                hidden = sigmoid(gate(3)) * tanh(memory.clone());
                outputs.push(hidden.clone());
            }
            flow = Tensor::cat(outputs, 0);
        }
        flow.matmul(self.head.val()) + self.head_bias.val().unsqueeze::<2>()
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Mean pinball loss of the three quantiles, weighted.
fn loss(outputs: Tensor<2>, truths: Tensor<2>, weights: Tensor<2>) -> Tensor<1> {
    let rows = outputs.dims()[0];
    let outputs = outputs.reshape([rows, KNOTS, 3]);
    let part = |i: usize| outputs.clone().narrow(2, i, 1).reshape([rows, KNOTS]);
    let middle = part(0);
    let low = middle.clone() - softplus(part(1), 1.0);
    let high = middle.clone() + softplus(part(2), 1.0);
    let mut sum = Tensor::<2>::zeros([rows, KNOTS], &truths.device());
    for (quantile, level) in [low, middle, high].into_iter().zip(LEVELS) {
        let error = truths.clone() - quantile;
        let above = error.clone().clamp_min(0.0);
        let below = error.neg().clamp_min(0.0);
        sum = sum + above.mul_scalar(level) + below.mul_scalar(1.0 - level);
    }
    let total = weights.clone().sum();
    (sum * weights).sum() / total.clamp_min(1e-6)
}

/// Fresh weights: uniform within one over the root of the layer's inputs, and a forget gate that
/// begins open; means and scales are those of the windows.
pub(crate) fn fresh(windows: &[Window], seed: u64) -> LstmWeights {
    let mut random = Random::new(seed);
    let mut uniform = |n: usize, bound: f32| -> Vec<f32> {
        (0..n).map(|_| (random.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * bound).collect()
    };
    let layers = std::array::from_fn(|i| {
        let (inputs, units) = (lstm_inputs(i), LSTM_UNITS[i]);
        let gates = LSTM_GATES * units;
        let mut bias = vec![0.0; gates];
        bias[units..2 * units].fill(1.0);
        let bound = 1.0 / ((inputs + units) as f32).sqrt();
        LstmLayer { weights: uniform((inputs + units) * gates, bound), bias }
    });
    let (means, scales) = standard(windows);
    let last = LSTM_UNITS[LSTM_LAYERS - 1];
    LstmWeights {
        means,
        scales,
        layers,
        head: uniform(last * LSTM_OUTPUTS, 1.0 / (last as f32).sqrt()),
        head_bias: std::array::from_fn(|i| if i % 3 == 0 { 0.0 } else { -1.5 }),
        shifts: [[0.0; 3]; KNOTS],
    }
}

fn standard(windows: &[Window]) -> ([f32; FEATURES], [f32; FEATURES]) {
    let n = windows.len().max(1) as f64;
    let mut means = [0.0; FEATURES];
    let mut scales = [1.0; FEATURES];
    for (i, (mean, scale)) in means.iter_mut().zip(&mut scales).enumerate() {
        let value = |w: &Window| f64::from(w.features.values[i]);
        let average = windows.iter().map(value).sum::<f64>() / n;
        let square = windows.iter().map(|w| (value(w) - average).powi(2)).sum::<f64>() / n;
        *mean = average as f32;
        *scale = (1.0 / square.sqrt().max(1e-3)) as f32;
    }
    (means, scales)
}

/// A run of windows of one trace, one step after the other.
#[derive(Clone, Copy)]
struct Sequence {
    from: usize,
    len: usize,
    /// It begins where the trace does, so its first steps are judged too.
    is_start: bool,
}

/// Cuts the windows of every trace, which lie in order, into sequences from a random place on.
fn sequences(windows: &[Window], random: &mut Random) -> Vec<Sequence> {
    let mut cut = Vec::new();
    let mut from = 0;
    while from < windows.len() {
        let trace = windows[from].trace;
        let len = windows[from..].iter().take_while(|w| w.trace == trace).count();
        let first = if len > SEQUENCE { random.below(SEQUENCE as u32) as usize } else { 0 };
        let mut at = 0;
        let mut next = if first > 2 * WARM_UP { first } else { SEQUENCE.min(len) };
        while at + WARM_UP < len {
            let end = next.min(len);
            cut.push(Sequence { from: from + at, len: end - at, is_start: at == 0 });
            (at, next) = (end - WARM_UP.min(end), end - WARM_UP.min(end) + SEQUENCE);
            if end == len {
                break;
            }
        }
        from += len;
    }
    for i in (1..cut.len()).rev() {
        cut.swap(i, random.below(i as u32 + 1) as usize);
    }
    cut
}

/// Tensors of one batch, step by step.
struct Batch {
    inputs: Vec<f32>,
    truths: Vec<f32>,
    weights: Vec<f32>,
}

impl Batch {
    fn of(
        sequences: &[Sequence],
        windows: &[Window],
        shape: &LstmWeights,
        weight: &dyn Fn(&Window) -> f32,
    ) -> Self {
        let rows = SEQUENCE * BATCH;
        let mut batch = Self {
            inputs: vec![0.0; rows * FEATURES],
            truths: vec![0.0; rows * KNOTS],
            weights: vec![0.0; rows * KNOTS],
        };
        for (i, sequence) in sequences.iter().enumerate() {
            for step in 0..sequence.len.min(SEQUENCE) {
                let window = &windows[sequence.from + step];
                let row = step * BATCH + i;
                for feature in 0..FEATURES {
                    let value = window.features.values[feature] - shape.means[feature];
                    batch.inputs[row * FEATURES + feature] =
                        (value * shape.scales[feature]).clamp(-LSTM_INPUT_MAX, LSTM_INPUT_MAX);
                }
                if !sequence.is_start && step < WARM_UP {
                    continue;
                }
                for (knot, truth) in window.truths.iter().enumerate() {
                    if let Some(truth) = truth {
                        batch.truths[row * KNOTS + knot] = *truth;
                        batch.weights[row * KNOTS + knot] = weight(window);
                    }
                }
            }
        }
        batch
    }
}

/// One round: `epochs` passes over the windows at this learning rate. Returns the mean loss.
///
/// Windows of one trace lie together and in order, one for every step.
pub(crate) fn round(
    weights: &mut LstmWeights,
    windows: &[Window],
    weight: &dyn Fn(&Window) -> f32,
    epochs: u32,
    rate: f64,
    seed: u64,
) -> f64 {
    let device = Device::flex().autodiff();
    let mut network = Network::of(weights, &device);
    let mut adam =
        AdamConfig::new().init().with_grad_clipping(GradientClipping::Norm(GRADIENT_MAX));
    let mut random = Random::new(seed);
    let (mut sum, mut batches) = (0.0, 0u32);
    for _ in 0..epochs {
        for chunk in sequences(windows, &mut random).chunks(BATCH) {
            let batch = Batch::of(chunk, windows, weights, weight);
            let rows = SEQUENCE * BATCH;
            let tensor = |values: Vec<f32>, columns: usize| {
                Tensor::<2>::from_data(TensorData::new(values, [rows, columns]), &device)
            };
            let outputs = network.forward(tensor(batch.inputs, FEATURES), BATCH, &device);
            let loss = loss(outputs, tensor(batch.truths, KNOTS), tensor(batch.weights, KNOTS));
            let value: f64 = loss.clone().into_data().iter::<f64>().next().unwrap_or(f64::NAN);
            sum += value;
            batches += 1;
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = adam.step(rate, network, gradients);
        }
    }
    network.save(weights);
    sum / f64::from(batches.max(1))
}
