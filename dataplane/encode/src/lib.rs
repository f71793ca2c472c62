//! HDE: page encoding and decoding, pure.
//!
//! Runs on whatever thread calls it; every type says when it allocates, none blocks. It has no
//! clock, thread, file or random source: seeds, rates and times are arguments. It must not know
//! sockets, sessions or QEMU's stream, and sees guest memory through [`PageStore`] alone.
//!
//! # The way of a page
//! ```text
//! source, intake thread   PageBatch::push_page / push_zero   where the stream's pages lie
//!                         Planner::plan                      hash, compare, decide -> Plan
//! source, any thread      Framer::raw_in_place or ::frame    Plan -> slice body
//!                         LevelControl                       which level, from link and CPU
//! target, apply thread    Applier::apply                     slice body -> PageStore
//! both                    root()                             equal when memory is
//! ```
//! The planner keeps 24 bytes a page and two bounded stores, the applier 20 bytes a page and
//! 1.1 MiB (BLAKE3: 40 and 36); tables are zeroed by the allocator, so that memory the guest
//! never used costs nothing on either side.
//!
//! # The contract
//! * Both sides add the same blocks (id, name, pages) with the same hash and seed, and the
//!   target's memory is zero before the first frame.
//! * A plan that is not empty is sent under the slice number it was planned with, or the job is
//!   aborted. An empty one is not sent and its number is used again.
//! * A slice leaves only when all slices up to [`Plan::not_before`] are acked: the watermark
//!   counts, not that one slice. Otherwise slices may arrive in any order.
//! * The target answers every slice that asks for pages ([`Applier::answer`]); the source keeps the
//!   buffer until then and calls [`Planner::follow`].
//! * A slice is acked once [`Applier::apply`] has returned, and is applied exactly once.
//! * Any error from [`Applier::apply`] ends the job.
//!
//! # Trust
//! Every length and index of a frame is checked before use and nothing is allocated for one. A
//! record that relies on what the target holds carries a 32-bit guard of that content, which is
//! compared with what the store holds at that moment; a mismatch is an error. Guards and leaves
//! are independent, so that two contents with one leaf end the job instead of the guest's
//! integrity, except where the planner has nothing left to compare with: a page whose new
//! content has the leaf of the version last sent and whose old content is not cached any more
//! counts as unchanged. With XXH3 (128 bits, keyed by a secret seed) that withstands accidents,
//! with BLAKE3 also a guest that chooses its pages. Roots are compared at the end; they rest on
//! the same leaves.
#![forbid(unsafe_code)]

mod answer;
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

pub use answer::{ANSWER_BYTES_MAX, ANSWERS_MAX, ASK_BYTES, Answer, Held};
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
pub use plan::{Asked, FRAME_DELTA_BYTES_MAX, Plan, PlanCounts};
pub use planner::{Planner, PlannerConfig};
pub use table::{Root, SEQ_MAX};
