//! Fits a new model, at low priority and in pieces if wanted, and takes it only when it is not worse than
//! the one in use.
//!
//! Runs on the caller's thread, or through [`Background`] on one of its own; blocks on files and
//! computes for minutes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use dwcp_prediction::{LstmWeights, MODEL_BYTES_MAX, Model};
use sha2::{Digest, Sha256};

use crate::checkpoint::{Checkpoint, write_whole};
use crate::error::TrainError;
use crate::evaluate::{evaluate, pinball_ratio};
use crate::fit::{Order, fit};
use crate::trace::{Part, Trace, read_folder};

/// Rounds of the network's training.
pub const ROUNDS: u32 = 12;
/// Passes over the windows in a round.
#[cfg(feature = "lstm")]
const EPOCHS: u32 = 2;
/// Learning rate of the first round and of the last.
#[cfg(feature = "lstm")]
const RATES: (f64, f64) = (2e-3, 5e-5);
/// Priority of a training: the lowest.
const NICE: i32 = 19;

/// What to train and where to put it.
#[derive(Debug, Clone)]
pub struct Retraining {
    /// Folder of traces.
    pub traces: PathBuf,
    /// The model file. Its forerunner is kept beside it as `NAME.previous`.
    pub model: PathBuf,
    /// The same seed and traces give the same model.
    pub seed: u64,
    /// Rounds of the network, 0 for a model without it. Training it needs the feature `lstm`.
    pub rounds: u32,
    /// Stop after this many rounds; the next call goes on from the checkpoint `NAME.checkpoint`.
    pub pause_after: Option<u32>,
    /// Put in front of the note in the model: how this was called.
    pub note: String,
}

/// How a retraining ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Retrained {
    /// The network's training stopped between rounds.
    Paused {
        /// Rounds done.
        rounds: u32,
        /// Loss of the best round on held-out links.
        loss: f64,
    },
    /// The new model is in use.
    Taken(Verdict),
    /// The new model was worse; the one before stays in use.
    Kept(Verdict),
}

/// Mean pinball loss of the selector on held-out links, relative to EWMA's, over sets and horizons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Of the new model.
    pub new: f64,
    /// Of the model before, if there was one that could be read.
    pub old: Option<f64>,
}

/// Trains. `cancelled` is asked between rounds and before the model is written.
///
/// # Errors
/// [`TrainError`]: files, too few traces, or cancelled. The model in use stays as it was.
pub fn retrain(order: &Retraining, cancelled: &AtomicBool) -> Result<Retrained, TrainError> {
    let traces = read_folder(&order.traces)?;
    let part = |part| traces.iter().filter(|t| t.part() == part).collect::<Vec<&Trace>>();
    let (seen, held_out) = (part(Part::Fit), part(Part::HeldOut));
    let network = match network(order, &seen, &held_out, cancelled)? {
        Network::None => None,
        Network::Done(weights) => Some(*weights),
        Network::Paused { rounds, loss } => return Ok(Retrained::Paused { rounds, loss }),
    };
    let note = format!("{} ({} traces)", order.note, seen.len() + held_out.len());
    let model =
        fit(&Order { fit: &seen, held_out: &held_out, lstm: network, seed: order.seed, note })?;
    let bytes = model.encode();
    // What is judged is what will be read.
    let model = Model::decode(&bytes)?;
    let new = pinball_ratio(&evaluate(&model, &held_out)?);
    let old = read_model(&order.model).ok().and_then(|old| evaluate(&old, &held_out).ok());
    let verdict = Verdict { new, old: old.map(|rows| pinball_ratio(&rows)) };
    if cancelled.load(Ordering::Relaxed) {
        return Err(TrainError::Cancelled);
    }
    if verdict.old.is_some_and(|old| verdict.new > old) || !verdict.new.is_finite() {
        return Ok(Retrained::Kept(verdict));
    }
    install(&order.model, &bytes)?;
    let _ = fs::remove_file(beside(&order.model, ".checkpoint"));
    Ok(Retrained::Taken(verdict))
}

/// Reads a model file.
///
/// # Errors
/// [`TrainError`]: it cannot be read, or is no model of this version.
pub fn read_model(path: &Path) -> Result<Model, TrainError> {
    let failed = |source| TrainError::File { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MODEL_BYTES_MAX as u64 {
        return Err(TrainError::TooLong { path: path.to_owned(), max: MODEL_BYTES_MAX as u64 });
    }
    Ok(Model::decode(&fs::read(path).map_err(failed)?)?)
}

/// Makes the model before the present one the present one, and the other way round.
///
/// # Errors
/// [`TrainError`]: there is none, or it cannot be read any more.
pub fn roll_back(path: &Path) -> Result<(), TrainError> {
    let previous = beside(path, ".previous");
    let failed = |source| TrainError::File { path: previous.clone(), source };
    read_model(&previous)?;
    let bytes = fs::read(&previous).map_err(failed)?;
    install(path, &bytes)
}

/// Puts a model in place; the one that was there becomes the previous one.
fn install(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    if let Ok(present) = fs::read(path) {
        write_whole(&beside(path, ".previous"), &present)?;
    }
    write_whole(path, bytes)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// The network of a retraining.
enum Network {
    None,
    Paused { rounds: u32, loss: f64 },
    Done(Box<LstmWeights>),
}

#[cfg(not(feature = "lstm"))]
fn network(
    order: &Retraining,
    _: &[&Trace],
    _: &[&Trace],
    _: &AtomicBool,
) -> Result<Network, TrainError> {
    if order.rounds > 0 { Err(TrainError::NoNetwork) } else { Ok(Network::None) }
}

#[cfg(feature = "lstm")]
fn network(
    order: &Retraining,
    seen: &[&Trace],
    held_out: &[&Trace],
    cancelled: &AtomicBool,
) -> Result<Network, TrainError> {
    use crate::deep;
    use crate::fit::{Data, network_loss};

    if order.rounds == 0 {
        return Ok(Network::None);
    }
    let (data, judged) = (Data::of(seen), Data::of(held_out));
    if data.windows.is_empty() || judged.windows.is_empty() {
        return Err(TrainError::TooFew { what: "the network", found: 0, needed: 1 });
    }
    let path = beside(&order.model, ".checkpoint");
    let fingerprint = fingerprint(order, seen, held_out);
    let mut state = Checkpoint::read(&path, fingerprint).unwrap_or_else(|| {
        let fresh = deep::fresh(&data.windows, order.seed);
        let best_loss = f64::INFINITY;
        Checkpoint { fingerprint, rounds: 0, best_loss, latest: fresh.clone(), best: fresh }
    });
    let mut now = 0;
    while state.rounds < order.rounds {
        if cancelled.load(Ordering::Relaxed) {
            return Err(TrainError::Cancelled);
        }
        if order.pause_after == Some(now) {
            return Ok(Network::Paused { rounds: state.rounds, loss: state.best_loss });
        }
        let turn = f64::from(state.rounds) / f64::from(order.rounds);
        let rate =
            RATES.1 + (RATES.0 - RATES.1) * 0.5 * (1.0 + (std::f64::consts::PI * turn).cos());
        let seed = order.seed.wrapping_mul(1_000).wrapping_add(u64::from(state.rounds));
        let weight = |w: &_| data.weight(w);
        deep::round(&mut state.latest, &data.windows, &weight, EPOCHS, rate, seed);
        // Through the file's precision, so that a pause changes nothing.
        state.latest = Model::of_lstm(state.latest).reread()?;
        let loss = network_loss(&state.latest, &judged);
        if !loss.is_finite() {
            return Err(TrainError::Diverged);
        }
        if loss < state.best_loss {
            (state.best_loss, state.best) = (loss, state.latest.clone());
        }
        (state.rounds, now) = (state.rounds + 1, now + 1);
        state.write(&path)?;
    }
    Ok(Network::Done(Box::new(state.best)))
}

/// What makes two trainings the same.
#[cfg(feature = "lstm")]
fn fingerprint(order: &Retraining, seen: &[&Trace], held_out: &[&Trace]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(order.seed.to_le_bytes());
    hash.update(order.rounds.to_le_bytes());
    for trace in seen.iter().chain(held_out) {
        hash.update((trace.name.len() as u64).to_le_bytes());
        hash.update(&trace.name);
        hash.update((trace.rates.len() as u64).to_le_bytes());
        trace.rates.iter().for_each(|rate| hash.update(rate.to_le_bytes()));
    }
    hash.finalize().into()
}

/// Gives this thread, and those it starts, the lowest priority. Where the system refuses, the
/// training goes on at the priority it has.
pub fn lower_priority() {
    let _ = rustix::process::nice(NICE);
}

/// A retraining on a thread of its own at the lowest priority.
#[derive(Debug)]
pub struct Background {
    cancelled: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<Retrained, TrainError>>,
}

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// [`TrainError::File`]: no thread can be started.
    pub fn start(order: Retraining) -> Result<Self, TrainError> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&cancelled);
        let work = move || {
            lower_priority();
            retrain(&order, &seen)
        };
        let thread = thread::Builder::new()
            .name("dwcp-retrain".to_owned())
            .spawn(work)
            .map_err(|source| TrainError::File { path: "thread".into(), source })?;
        Ok(Self { cancelled, thread })
    }

    /// Asks it to end; it does between two rounds.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Is it over?
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// What [`retrain`] says, or that it panicked.
    pub fn join(self) -> Result<Retrained, TrainError> {
        self.thread.join().unwrap_or(Err(TrainError::Diverged))
    }
}
