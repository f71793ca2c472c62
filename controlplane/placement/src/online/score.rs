//! How good a node is for a guest that it can take. Whole numbers, so that the order is the same
//! everywhere.

use super::node::RESOURCES;

/// One full resource in score units.
pub const FULL: i64 = 1 << 16;
/// Worth of packing: a fuller node is better, it keeps others free for large guests.
const PACKING: i64 = 4;
/// Worth of evenness: a node that runs out of one resource strands the others.
const EVENNESS: i64 = 3;
/// What a member of the same spread group in the same zone costs.
const SPREAD: i64 = FULL / 4;
/// What taking a place on a node with free GPUs costs a guest that wants none.
const GPU_KEPT: i64 = 2 * FULL;

/// Why a node was chosen; the sum decides, higher is better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Score {
    /// For being full afterwards, 0 to 4 x 65,536.
    pub packing: i64,
    /// Against one resource being fuller than another, 0 or less.
    pub evenness: i64,
    /// Against members of the spread group in the zone, 0 or less.
    pub spread: i64,
    /// Against a guest without GPU beside free GPUs, 0 or less.
    pub gpu: i64,
}

impl Score {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.packing + self.evenness + self.spread + self.gpu
    }

    /// Scores a node: shares in use afterwards (0 to 65,536 each), members of the spread group in its
    /// zone, and whether free GPUs would stand beside a guest that wants none.
    #[inline]
    #[must_use]
    pub fn of(shares: [i64; RESOURCES], members: u32, beside_gpus: bool) -> Self {
        let (mut sum, mut low, mut high) = (0, i64::MAX, 0);
        for share in shares {
            sum += share;
            low = low.min(share);
            high = high.max(share);
        }
        Self {
            packing: PACKING * sum / RESOURCES as i64,
            evenness: -EVENNESS * (high - low),
            spread: -SPREAD * i64::from(members.min(1 << 20)),
            gpu: if beside_gpus { -GPU_KEPT } else { 0 },
        }
    }
}
