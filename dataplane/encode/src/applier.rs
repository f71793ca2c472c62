//! Applies frames to the target guest's memory. Runs on the apply thread; allocates when
//! created and while blocks are added, never afterwards; blocks only in the store. It knows
//! memory through [`PageStore`] alone, and takes every byte of a frame for hostile.

use dwcp_wire::{BlockId, HashAlgorithm, PAGE_BYTES, PageIndex};
use zstd_safe::DCtx;

use crate::answer::{ASK_BYTES, Answer, Held};
use crate::batch::{FRAME_PAGES_MAX, FRAME_ZERO_PAGES_MAX};
use crate::delta;
use crate::error::{BlockError, DecodeError};
use crate::frame::{PACKED_BYTES_MAX, Sections, split};
use crate::hash::{Page, PageHasher, ZERO_PAGE};
use crate::record::{Place, Record, RecordKind, RecordReader};
use crate::table::{PageTable, Root, SEQ_MAX};
use crate::varint::Cursor;

/// The memory of the target guest. Only pages of blocks that were added to the applier are
/// asked for; all memory is zero before the first call.
pub trait PageStore {
    /// Copies a page out.
    fn read(&self, block: BlockId, index: PageIndex, out: &mut Page);
    /// Overwrites a page.
    fn write(&mut self, block: BlockId, index: PageIndex, content: &Page);
    /// Makes a page zero.
    fn zero(&mut self, block: BlockId, index: PageIndex);
    /// Content of this BLAKE3 hash, from wherever this host has it; [`Held::Nothing`] when it has
    /// not. What comes out must have been hashed again.
    fn known(&mut self, _hash: &[u8; ASK_BYTES], _out: &mut Page) -> Held {
        Held::Nothing
    }
    /// All of these will be asked for next, 32 bytes each: a good moment to start reading.
    fn prefetch(&mut self, _hashes: &[u8]) {}
}

/// What became of the pages of one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyStats {
    /// Pages made zero.
    pub zero: u64,
    /// Pages copied from another page.
    pub duplicate: u64,
    /// Pages patched.
    pub delta: u64,
    /// Pages written whole.
    pub literal: u64,
    /// Pages asked for and found here.
    pub known: u64,
    /// Pages asked for and not found.
    pub missing: u64,
    /// Pages left alone since a newer slice had already written them.
    pub dropped: u64,
}

impl ApplyStats {
    /// Adds another frame's counts.
    pub fn add(&mut self, other: &Self) {
        self.zero += other.zero;
        self.duplicate += other.duplicate;
        self.delta += other.delta;
        self.literal += other.literal;
        self.known += other.known;
        self.missing += other.missing;
        self.dropped += other.dropped;
    }
}

/// The target's pages, their versions and their leaves.
pub struct Applier<S> {
    target: Target<S>,
    zstd: DCtx<'static>,
    scratch: Vec<u8>,
    answer: Answer,
}

struct Target<S> {
    store: S,
    table: PageTable,
}

/// What is left of a frame while its records are applied.
struct Turn<'a> {
    seq: u64,
    data: Cursor<'a>,
    plain: Cursor<'a>,
    pages_left: u32,
    zero_pages_left: u32,
    stats: ApplyStats,
    answer: &'a mut Answer,
}

impl<S: PageStore> Applier<S> {
    /// An applier over `store`; algorithm and seed are those of the planner.
    #[must_use]
    pub fn new(hash: HashAlgorithm, seed: u64, store: S) -> Self {
        Self::with_hasher(PageHasher::new(hash, seed), store)
    }

    pub(crate) fn with_hasher(hasher: PageHasher, store: S) -> Self {
        Self {
            target: Target { store, table: PageTable::new(hasher) },
            zstd: DCtx::create(),
            scratch: vec![0; PACKED_BYTES_MAX],
            answer: Answer::default(),
        }
    }

    /// Adds a RAM block of `pages` zero pages, as on the source; 20 bytes a page (36 with
    /// BLAKE3), untouched until used.
    ///
    /// # Errors
    /// [`BlockError`] for a repeated id or too many pages.
    pub fn add_block(&mut self, id: BlockId, name: &str, pages: u64) -> Result<(), BlockError> {
        self.target.table.add_block(id, name, pages)
    }

    /// Applies the body of Pages slice `seq`. Every slice is applied once, in any order that
    /// `not_before` permits; re-sent copies must be kept away.
    ///
    /// # Errors
    /// [`DecodeError`]: part of the frame may have been applied, the job must be aborted.
    pub fn apply(&mut self, seq: u64, body: &[u8]) -> Result<ApplyStats, DecodeError> {
        if seq > SEQ_MAX {
            return Err(DecodeError::SeqTooLarge(seq));
        }
        let Sections { records, data, plain } = split(body, &mut self.zstd, &mut self.scratch)?;
        self.answer.begin(seq);
        let mut turn = Turn {
            seq,
            answer: &mut self.answer,
            data: Cursor::new(data),
            plain: Cursor::new(plain),
            pages_left: u32::try_from(FRAME_PAGES_MAX).unwrap_or(u32::MAX),
            zero_pages_left: FRAME_ZERO_PAGES_MAX,
            stats: ApplyStats::default(),
        };
        let mut reader = RecordReader::new(records);
        while let Some(record) = reader.next()? {
            turn.charge(&record)?;
            self.target.apply(&mut turn, &record)?;
        }
        if !turn.data.is_empty() || !turn.plain.is_empty() {
            return Err(DecodeError::Length("bytes after the last record"));
        }
        Ok(turn.stats)
    }

    /// What the slice applied last asked for and this host has; empty when it asked for nothing.
    #[must_use]
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Digest over all pages; equal to the planner's when memory is.
    pub fn root(&mut self) -> Root {
        self.target.table.root()
    }

    /// Does part of the work of [`Self::root`] in advance, see
    /// [`Planner::settle`](crate::Planner::settle).
    pub fn settle(&mut self, nodes_max: usize) -> bool {
        self.target.table.settle(nodes_max)
    }

    /// The slice that last wrote a page; none if no slice did or there is no such page.
    #[must_use]
    pub fn last_seq(&self, block: BlockId, index: PageIndex) -> Option<u64> {
        let page = self.target.table.blocks().resolve(block, index, 1)?;
        self.target.table.seq(page)
    }

    /// Hashes a page again as the store holds it now: for pages that something other than
    /// this applier may have written, so that the root tells. False if there is no such page.
    pub fn rehash(&mut self, block: BlockId, index: PageIndex) -> bool {
        let Some(page) = self.target.table.blocks().resolve(block, index, 1) else {
            return false;
        };
        let mut content = ZERO_PAGE;
        self.target.store.read(block, index, &mut content);
        let leaf = self.target.table.hasher().leaf(&content);
        self.target.table.set_leaf(page, leaf);
        true
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.target.store
    }

    /// The store, to be changed from outside; see [`Self::rehash`].
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.target.store
    }
}

impl Turn<'_> {
    /// Counts the record's pages against what one frame may hold.
    fn charge(&mut self, record: &Record) -> Result<(), DecodeError> {
        let zero = record.kind == RecordKind::Zero;
        let left = if zero { &mut self.zero_pages_left } else { &mut self.pages_left };
        *left = left.checked_sub(record.count).ok_or(DecodeError::Bound {
            what: "pages in the frame",
            value: u64::from(record.count),
            limit: u64::from(*left),
        })?;
        Ok(())
    }
}

impl<S: PageStore> Target<S> {
    fn apply(&mut self, turn: &mut Turn<'_>, record: &Record) -> Result<(), DecodeError> {
        let &Record { block, index, count, .. } = record;
        let first = self
            .table
            .blocks()
            .resolve(block, index, count)
            .ok_or(DecodeError::NoSuchPage { block, index, count })?;
        match record.kind {
            RecordKind::Zero => self.apply_zeros(turn, record, first),
            RecordKind::Literal(place) => self.apply_literals(turn, record, first, place)?,
            RecordKind::Duplicate { block, index, guard } => {
                self.apply_duplicates(turn, record, first, (block, index, guard))?;
            }
            RecordKind::Delta { length, guard } => {
                self.apply_delta(turn, record, first, length, guard)?;
            }
            RecordKind::Ask => self.apply_asks(turn, record, first)?,
        }
        Ok(())
    }

    /// Whether slice `turn.seq` may write `page`; counts it as dropped if not.
    fn accepts(&self, turn: &mut Turn<'_>, page: u32) -> bool {
        let newer = self.table.seq(page).is_some_and(|last| last > turn.seq);
        turn.stats.dropped += u64::from(newer);
        !newer
    }

    /// Writes a page and notes the leaf of what the store holds then.
    fn write(&mut self, seq: u64, page: u32, block: BlockId, index: PageIndex, content: &Page) {
        self.store.write(block, index, content);
        let mut stored = ZERO_PAGE;
        self.store.read(block, index, &mut stored);
        self.table.set(page, seq, self.table.hasher().leaf(&stored));
    }

    fn apply_zeros(&mut self, turn: &mut Turn<'_>, record: &Record, first: u32) {
        let zero = self.table.zero_leaf();
        for (page, index) in pages_of(record, first) {
            if !self.accepts(turn, page) {
                continue;
            }
            turn.stats.zero += 1;
            if self.table.leaf(page) == zero {
                self.table.set(page, turn.seq, zero);
                continue;
            }
            self.store.zero(record.block, index);
            let mut stored = ZERO_PAGE;
            self.store.read(record.block, index, &mut stored);
            self.table.set(page, turn.seq, self.table.hasher().leaf(&stored));
        }
    }

    fn apply_literals(
        &mut self,
        turn: &mut Turn<'_>,
        record: &Record,
        first: u32,
        place: Place,
    ) -> Result<(), DecodeError> {
        for (page, index) in pages_of(record, first) {
            let content = match place {
                Place::Packed => turn.data.array::<PAGE_BYTES>("packed literal")?,
                Place::Plain { gap } => {
                    turn.plain.take(gap as usize, "gap before a literal")?;
                    turn.plain.array::<PAGE_BYTES>("plain literal")?
                }
            };
            if self.accepts(turn, page) {
                turn.stats.literal += 1;
                self.write(turn.seq, page, record.block, index, content);
            }
        }
        Ok(())
    }

    fn apply_duplicates(
        &mut self,
        turn: &mut Turn<'_>,
        record: &Record,
        first: u32,
        (block, index, guard): (BlockId, PageIndex, u32),
    ) -> Result<(), DecodeError> {
        let source = self.table.blocks().resolve(block, index, 1);
        source.ok_or(DecodeError::NoSuchPage { block, index, count: 1 })?;
        let mut content = None;
        for (page, at) in pages_of(record, first) {
            if !self.accepts(turn, page) {
                continue;
            }
            if content.is_none() {
                content = Some(self.read_version(block, index, guard)?);
            }
            if let Some(content) = &content {
                turn.stats.duplicate += 1;
                self.write(turn.seq, page, record.block, at, content);
            }
        }
        Ok(())
    }

    fn apply_delta(
        &mut self,
        turn: &mut Turn<'_>,
        record: &Record,
        page: u32,
        length: usize,
        guard: u32,
    ) -> Result<(), DecodeError> {
        let runs = turn.data.take(length, "delta")?;
        if !self.accepts(turn, page) {
            return Ok(());
        }
        let (block, index) = (record.block, record.index);
        let mut content = self.read_version(block, index, guard)?;
        delta::apply(runs, &mut content).map_err(|_| DecodeError::BadDelta { block, index })?;
        turn.stats.delta += 1;
        self.write(turn.seq, page, block, index, &content);
        Ok(())
    }

    /// Writes what this host holds of the pages asked for.
    fn apply_asks(
        &mut self,
        turn: &mut Turn<'_>,
        record: &Record,
        first: u32,
    ) -> Result<(), DecodeError> {
        let hashes = turn.data.take(record.count as usize * ASK_BYTES, "hashes of pages")?;
        self.store.prefetch(hashes);
        let mut content = ZERO_PAGE;
        for ((page, index), hash) in pages_of(record, first).zip(hashes.as_chunks().0) {
            if !self.accepts(turn, page) {
                // A newer version is here: this one need not follow.
                turn.answer.push(Held::Newer);
                continue;
            }
            let held = self.store.known(hash, &mut content);
            turn.answer.push(held);
            if held == Held::Nothing {
                turn.stats.missing += 1;
                continue;
            }
            turn.stats.known += 1;
            self.write(turn.seq, page, record.block, index, &content);
        }
        Ok(())
    }

    /// Reads a page that a record relies on, if it holds what the record was made against.
    fn read_version(
        &self,
        block: BlockId,
        index: PageIndex,
        expected: u32,
    ) -> Result<Page, DecodeError> {
        let mut content = ZERO_PAGE;
        self.store.read(block, index, &mut content);
        let found = self.table.hasher().guard(&content);
        if found != expected {
            return Err(DecodeError::WrongVersion { block, index, expected, found });
        }
        Ok(content)
    }
}

fn pages_of(record: &Record, first: u32) -> impl Iterator<Item = (u32, PageIndex)> + use<> {
    let index = record.index.0;
    (0..record.count).map(move |offset| (first + offset, PageIndex(index + u64::from(offset))))
}

#[cfg(test)]
mod tests;
