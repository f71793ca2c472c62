//! What can go wrong while training and judging, and what to do about it.

use std::io;
use std::path::PathBuf;

use dwcp_prediction::ModelError;

/// Training, evaluation or a model file failed. The model in use stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file or folder cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A folder without traces.
    #[error("{folder}: no trace in it; unpack the collection there (lines of `seconds Mbit/s`)")]
    NoTraces {
        /// Which.
        folder: PathBuf,
    },
    /// A trace is broken.
    #[error("{path}, line {line}: {why}; mend the file or take it away")]
    Trace {
        /// Which.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong there.
        why: &'static str,
    },
    /// A file is longer than anything we would read.
    #[error("{path}: longer than {max} bytes; take it away")]
    TooLong {
        /// Which.
        path: PathBuf,
        /// The bound.
        max: u64,
    },
    /// More than we would work on.
    #[error("more than {max} {what}: name a smaller folder")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// Too little to fit or to judge a model.
    #[error("{what}: {found} windows where {needed} are needed; add traces")]
    TooFew {
        /// For what.
        what: &'static str,
        /// What there is.
        found: usize,
        /// What it takes.
        needed: usize,
    },
    /// A model file that is none.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// This build cannot train the network.
    #[error("built without the feature lstm: train with 0 rounds, or build with it")]
    NoNetwork,
    /// The training ran away.
    #[error("the training diverged; the model in use stays. Try another seed")]
    Diverged,
    /// It was asked to end.
    #[error("cancelled; the model in use stays, and a checkpoint of the last round")]
    Cancelled,
}
