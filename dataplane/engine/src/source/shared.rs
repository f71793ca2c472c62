//! Counters and flags that the source's threads share: written by one, read by others, no lock.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};

use dwcp_encode::{Held, PlanCounts};

use crate::report::{KnownBy, PageKinds};

/// What the child's threads tell each other besides slices.
#[derive(Debug, Default)]
pub struct Shared {
    /// Everything ends.
    pub abort: AtomicBool,
    /// The guest is stopped: small batches now.
    pub stopped: AtomicBool,
    /// Guest pages taken over.
    pub pages_in: AtomicU64,
    /// Bytes read from QEMU and not yet handed to the session.
    pub unencoded_bytes: AtomicU64,
    /// Level in use, 0 for off.
    pub level: AtomicI32,
    zero: AtomicU64,
    duplicate: AtomicU64,
    known: AtomicU64,
    delta: AtomicU64,
    zstd: AtomicU64,
    raw: AtomicU64,
    image: AtomicU64,
    checkpoint: AtomicU64,
    sibling: AtomicU64,
}

impl Shared {
    /// True once everything ends.
    #[must_use]
    pub fn aborted(&self) -> bool {
        self.abort.load(Relaxed)
    }

    /// Counts a batch's pages by kind; whole pages count as sent compressed or raw.
    pub fn count(&self, kinds: &PlanCounts, compressed: bool) {
        self.zero.fetch_add(kinds.zero + kinds.zero_skipped, Relaxed);
        self.duplicate.fetch_add(kinds.duplicate, Relaxed);
        self.known.fetch_add(kinds.unchanged, Relaxed);
        self.delta.fetch_add(kinds.delta, Relaxed);
        let whole = if compressed { &self.zstd } else { &self.raw };
        whole.fetch_add(kinds.literal, Relaxed);
    }

    /// Counts a page that was asked for and found; one that was not found is counted when it is sent.
    pub fn count_held(&self, held: Held) {
        let counter = match held {
            Held::Nothing => return,
            Held::Image | Held::Newer => &self.image,
            Held::Checkpoint => &self.checkpoint,
            Held::Sibling => &self.sibling,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Where known pages were known from.
    #[must_use]
    pub fn known_by(&self) -> KnownBy {
        KnownBy {
            in_job: self.known.load(Relaxed),
            image: self.image.load(Relaxed),
            checkpoint: self.checkpoint.load(Relaxed),
            sibling: self.sibling.load(Relaxed),
        }
    }

    /// The pages so far, by kind.
    #[must_use]
    pub fn kinds(&self) -> PageKinds {
        PageKinds {
            zero: self.zero.load(Relaxed),
            duplicate: self.duplicate.load(Relaxed),
            known: self.known_by().total(),
            delta: self.delta.load(Relaxed),
            zstd: self.zstd.load(Relaxed),
            raw: self.raw.load(Relaxed),
        }
    }
}
