//! The state of a training between two rounds, on disk.
//!
//! ```text
//! "DWCPPBC\0"  [u8; 32] fingerprint of traces, seed and schedule  u32 rounds done  f64 best loss
//! u32 length of the latest model's bytes  those bytes  the best model's bytes
//! ```

use std::fs;
use std::io::Write;
use std::path::Path;

use dwcp_prediction::{LstmWeights, MODEL_BYTES_MAX, Model};

use crate::error::TrainError;

const MAGIC: [u8; 8] = *b"DWCPPBC\0";
const HEAD_BYTES: usize = 8 + 32 + 4 + 8 + 4;

/// Where a training of the network stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checkpoint {
    pub(crate) fingerprint: [u8; 32],
    pub(crate) rounds: u32,
    /// Least loss on held-out links so far.
    pub(crate) best_loss: f64,
    /// Weights after the latest round.
    pub(crate) latest: LstmWeights,
    /// Weights of the least loss.
    pub(crate) best: LstmWeights,
}

impl Checkpoint {
    /// Reads it; `None` when there is none, it is damaged, or it is of another training.
    pub(crate) fn read(path: &Path, fingerprint: [u8; 32]) -> Option<Self> {
        let bytes = fs::read(path).ok().filter(|b| b.len() <= 2 * MODEL_BYTES_MAX)?;
        let (head, models) = bytes.split_at_checked(HEAD_BYTES)?;
        if head[..8] != MAGIC || head[8..40] != fingerprint {
            return None;
        }
        let rounds = u32::from_le_bytes(head[40..44].try_into().ok()?);
        let best_loss = f64::from_le_bytes(head[44..52].try_into().ok()?);
        let length = u32::from_le_bytes(head[52..56].try_into().ok()?) as usize;
        let (latest, best) = models.split_at_checked(length)?;
        let lstm = |bytes| Some(Model::decode(bytes).ok()?.lstm?.as_ref().clone());
        let (latest, best) = (lstm(latest)?, lstm(best)?);
        Some(Self { fingerprint, rounds, best_loss, latest, best })
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> Result<(), TrainError> {
        let model = |lstm: &LstmWeights| Model::of_lstm(lstm.clone()).encode();
        let latest = model(&self.latest);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.fingerprint);
        bytes.extend(self.rounds.to_le_bytes());
        bytes.extend(self.best_loss.to_le_bytes());
        bytes.extend((latest.len() as u32).to_le_bytes());
        bytes.extend(latest);
        bytes.extend(model(&self.best));
        write_whole(path, &bytes)
    }
}

/// Writes a file beside its place, syncs it, and renames it: readers see the old or the new one.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let failed = |source| TrainError::File { path: path.to_owned(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    let mut file = fs::File::create(&beside).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}
