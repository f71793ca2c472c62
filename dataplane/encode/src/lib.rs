//! HDE: page encoding and decoding, pure.
#![forbid(unsafe_code)]

mod applier;
mod batch;
mod blocks;
pub mod bytes;
mod cache;
mod dedup;
mod delta;
mod entropy;
mod error;
mod frame;
mod hash;
#[cfg(test)]
mod history;
mod level;
mod plan;
mod planner;
mod record;
mod table;
mod varint;

pub use applier::{Applier, ApplyStats, PageStore};
pub use batch::{BatchFull, FRAME_ENTRIES_MAX, FRAME_PAGES_MAX, FRAME_ZERO_PAGES_MAX, PageBatch};
pub use blocks::{BLOCK_NAME_BYTES_MAX, BLOCKS_MAX, PAGES_MAX};
pub use delta::DELTA_BYTES_MAX;
pub use entropy::is_hopeless;
pub use error::{BlockError, DecodeError, FrameError, PlanError, UnpackError};
pub use frame::{
    FRAME_BODY_START, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FRAME_VERSION, Framed, Framer,
};
pub use hash::{HashAlgorithm, Leaf, Page, PageHasher};
pub use level::{Level, LevelConfig, LevelControl, LinkSample};
pub use plan::{FRAME_DELTA_BYTES_MAX, Plan, PlanCounts};
pub use planner::{Planner, PlannerConfig};
pub use table::{Root, SEQ_MAX};
