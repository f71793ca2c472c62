//! Trains the forecasters of `dwcp-prediction` from folders of traces, and judges them.
//!
//! Owns what that crate must not have: files, threads, priorities and burn. Everything runs on the
//! caller's thread except [`retrain::Background`]; nothing here is on the way of a migration. It must
//! not know servers or engines.
//!
//! Without the feature `lstm` (on by default) burn is not built, and everything works but training the
//! network.
#![forbid(unsafe_code)]
// Without the network its checkpoints and fingerprints have no caller.
#![cfg_attr(not(feature = "lstm"), allow(dead_code, unused_imports))]

mod boost;
mod checkpoint;
pub mod decide;
#[cfg(feature = "lstm")]
mod deep;
mod error;
pub mod evaluate;
pub(crate) mod fit;
mod linear;
pub mod plot;
mod random;
pub mod retrain;
pub mod trace;
mod windows;

pub use error::TrainError;
