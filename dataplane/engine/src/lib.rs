//! Source and target jobs of the DWCP data plane: the library behind the binary `dwcp-engine`.
//! Control threads here talk to QEMU, keep the job's record and decide; the bytes move in the poll
//! loops of `dwcp-tcp`. It must not know the control plane.
#![forbid(unsafe_code)]

pub mod ask;
pub mod cli;
pub mod content;
mod cpu;
pub mod door;
pub mod error;
pub mod index;
pub mod ipc;
mod outcome;
mod progress;
pub mod qemu;
pub mod qmp;
pub mod records;
pub mod report;
pub mod signals;
mod slots;
pub mod source;
pub mod store;
pub mod target;
pub mod units;

pub use progress::{Event, Progress, Snapshot};
