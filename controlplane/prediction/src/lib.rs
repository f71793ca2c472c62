//! PBA: forecasts of a link that know what they do not know, pure.
//!
//! Runs on whatever thread calls it: tens of microseconds for a new sample, nothing blocks. It has no
//! clock, file, thread or random source: every sample says when it was taken, weights come as
//! bytes. It must not know migrations, servers or how models are trained.
//!
//! # The way of a sample
//! ```text
//! Link::push(LinkSample)     History: means of 5 s, bounded, gaps and clocks answered
//!                            Features: logarithms relative to the running mean
//!                            Forecaster x 7: last, EWMA, 300 s, seasonal, ridge, trees, LSTM
//!                            Selector: weighs them by what they were worth here lately
//! Link::curve() -> Curve     P10, P50, P90 of the mean rate over the next 30 to 300 s
//! seconds_to_move, outlook   time, rounds and downtime with their intervals
//! Link::advise, quotas       go, wait or evacuate; who may use how much
//! ```
//!
//! # What holds
//! * `RATE_FLOOR <= P10 <= P50 <= P90 <= RATE_MAX` for every forecast, whatever the samples or the
//!   weights were; nothing is ever NaN and nothing panics on input.
//! * Last value, EWMA, 300 s mean and seasonal mean are scale equivariant above the floor. Ridge,
//!   trees and LSTM are not: the link's level is one of their inputs.
//! * A link without any closed step is forecast at the floor, 1 kB/s.
//! * Memory is bounded: about 100 kB a link, beside the weights, which all links share.
#![forbid(unsafe_code)]

mod advice;
mod baseline;
mod features;
mod forecast;
mod half;
mod history;
mod link;
mod lstm;
mod model;
mod quota;
mod retrain;
mod ridge;
mod score;
mod selector;
mod transfer;
mod trees;

pub use advice::{Advice, CAREFUL_SHARE, Job, NOW_SHARE, START_STEP_S, advise};
pub use baseline::{Residuals, Seasonal, Simple};
pub use features::{FEATURES, Features, LAGS, ln_rate};
pub use forecast::{
    Curve, Forecast, Forecaster, HORIZON_MAX_S, HORIZON_MIN_S, KNOT_STEPS, KNOTS, Kind, LEVELS,
    Logs, Moment,
};
pub use history::{
    BACKWARDS_MAX, GAP_STEPS_MAX, History, LinkSample, PathState, RATE_FLOOR, RATE_MAX, STEP_MS,
    STEP_S, STEPS_MAX, SampleError, Taken, WINDOW,
};
pub use link::Link;
pub use lstm::{
    LSTM_GATES, LSTM_INPUT_MAX, LSTM_LAYERS, LSTM_OUTPUTS, LSTM_UNITS, Lstm, LstmLayer, LstmState,
    LstmWeights, lstm_inputs,
};
pub use model::{MODEL_BYTES_MAX, MODEL_MAGIC, MODEL_VERSION, Model, ModelError, NOTE_BYTES_MAX};
pub use quota::{Demand, quotas};
pub use retrain::{RetrainPolicy, Why};
pub use ridge::{Ridge, RidgeWeights, scale as ridge_scale};
pub use score::{RIGHT_SHARE, Recent, Score, pinball};
pub use selector::Selector;
pub use transfer::{
    Guest, Outlook, PreCopy, ROUNDS_MAX, Road, SECONDS_MAX, Seconds, outlook, seconds_to_move,
};
pub use trees::{DEPTH, Forest, LEAVES, SPLITS, TREES_MAX, Tree, Trees, TreesWeights};
