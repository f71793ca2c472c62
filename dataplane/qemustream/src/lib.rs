//! Parser and rewriter of QEMU's migration stream (migration/savevm.c and ram.c of QEMU 7.2 to 10).
//! Pure: no clock, socket, thread or file; runs on whichever thread reads the stream.
//! Allocates only when the block list arrives, never per page; never blocks.
//! It must not know how pages travel: it says where they lie in the caller's buffer.
//! Every length in the stream is bounded before it is believed.
#![forbid(unsafe_code)]

mod bitmap;
mod error;
pub mod layout;
pub mod multifd;
mod options;
mod parser;
mod ram;
pub mod record;
pub mod return_path;
mod run;
mod section;
mod sink;
mod tail;

pub use error::{Capability, StreamError};
pub use layout::{LOOKAHEAD_MAX, PAGE_BYTES};
pub use options::{BlockRule, DirectOptions, Mode};
pub use parser::Parser;
pub use sink::{Inserted, Mark, RamBlock, Sink, SyncPoint};
