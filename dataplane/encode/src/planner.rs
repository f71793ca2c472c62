//! Decides on the source how every page travels. Runs on the intake thread; allocates while
//! blocks are added and never afterwards; blocks nowhere. It knows slice numbers and the ack
//! watermark, nothing of sockets, codecs or QEMU.
//!
//! # Why no barrier is needed
//! Pages slices are numbered in the order of capture and arrive in any order; the target drops
//! what is older than the page it holds. Let `s` be the slice being planned.
//! * *Delta of P*: the version last sent was in a slice below the ack watermark, so the target
//!   holds it, and only a slice newer than `s` could replace it, after which `s` is dropped.
//! * *Q duplicates P*: P's last slice is below the watermark or is `s` itself, earlier in the
//!   frame. `s` is noted as P's reader; a later slice `w` that overwrites P carries
//!   `not_before >= s` and leaves only when everything up to there is applied, so P cannot
//!   change under `s`.
//! * *Asked*: P's first version travels as a hash in `s`. The watermark that the planner is given
//!   stays at or below `s` until the answer is there, so nothing relies on P before. If the target
//!   lacks it, the content follows in a later slice, unless a newer version has been sent already.
//! * *Skipped*: the content equals the version last sent (or the zero page that fresh memory
//!   is), whatever else is in flight for that page is older.

use dwcp_wire::{BlockId, HashAlgorithm, PageIndex};

use crate::batch::{Content, Entry, PageBatch};
use crate::cache::DeltaCache;
use crate::dedup::DedupIndex;
use crate::delta;
use crate::error::{BlockError, PlanError};
use crate::hash::{Leaf, Page, PageHasher, ZERO_PAGE};
use crate::plan::{Asked, FRAME_DELTA_BYTES_MAX, PageOp, Plan, PlannedPage};
use crate::table::{PageTable, Root, SEQ_MAX};

/// Hash, seed and memory bounds of a [`Planner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerConfig {
    /// Page hash, the same as the target's.
    pub hash: HashAlgorithm,
    /// Hash seed of the job, the same as the target's.
    pub seed: u64,
    /// Memory for earlier page contents, in bytes; zero switches deltas off.
    pub delta_cache_bytes: usize,
    /// Memory for the index of contents already sent, in bytes; zero switches duplicates off.
    pub dedup_bytes: usize,
}

/// The source's view of what the target holds.
pub struct Planner {
    config: PlannerConfig,
    table: PageTable,
    /// Last slice that copies from the page, plus one; zero if none did.
    readers: Vec<u32>,
    index: DedupIndex,
    cache: DeltaCache,
    caching: bool,
    asking: bool,
    last_seq: Option<u64>,
    started: bool,
}

/// One call's context.
struct Turn {
    seq: u64,
    acked_below: u64,
}

impl Turn {
    fn is_acked(&self, seq: u64) -> bool {
        seq < self.acked_below
    }
}

impl Planner {
    /// A planner without blocks.
    #[must_use]
    pub fn new(config: PlannerConfig) -> Self {
        Self::with_hasher(config, PageHasher::new(config.hash, config.seed))
    }

    pub(crate) fn with_hasher(config: PlannerConfig, hasher: PageHasher) -> Self {
        Self {
            config,
            table: PageTable::new(hasher),
            readers: Vec::new(),
            index: DedupIndex::new(0, 0),
            cache: DeltaCache::new(0, 0),
            caching: true,
            asking: false,
            last_seq: None,
            started: false,
        }
    }

    /// Adds a RAM block of `pages` pages that are all zero on the target. All memory is
    /// allocated here: 24 bytes a page (40 with BLAKE3), zeroed and thus untouched until used,
    /// and the two bounded stores.
    ///
    /// # Errors
    /// [`BlockError`] for a repeated id, too many pages, or a block after the first plan.
    pub fn add_block(&mut self, id: BlockId, name: &str, pages: u64) -> Result<(), BlockError> {
        if self.started {
            return Err(BlockError::TooLate(id));
        }
        self.table.add_block(id, name, pages)?;
        let span = self.table.blocks().span();
        self.readers = vec![0; span];
        self.index = DedupIndex::new(span, self.config.dedup_bytes);
        self.cache = DeltaCache::new(span, self.config.delta_cache_bytes);
        Ok(())
    }

    /// Whether pages sent from now on are kept for deltas; on at first. Off saves a copy and,
    /// at the first use of the memory, a page fault for every page: on a link that is faster
    /// than the codec a delta gains nothing. Pages kept so far still serve until they are sent
    /// anew.
    pub fn set_caching(&mut self, caching: bool) {
        self.caching = caching;
    }

    /// Whether pages that were never sent are asked for instead of sent whole; off at first. The caller
    /// then keeps the buffer of every plan that asks, gives no watermark above a slice whose answer
    /// is missing, and calls [`Self::follow`] with each answer.
    pub fn set_asking(&mut self, asking: bool) {
        self.asking = asking;
    }

    /// Plans what the target does not hold of the pages that slice `asked_in` asked for: the pages
    /// of `missing` that have not changed since go whole under `seq`, out of `bytes`, the buffer
    /// that was planned then. Numbers and an empty plan are as for [`Self::plan`].
    ///
    /// # Errors
    /// [`PlanError`]: the contract was broken; the job must be aborted.
    pub fn follow(
        &mut self,
        seq: u64,
        acked_below: u64,
        asked_in: u64,
        bytes: &[u8],
        missing: impl Iterator<Item = Asked>,
        out: &mut Plan,
    ) -> Result<(), PlanError> {
        out.clear();
        self.check_seq(seq, acked_below)?;
        for Asked { block, index, at } in missing {
            let found = self.table.blocks().resolve(block, index, 1);
            let page = found.ok_or(PlanError::NoSuchPage { block, index, count: 1 })?;
            let content = page_of(bytes, at)?;
            let leaf = self.table.hasher().leaf(content);
            // Overwritten by a later slice, or later in the same one.
            if self.table.seq(page) != Some(asked_in) || self.table.leaf(page) != leaf {
                continue;
            }
            self.table.set(page, seq, leaf);
            out.counts.literal += 1;
            out.pages.push(PlannedPage { block, index, op: PageOp::Literal { at } });
        }
        if !out.is_empty() {
            self.last_seq = Some(seq);
        }
        Ok(())
    }

    /// Decides for every page of `batch`, whose contents lie in `bytes`, and fills `out`.
    ///
    /// `seq` is the number of the Pages slice that will carry the frame; it must be larger than
    /// that of the last plan that was not empty. All slices below `acked_below` are acked. A
    /// plan that comes out empty uses no slice number; any other must be sent under `seq`, or
    /// the job aborted, since the planner now counts on it.
    ///
    /// # Errors
    /// [`PlanError`]: the contract was broken; the job must be aborted.
    pub fn plan(
        &mut self,
        seq: u64,
        acked_below: u64,
        bytes: &[u8],
        batch: &PageBatch,
        out: &mut Plan,
    ) -> Result<(), PlanError> {
        out.clear();
        self.check_seq(seq, acked_below)?;
        self.started = true;
        let turn = Turn { seq, acked_below };
        for entry in batch.entries() {
            match entry.content {
                Content::Zero { count } => self.plan_zeros(&turn, entry, count, out)?,
                Content::At(at) => self.plan_page(&turn, entry, at, bytes, out)?,
            }
        }
        if !out.is_empty() {
            self.last_seq = Some(seq);
        }
        Ok(())
    }

    fn check_seq(&self, seq: u64, acked_below: u64) -> Result<(), PlanError> {
        let grows = self.last_seq.is_none_or(|last| last < seq);
        if grows && seq <= SEQ_MAX && acked_below <= seq {
            return Ok(());
        }
        Err(PlanError::BadSeq { seq, last: self.last_seq, acked_below })
    }

    fn resolve(&self, entry: &Entry, count: u32) -> Result<u32, PlanError> {
        let (block, index) = (entry.block, entry.index);
        let found = self.table.blocks().resolve(block, index, count);
        found.ok_or(PlanError::NoSuchPage { block, index, count })
    }

    fn plan_zeros(
        &mut self,
        turn: &Turn,
        entry: &Entry,
        count: u32,
        out: &mut Plan,
    ) -> Result<(), PlanError> {
        let first = self.resolve(entry, count)?;
        if self.table.is_untouched(first, count) {
            out.counts.zero_skipped += u64::from(count);
            return Ok(());
        }
        for offset in 0..count {
            let index = PageIndex(entry.index.0 + u64::from(offset));
            self.plan_zero(turn, first + offset, entry.block, index, out);
        }
        Ok(())
    }

    fn plan_zero(
        &mut self,
        turn: &Turn,
        page: u32,
        block: BlockId,
        index: PageIndex,
        out: &mut Plan,
    ) {
        let zero = self.table.zero_leaf();
        if self.table.leaf(page) == zero {
            let never_sent = self.table.seq(page).is_none();
            *(if never_sent { &mut out.counts.zero_skipped } else { &mut out.counts.unchanged }) +=
                1;
            return;
        }
        self.note_overwrite(turn, page, out);
        self.table.set(page, turn.seq, zero);
        self.cache.forget(page);
        out.counts.zero += 1;
        if let Some(PlannedPage { block: before, index: first, op: PageOp::Zero { count } }) =
            out.pages.last_mut()
            && *before == block
            && first.0 + u64::from(*count) == index.0
        {
            *count += 1;
            return;
        }
        out.pages.push(PlannedPage { block, index, op: PageOp::Zero { count: 1 } });
    }

    fn plan_page(
        &mut self,
        turn: &Turn,
        entry: &Entry,
        at: u32,
        bytes: &[u8],
        out: &mut Plan,
    ) -> Result<(), PlanError> {
        let page = self.resolve(entry, 1)?;
        let content = page_of(bytes, at)?;
        let leaf = self.table.hasher().leaf(content);
        let collision = PlanError::Collision { block: entry.block, index: entry.index };
        if leaf == self.table.zero_leaf() {
            if *content != ZERO_PAGE {
                return Err(collision);
            }
            self.plan_zero(turn, page, entry.block, entry.index, out);
            return Ok(());
        }
        if leaf == self.table.leaf(page) {
            if self.cache.get(page).is_some_and(|sent| sent != content) {
                return Err(collision);
            }
            out.counts.unchanged += 1;
            return Ok(());
        }
        self.note_overwrite(turn, page, out);
        let op = self.choose(turn, page, leaf, content, at, out);
        if self.caching {
            self.cache.store(page, content, self.table.seq(page).is_some());
        } else {
            self.cache.forget(page);
        }
        self.table.set(page, turn.seq, leaf);
        out.pages.push(PlannedPage { block: entry.block, index: entry.index, op });
        Ok(())
    }

    /// A slice in flight may copy from `page`, which is about to change: wait for it.
    fn note_overwrite(&self, turn: &Turn, page: u32, out: &mut Plan) {
        let Some(reader) = u64::from(self.readers[page as usize]).checked_sub(1) else { return };
        // A reader in this very frame comes first in it, but may hide one in an earlier slice.
        let wait = if reader == turn.seq { reader.checked_sub(1) } else { Some(reader) };
        if let Some(wait) = wait.filter(|&wait| !turn.is_acked(wait)) {
            out.not_before = out.not_before.max(Some(wait));
        }
    }

    /// How `page` travels: as a copy, as a delta, or whole.
    fn choose(
        &mut self,
        turn: &Turn,
        page: u32,
        leaf: Leaf,
        content: &Page,
        at: u32,
        out: &mut Plan,
    ) -> PageOp {
        let mut held_back = false;
        match self.find_source(turn, page, leaf) {
            Source::Usable(source) => return self.duplicate(turn, source, content, out),
            Source::InFlight => held_back = true,
            Source::None => self.index.insert(leaf, page),
        }
        match self.delta(turn, page, content, out) {
            Some(Ok(op)) => return op,
            Some(Err(Unacked)) => held_back = true,
            None => {}
        }
        if self.asking && self.table.seq(page).is_none() {
            out.counts.asked += 1;
            return PageOp::Ask { at };
        }
        out.counts.unacked += u64::from(held_back);
        out.counts.literal += 1;
        PageOp::Literal { at }
    }

    fn find_source(&self, turn: &Turn, page: u32, leaf: Leaf) -> Source {
        let mut in_flight = false;
        let found = self.index.find(leaf, |candidate| {
            if candidate == page || self.table.leaf(candidate) != leaf {
                return false;
            }
            let Some(sent) = self.table.seq(candidate) else { return false };
            // A page that this very frame asks for may be missing on the target.
            let usable = (sent == turn.seq && !self.asking) || turn.is_acked(sent);
            in_flight |= !usable;
            usable
        });
        match found {
            Some(source) => Source::Usable(source),
            None if in_flight => Source::InFlight,
            None => Source::None,
        }
    }

    fn duplicate(&mut self, turn: &Turn, source: u32, content: &Page, out: &mut Plan) -> PageOp {
        self.readers[source as usize] = u32::try_from(turn.seq + 1).unwrap_or(u32::MAX);
        out.counts.duplicate += 1;
        let (block, index) = self.table.blocks().locate(source);
        PageOp::Duplicate { block, index, guard: self.table.hasher().guard(content) }
    }

    fn delta(
        &self,
        turn: &Turn,
        page: u32,
        content: &Page,
        out: &mut Plan,
    ) -> Option<Result<PageOp, Unacked>> {
        let base = self.cache.get(page)?;
        let sent = self.table.seq(page)?;
        if !turn.is_acked(sent) {
            return Some(Err(Unacked));
        }
        let room = FRAME_DELTA_BYTES_MAX - out.delta_bytes.len();
        let at = out.delta_bytes.len();
        let bytes_max = room.min(delta::DELTA_BYTES_MAX);
        if !delta::encode(base, content, bytes_max, &mut out.delta_bytes) {
            return None;
        }
        let length = out.delta_bytes.len() - at;
        out.counts.delta += 1;
        out.counts.delta_bytes += length as u64;
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let guard = self.table.hasher().guard(base);
        Some(Ok(PageOp::Delta { at: narrow(at), length: narrow(length), guard }))
    }

    /// Digest over all pages as they were last planned; equal to the target's once every slice
    /// is applied. Costs work only for what changed since the last call or [`Self::settle`].
    pub fn root(&mut self) -> Root {
        self.table.root()
    }

    /// Does part of the work of [`Self::root`] in advance: at most `nodes_max` nodes of 512
    /// pages each, a few microseconds a node. True when nothing is left.
    pub fn settle(&mut self, nodes_max: usize) -> bool {
        self.table.settle(nodes_max)
    }

    /// Bytes of the two bounded stores, as allocated.
    #[must_use]
    pub fn store_bytes(&self) -> usize {
        self.index.bytes() + self.cache.bytes()
    }
}

fn page_of(bytes: &[u8], at: u32) -> Result<&Page, PlanError> {
    let page = bytes.get(at as usize..).and_then(<[u8]>::first_chunk);
    page.ok_or(PlanError::OutOfBuffer { at, length: bytes.len() })
}

/// Where a page's content may be copied from.
enum Source {
    Usable(u32),
    /// It was sent, but the target need not hold it yet.
    InFlight,
    None,
}

/// The base of a delta is still in flight.
struct Unacked;

#[cfg(test)]
mod tests;
