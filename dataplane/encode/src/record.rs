//! Records: the run-coded list of what a frame does to which pages.
//!
//! Writing appends to a vector sized for the worst plan; reading walks peer input and checks
//! every number before use. Runs on any thread, knows nothing of codecs or stores.
//!
//! A record is a tag byte and the fields its flags announce, numbers as LEB128:
//! ```text
//! bits 0-2  kind: 0 zero, 1 packed literal, 2 plain literal, 3 duplicate, 4 delta, 5 ask
//! bit 3     BLOCK   u16 block id follows; otherwise as before (0 at first), index then counts from 0
//! bit 4     JUMP    zigzag: index minus the index after the previous record
//! bit 5     RUN     number of pages less one; otherwise one page
//! bit 6     GAP     plain literals: bytes to skip before each page; otherwise none
//!           SOURCE  duplicates: u16 block id of the source; otherwise the same block
//! bit 7     zero
//! ```
//! A duplicate goes on with `zigzag(source index - first index)` and the source's guard (u32,
//! little-endian, see [`PageHasher::guard`](crate::PageHasher::guard)); its whole run copies that
//! one page. A delta goes on with its length and the base's guard. An ask has the BLAKE3 hash of
//! each of its pages, 32 bytes, in the packed section: the target writes what it holds and answers
//! with an [`Answer`](crate::Answer).

use dwcp_wire::{BlockId, PageIndex};

use crate::batch::{FRAME_ENTRIES_MAX, FRAME_PAGES_MAX, FRAME_ZERO_PAGES_MAX};
use crate::delta::DELTA_BYTES_MAX;
use crate::error::DecodeError;
use crate::plan::{PageOp, PlannedPage};
use crate::varint::{Cursor, VARINT32_BYTES_MAX, put, put_signed};

const BLOCK: u8 = 1 << 3;
const JUMP: u8 = 1 << 4;
const RUN: u8 = 1 << 5;
const GAP_OR_SOURCE: u8 = 1 << 6;
const KIND_BITS: u8 = 0b111;

const KIND_ZERO: u8 = 0;
const KIND_PACKED: u8 = 1;
const KIND_PLAIN: u8 = 2;
const KIND_DUPLICATE: u8 = 3;
const KIND_DELTA: u8 = 4;
const KIND_ASK: u8 = 5;

/// Bytes of a LEB128 block id.
const BLOCK_VARINT_BYTES: usize = 3;
const GUARD_BYTES: usize = 4;
/// Longest record of a page with content: a duplicate, with both block ids.
const PAGE_RECORD_BYTES_MAX: usize =
    1 + 2 * BLOCK_VARINT_BYTES + 3 * VARINT32_BYTES_MAX + GUARD_BYTES;
/// Longest record of a zero run.
const ZERO_RECORD_BYTES_MAX: usize = 1 + BLOCK_VARINT_BYTES + 2 * VARINT32_BYTES_MAX;
/// Most bytes of records in one frame.
pub(crate) const RECORD_BYTES_MAX: usize = FRAME_PAGES_MAX * PAGE_RECORD_BYTES_MAX
    + (FRAME_ENTRIES_MAX - FRAME_PAGES_MAX) * ZERO_RECORD_BYTES_MAX;
/// Most bytes that a plain literal may skip.
const GAP_BYTES_MAX: u64 = 1 << 20;

/// Where a literal's bytes lie in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the packed section.
    Packed,
    /// In the plain section, after skipping `gap` bytes.
    Plain { gap: u32 },
}

/// One record as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) block: BlockId,
    pub(crate) index: PageIndex,
    pub(crate) count: u32,
    pub(crate) kind: RecordKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Zero,
    Literal(Place),
    Duplicate { block: BlockId, index: PageIndex, guard: u32 },
    Delta { length: usize, guard: u32 },
    Ask,
}

/// Position that the next record counts from.
#[derive(Clone, Copy, Default)]
struct Position {
    block: BlockId,
    next: u64,
}

/// Collects planned pages into records.
pub(crate) struct RecordWriter<'a> {
    out: &'a mut Vec<u8>,
    position: Position,
    pending: Option<Record>,
}

impl<'a> RecordWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, position: Position::default(), pending: None }
    }

    /// Adds a page; `place` matters for literals only.
    pub(crate) fn push(&mut self, page: &PlannedPage, place: Place) {
        let record = record_of(page, place);
        if let Some(run) = &mut self.pending
            && continues(run, &record)
        {
            run.count += record.count;
            return;
        }
        self.flush();
        self.pending = Some(record);
    }

    /// Writes what is still pending.
    pub(crate) fn finish(mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        let Some(record) = self.pending.take() else { return };
        let (kind, flag) = tag_of(&record);
        let jump = jump(&mut self.position, &record);
        let mut tag = kind | if flag { GAP_OR_SOURCE } else { 0 };
        tag |= if jump.0 { BLOCK } else { 0 };
        tag |= if jump.1 != 0 { JUMP } else { 0 };
        tag |= if record.count > 1 { RUN } else { 0 };
        self.out.push(tag);
        if jump.0 {
            put(self.out, u64::from(record.block.0));
        }
        if jump.1 != 0 {
            put_signed(self.out, jump.1);
        }
        if record.count > 1 {
            put(self.out, u64::from(record.count - 1));
        }
        self.put_kind(&record, flag);
    }

    fn put_kind(&mut self, record: &Record, flag: bool) {
        match record.kind {
            RecordKind::Zero | RecordKind::Ask | RecordKind::Literal(Place::Packed) => {}
            RecordKind::Literal(Place::Plain { gap }) => {
                if flag {
                    put(self.out, u64::from(gap));
                }
            }
            RecordKind::Duplicate { block, index, guard } => {
                if flag {
                    put(self.out, u64::from(block.0));
                }
                put_signed(self.out, difference(index, record.index));
                self.out.extend_from_slice(&guard.to_le_bytes());
            }
            RecordKind::Delta { length, guard } => {
                put(self.out, length as u64);
                self.out.extend_from_slice(&guard.to_le_bytes());
            }
        }
    }
}

fn record_of(page: &PlannedPage, place: Place) -> Record {
    let (count, kind) = match page.op {
        PageOp::Zero { count } => (count, RecordKind::Zero),
        PageOp::Literal { .. } => (1, RecordKind::Literal(place)),
        PageOp::Ask { .. } => (1, RecordKind::Ask),
        PageOp::Duplicate { block, index, guard } => {
            (1, RecordKind::Duplicate { block, index, guard })
        }
        PageOp::Delta { length, guard, .. } => {
            (1, RecordKind::Delta { length: length as usize, guard })
        }
    };
    Record { block: page.block, index: page.index, count, kind }
}

/// Whether `next` prolongs `run`.
fn continues(run: &Record, next: &Record) -> bool {
    run.block == next.block
        && run.index.0 + u64::from(run.count) == next.index.0
        && run.kind == next.kind
        && !matches!(run.kind, RecordKind::Delta { .. })
}

fn tag_of(record: &Record) -> (u8, bool) {
    match record.kind {
        RecordKind::Zero => (KIND_ZERO, false),
        RecordKind::Literal(Place::Packed) => (KIND_PACKED, false),
        RecordKind::Literal(Place::Plain { gap }) => (KIND_PLAIN, gap > 0),
        RecordKind::Duplicate { block, .. } => (KIND_DUPLICATE, block != record.block),
        RecordKind::Delta { .. } => (KIND_DELTA, false),
        RecordKind::Ask => (KIND_ASK, false),
    }
}

/// Whether the block changes and by how much the index jumps; moves the position past the record.
fn jump(position: &mut Position, record: &Record) -> (bool, i64) {
    let changes = position.block != record.block;
    let expected = if changes { 0 } else { position.next };
    let next = record.index.0 + u64::from(record.count);
    *position = Position { block: record.block, next };
    (changes, difference(record.index, PageIndex(expected)))
}

/// `a - b`; page indices are far below 2^63.
fn difference(a: PageIndex, b: PageIndex) -> i64 {
    a.0.wrapping_sub(b.0).cast_signed()
}

/// Walks the records of a frame.
pub(crate) struct RecordReader<'a> {
    cursor: Cursor<'a>,
    position: Position,
}

impl<'a> RecordReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { cursor: Cursor::new(bytes), position: Position::default() }
    }

    /// The next record, or none at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, DecodeError> {
        if self.cursor.is_empty() {
            return Ok(None);
        }
        let tag = self.cursor.byte("record tag")?;
        let kind = tag & KIND_BITS;
        if kind > KIND_ASK || tag & !(KIND_BITS | BLOCK | JUMP | RUN | GAP_OR_SOURCE) != 0 {
            return Err(DecodeError::Unknown { what: "record tag", value: tag });
        }
        let (block, index) = self.read_position(tag)?;
        let count = self.read_count(tag, kind)?;
        let kind = self.read_kind(kind, tag & GAP_OR_SOURCE != 0, block, index)?;
        self.position = Position { block, next: index.0.saturating_add(u64::from(count)) };
        Ok(Some(Record { block, index, count, kind }))
    }

    fn read_position(&mut self, tag: u8) -> Result<(BlockId, PageIndex), DecodeError> {
        let mut from = self.position;
        if tag & BLOCK != 0 {
            from = Position { block: self.read_block()?, next: 0 };
        }
        let jump = if tag & JUMP != 0 { self.cursor.varint_signed()? } else { 0 };
        Ok((from.block, PageIndex(from.next.wrapping_add_signed(jump))))
    }

    fn read_block(&mut self) -> Result<BlockId, DecodeError> {
        let id = self.cursor.bounded(u64::from(u16::MAX), "block id")?;
        Ok(BlockId(u16::try_from(id).unwrap_or(u16::MAX)))
    }

    fn read_count(&mut self, tag: u8, kind: u8) -> Result<u32, DecodeError> {
        if tag & RUN == 0 {
            return Ok(1);
        }
        let limit = match kind {
            KIND_ZERO => u64::from(FRAME_ZERO_PAGES_MAX),
            KIND_DELTA => 1,
            _ => FRAME_PAGES_MAX as u64,
        };
        let more = self.cursor.bounded(limit - 1, "run of pages")?;
        Ok(u32::try_from(more).unwrap_or(0) + 1)
    }

    fn read_kind(
        &mut self,
        kind: u8,
        flag: bool,
        block: BlockId,
        index: PageIndex,
    ) -> Result<RecordKind, DecodeError> {
        Ok(match kind {
            KIND_ZERO => RecordKind::Zero,
            KIND_PACKED => RecordKind::Literal(Place::Packed),
            KIND_PLAIN => {
                let gap = if flag { self.cursor.bounded(GAP_BYTES_MAX, "gap")? } else { 0 };
                RecordKind::Literal(Place::Plain { gap: u32::try_from(gap).unwrap_or(0) })
            }
            KIND_DUPLICATE => {
                let block = if flag { self.read_block()? } else { block };
                let source = index.0.wrapping_add_signed(self.cursor.varint_signed()?);
                let guard = self.cursor.u32("guard")?;
                RecordKind::Duplicate { block, index: PageIndex(source), guard }
            }
            KIND_ASK => RecordKind::Ask,
            _ => {
                let length = self.cursor.bounded(DELTA_BYTES_MAX as u64, "delta")?;
                let guard = self.cursor.u32("guard")?;
                RecordKind::Delta { length: usize::try_from(length).unwrap_or(0), guard }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = (PageOp, Place)> {
        let place =
            prop_oneof![Just(Place::Packed), (0..20u32).prop_map(|gap| Place::Plain { gap })];
        prop_oneof![
            (1..5u32).prop_map(|count| (PageOp::Zero { count }, Place::Packed)),
            place.prop_map(|place| (PageOp::Literal { at: 0 }, place)),
            Just((PageOp::Ask { at: 0 }, Place::Packed)),
            (0..3u16, 0..40u64, 0..2u32).prop_map(|(block, index, guard)| {
                let (block, index) = (BlockId(block), PageIndex(index));
                (PageOp::Duplicate { block, index, guard }, Place::Packed)
            }),
            (0..2000u32, any::<u32>()).prop_map(|(length, guard)| {
                (PageOp::Delta { at: 0, length, guard }, Place::Packed)
            }),
        ]
    }

    fn expand(record: Record, out: &mut Vec<Record>) {
        for offset in 0..record.count {
            let index = PageIndex(record.index.0 + u64::from(offset));
            out.push(Record { index, count: 1, ..record });
        }
    }

    proptest! {
        #[test]
        fn records_come_back(
            pages in prop::collection::vec((0..3u16, prop_oneof![0..6u64, any::<u32>().prop_map(u64::from)], op()), 0..200),
            contiguous: bool,
        ) {
            let mut bytes = Vec::new();
            let mut writer = RecordWriter::new(&mut bytes);
            let mut expected = Vec::new();
            let mut next = 0;
            for (block, index, (op, place)) in pages {
                let (block, index) = if contiguous { (0, next) } else { (block, index) };
                let page = PlannedPage { block: BlockId(block), index: PageIndex(index), op };
                writer.push(&page, place);
                let record = record_of(&page, place);
                next = index + u64::from(record.count);
                expand(record, &mut expected);
            }
            writer.finish();
            let mut reader = RecordReader::new(&bytes);
            let mut found = Vec::new();
            while let Some(record) = reader.next().unwrap() {
                expand(record, &mut found);
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn hostile_records_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = RecordReader::new(&bytes);
            while let Ok(Some(record)) = reader.next() {
                prop_assert!(record.count <= FRAME_ZERO_PAGES_MAX);
            }
        }
    }

    #[test]
    fn a_run_of_literals_is_one_short_record() {
        let mut bytes = Vec::new();
        let mut writer = RecordWriter::new(&mut bytes);
        for index in 100..356 {
            let op = PageOp::Literal { at: 0 };
            let page = PlannedPage { block: BlockId(0), index: PageIndex(index), op };
            writer.push(&page, Place::Plain { gap: 8 });
        }
        writer.finish();
        assert_eq!(bytes.len(), 6);
    }
}
