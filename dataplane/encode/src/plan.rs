//! What one frame will carry: the planner's decisions, before any byte is laid out.
//!
//! Made by the planner on the intake thread, read by a framer on any thread. Allocates when
//! created, never afterwards. Literal pages stay where they are; deltas are kept in here.

use dwcp_wire::{BlockId, PAGE_BYTES, PageIndex};

use crate::batch::{FRAME_ENTRIES_MAX, FRAME_PAGES_MAX};

/// Most bytes of deltas in one frame; pages past it go as literals.
pub const FRAME_DELTA_BYTES_MAX: usize = 256 << 10;

/// What happens to one page, or to a run of zero pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedPage {
    pub(crate) block: BlockId,
    pub(crate) index: PageIndex,
    pub(crate) op: PageOp,
}

/// How a page is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageOp {
    /// This and the following pages are zero.
    Zero { count: u32 },
    /// The same content as another page of the target; its guard.
    Duplicate { block: BlockId, index: PageIndex, guard: u32 },
    /// Bytes `at..at + length` of the plan's delta buffer, against the version with this guard.
    Delta { at: u32, length: u32, guard: u32 },
    /// 4096 bytes at this offset of the buffer that was planned.
    Literal { at: u32 },
    /// The hash of those bytes: the target may hold them, and answers.
    Ask { at: u32 },
}

/// A page that was asked for and may have to follow whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub(crate) block: BlockId,
    pub(crate) index: PageIndex,
    pub(crate) at: u32,
}

/// How many pages go which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// Zero pages sent, since they held something else before.
    pub zero: u64,
    /// Zero pages that the target never held anything else in: not sent.
    pub zero_skipped: u64,
    /// Pages equal to what was last sent for them: not sent.
    pub unchanged: u64,
    /// Copies of a page that the target holds.
    pub duplicate: u64,
    /// Deltas against the version last sent.
    pub delta: u64,
    /// Bytes of those deltas.
    pub delta_bytes: u64,
    /// Pages sent whole.
    pub literal: u64,
    /// Pages of which only the hash was sent; see [`Planner::follow`](crate::Planner::follow).
    pub asked: u64,
    /// Copies and deltas that were not possible only because an ack was missing.
    pub unacked: u64,
}

impl PlanCounts {
    /// Pages that were looked at.
    #[must_use]
    pub fn pages(&self) -> u64 {
        let sent = self.zero + self.duplicate + self.delta + self.literal + self.asked;
        sent + self.zero_skipped + self.unchanged
    }

    /// Adds another frame's counts.
    pub fn add(&mut self, other: &Self) {
        self.zero += other.zero;
        self.zero_skipped += other.zero_skipped;
        self.unchanged += other.unchanged;
        self.duplicate += other.duplicate;
        self.delta += other.delta;
        self.delta_bytes += other.delta_bytes;
        self.literal += other.literal;
        self.asked += other.asked;
        self.unacked += other.unacked;
    }
}

/// The decisions for one frame. Reused: planning into it clears it first.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) pages: Vec<PlannedPage>,
    pub(crate) delta_bytes: Vec<u8>,
    pub(crate) counts: PlanCounts,
    pub(crate) not_before: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self::new()
    }
}

impl Plan {
    /// An empty plan with room for any frame.
    #[must_use]
    pub fn new() -> Self {
        Self {
            pages: Vec::with_capacity(FRAME_ENTRIES_MAX),
            delta_bytes: Vec::with_capacity(FRAME_DELTA_BYTES_MAX),
            counts: PlanCounts::default(),
            not_before: None,
        }
    }

    /// Whether there is nothing to send: the slice number is still free for the next frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// How many pages go which way.
    #[must_use]
    pub fn counts(&self) -> &PlanCounts {
        &self.counts
    }

    /// The slice may leave only when *every* Pages slice up to and including this number is
    /// acked (`acked_below > not_before`): it overwrites a page that one of them copies from.
    /// That this one slice alone is acked is not enough.
    #[must_use]
    pub fn not_before(&self) -> Option<u64> {
        self.not_before
    }

    /// Bytes of a frame that carries the literals and deltas uncompressed, records not counted.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.literals() * PAGE_BYTES + self.delta_bytes.len()
    }

    /// The pages asked for, in the order in which the target answers.
    pub fn asks(&self) -> impl Iterator<Item = Asked> {
        self.pages.iter().filter_map(|page| match page.op {
            PageOp::Ask { at } => Some(Asked { block: page.block, index: page.index, at }),
            _ => None,
        })
    }

    pub(crate) fn literals(&self) -> usize {
        usize::try_from(self.counts.literal).unwrap_or(FRAME_PAGES_MAX)
    }

    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.delta_bytes.clear();
        self.counts = PlanCounts::default();
        self.not_before = None;
    }
}
