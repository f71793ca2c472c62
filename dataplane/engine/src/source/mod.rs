//! The source side of a job: `send`. A parent holds the source QEMU's monitor, the record and the
//! decision; a child moves the bytes. The parent never touches page bytes, the child never QMP.

mod asking;
mod child;
mod child_process;
mod convergence;
mod encoder;
mod execute;
mod gate;
mod intake;
mod job;
mod keeping;
mod levels;
mod pipeline;
mod preflight;
mod shared;
mod sink;
mod skeleton;

pub use asking::UNANSWERED_MAX;
pub use child::run as run_child;
pub use convergence::Sample;
pub use job::{Options, resume, run};

use std::time::Duration;

/// How often the child reports its counters.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(20);
