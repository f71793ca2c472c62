//! Frames: how a plan's records and bytes are laid out in a slice body.
//!
//! A framer belongs to one worker thread. It allocates when created (its zstd context also when
//! a level is used for the first time, see [`Framer::new`]) and blocks nowhere. It knows plans
//! and slots, nothing of page tables.
//!
//! ```text
//! 0   u8   version, 1
//! 1   u8   codec of the packed section: 0 raw, 1 zstd
//! 2   u16  zero
//! 4   u32  bytes of records in the packed section        all little-endian
//! 8   u32  bytes of data in it, after the records
//! 12  u32  bytes that the packed section takes in the frame
//! 16       packed section: records, then deltas, packed literals and hashes in the order of the records
//!          plain section, to the end: plain literals in that order, each after its gap
//! ```

use std::ops::Range;

use dwcp_wire::{HEADER_BYTES, PAGE_BYTES, PAYLOAD_MAX};
use zstd_safe::CCtx;

use crate::batch::FRAME_PAGES_MAX;
use crate::entropy::is_hopeless;
use crate::error::{DecodeError, FrameError};
use crate::hash::Page;
use crate::level::Level;
use crate::plan::{PageOp, Plan};
use crate::record::{Place, RECORD_BYTES_MAX, RecordWriter};
use crate::varint::Cursor;

/// Version of the frame format.
pub const FRAME_VERSION: u8 = 1;
/// Bytes before the packed section.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Where [`Framer::frame`] starts a body: the slice header goes before it.
pub const FRAME_BODY_START: usize = HEADER_BYTES;
/// Most bytes of the packed section before compression.
pub(crate) const PACKED_BYTES_MAX: usize = RECORD_BYTES_MAX + FRAME_PAGES_MAX * PAGE_BYTES;
/// Longest frame that is not written in place.
pub const FRAME_BYTES_MAX: usize = FRAME_HEADER_BYTES + PACKED_BYTES_MAX;

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Shorter sections are not worth a call of zstd.
const PACK_BYTES_MIN: usize = 64;
/// zstd must save at least this part of the section, or it goes raw: decoding costs too.
const SAVING_DIVISOR: usize = 32;
/// Bytes in gaps that a frame written in place may waste, as a part of its literals.
const WASTE_DIVISOR: usize = 8;

const _: () = assert!(FRAME_BYTES_MAX <= PAYLOAD_MAX as usize);

/// A frame as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// Where the frame lies in the slot.
    pub range: Range<usize>,
    /// Bytes that zstd was given; zero when it was not asked.
    pub packed_in: usize,
    /// What became of them: the same number when zstd saved too little.
    pub packed_out: usize,
    /// Pages that were not given to zstd since they look random.
    pub hopeless: usize,
}

/// Lays out frames; reused for every frame of a worker.
pub struct Framer {
    zstd: CCtx<'static>,
    packed: Vec<u8>,
    places: Vec<Place>,
}

impl Framer {
    /// A framer whose zstd context already has its memory for `level_max` and everything below,
    /// so that nothing is allocated later: 1.2 MiB of buffers and 0.6 MiB at level 1, 1.3 MiB at
    /// 3, 3 MiB at 5, 10.5 MiB at 9.
    #[must_use]
    pub fn new(level_max: Level) -> Self {
        let mut framer = Self {
            zstd: CCtx::create(),
            packed: Vec::with_capacity(PACKED_BYTES_MAX),
            places: Vec::with_capacity(FRAME_PAGES_MAX),
        };
        framer.warm(level_max);
        framer
    }

    fn warm(&mut self, level: Level) {
        let Level::Zstd(level) = level else { return };
        self.packed.resize(PACKED_BYTES_MAX, 0);
        let mut out = vec![0u8; zstd_safe::compress_bound(PACKED_BYTES_MAX)];
        // Only the side effect counts; a level that zstd refuses is refused again when used.
        let _ = self.zstd.compress(&mut out[..], &self.packed, level);
        self.packed.clear();
    }

    /// Writes a frame without moving the literals: they stay where they lie in
    /// `slot[payload]`, the buffer the plan was made over, and the records are put before the
    /// first of them. None when that would waste too much, or leave less than
    /// [`FRAME_BODY_START`] bytes before the frame, or when the plan asks for pages: the slot is then
    /// as it was.
    pub fn raw_in_place(
        &mut self,
        plan: &Plan,
        slot: &mut [u8],
        payload: Range<usize>,
    ) -> Option<Range<usize>> {
        if plan.counts.asked > 0 {
            return None;
        }
        let literals = self.place_in_order(plan, payload.len())?;
        self.write_records(plan);
        let records = self.packed.len();
        self.packed.extend_from_slice(&plan.delta_bytes);
        let data_start = payload.start + literals.start;
        let start = data_start.checked_sub(FRAME_HEADER_BYTES + self.packed.len())?;
        let end = payload.start + literals.end;
        if start < FRAME_BODY_START || end > slot.len() || end - start > PAYLOAD_MAX as usize {
            return None;
        }
        let header = Header {
            codec: CODEC_RAW,
            records,
            data: plan.delta_bytes.len(),
            packed: self.packed.len(),
        };
        let (head, rest) = slot[start..data_start].split_at_mut(FRAME_HEADER_BYTES);
        head.copy_from_slice(&header.encode());
        rest.copy_from_slice(&self.packed);
        Some(start..end)
    }

    /// Gives each literal its gap; the range from the first literal to the end of the last.
    fn place_in_order(&mut self, plan: &Plan, length: usize) -> Option<Range<usize>> {
        self.places.clear();
        let mut range: Option<Range<usize>> = None;
        for at in literals(plan) {
            let from = range.as_ref().map_or(at, |range| range.end);
            let gap = u32::try_from(at.checked_sub(from)?).ok()?;
            self.places.push(Place::Plain { gap });
            range = Some(range.map_or(at, |range| range.start)..at + PAGE_BYTES);
        }
        let range = range?;
        let bytes = self.places.len() * PAGE_BYTES;
        let fits = range.end <= length && range.len() - bytes <= bytes / WASTE_DIVISOR;
        fits.then_some(range)
    }

    /// Writes a frame into `out`, from [`FRAME_BODY_START`] on. `bytes` is the buffer that was
    /// planned. With a zstd level the records, deltas and compressible literals are compressed
    /// together; what looks random stays outside, and all stays raw when nothing is saved.
    ///
    /// # Errors
    /// [`FrameError`]: `out` is too short ([`FRAME_BODY_START`] + [`FRAME_BYTES_MAX`] always
    /// suffice), or `bytes` is not the planned buffer.
    pub fn frame(
        &mut self,
        plan: &Plan,
        bytes: &[u8],
        level: Level,
        out: &mut [u8],
    ) -> Result<Framed, FrameError> {
        if literals(plan)
            .chain(plan.asks().map(|ask| ask.at as usize))
            .any(|at| page_at(bytes, at).is_none())
        {
            return Err(FrameError::WrongBuffer { length: bytes.len() });
        }
        let hopeless = self.place_by_hope(plan, bytes, level);
        self.write_records(plan);
        let records = self.packed.len();
        self.gather(plan, bytes);
        let plain = self.places.iter().filter(|&&place| place != Place::Packed).count();
        let needed = FRAME_BODY_START + FRAME_HEADER_BYTES + self.packed.len() + plain * PAGE_BYTES;
        if out.len() < needed {
            return Err(FrameError::SlotTooSmall { needed, available: out.len() });
        }
        let start = FRAME_BODY_START + FRAME_HEADER_BYTES;
        let (codec, packed_in, packed) = self.pack(level, &mut out[start..]);
        let data = self.packed.len() - records;
        let header = Header { codec, records, data, packed };
        out[FRAME_BODY_START..start].copy_from_slice(&header.encode());
        let end = self.copy_plain(plan, bytes, start + packed, out);
        let packed_out = if packed_in == 0 { 0 } else { packed };
        Ok(Framed { range: FRAME_BODY_START..end, packed_in, packed_out, hopeless })
    }

    /// Decides for each literal whether it goes into the packed section; counts the hopeless.
    fn place_by_hope(&mut self, plan: &Plan, bytes: &[u8], level: Level) -> usize {
        self.places.clear();
        let plain = Place::Plain { gap: 0 };
        let mut hopeless = 0;
        for at in literals(plan) {
            let place = match level {
                Level::Off => plain,
                Level::Zstd(_) if page_at(bytes, at).is_some_and(is_hopeless) => {
                    hopeless += 1;
                    plain
                }
                Level::Zstd(_) => Place::Packed,
            };
            self.places.push(place);
        }
        hopeless
    }

    fn write_records(&mut self, plan: &Plan) {
        self.packed.clear();
        let mut places = self.places.iter();
        let mut writer = RecordWriter::new(&mut self.packed);
        for page in &plan.pages {
            let literal = matches!(page.op, PageOp::Literal { .. });
            let place = if literal { places.next().copied() } else { None };
            writer.push(page, place.unwrap_or(Place::Packed));
        }
        writer.finish();
    }

    /// Appends deltas, packed literals and hashes of pages asked for in the order of the records.
    fn gather(&mut self, plan: &Plan, bytes: &[u8]) {
        let mut places = self.places.iter();
        for page in &plan.pages {
            match page.op {
                PageOp::Delta { at, length, .. } => {
                    let at = at as usize;
                    let delta = &plan.delta_bytes[at..at + length as usize];
                    self.packed.extend_from_slice(delta);
                }
                PageOp::Literal { at } => {
                    if places.next() == Some(&Place::Packed) {
                        let at = at as usize;
                        self.packed.extend_from_slice(&bytes[at..at + PAGE_BYTES]);
                    }
                }
                PageOp::Ask { at } => {
                    let page = &bytes[at as usize..at as usize + PAGE_BYTES];
                    self.packed.extend_from_slice(blake3::hash(page).as_bytes());
                }
                PageOp::Zero { .. } | PageOp::Duplicate { .. } => {}
            }
        }
    }

    /// Writes the packed section; its codec, the bytes zstd was given and the bytes written.
    fn pack(&mut self, level: Level, out: &mut [u8]) -> (u8, usize, usize) {
        let raw = self.packed.len();
        if let Level::Zstd(level) = level
            && raw >= PACK_BYTES_MIN
        {
            let limit = raw - raw / SAVING_DIVISOR - 1;
            if let Ok(length) = self.zstd.compress(&mut out[..limit], &self.packed, level) {
                return (CODEC_ZSTD, raw, length);
            }
            out[..raw].copy_from_slice(&self.packed);
            return (CODEC_RAW, raw, raw);
        }
        out[..raw].copy_from_slice(&self.packed);
        (CODEC_RAW, 0, raw)
    }

    fn copy_plain(&self, plan: &Plan, bytes: &[u8], start: usize, out: &mut [u8]) -> usize {
        let mut end = start;
        for (at, place) in literals(plan).zip(&self.places) {
            if *place != Place::Packed {
                out[end..end + PAGE_BYTES].copy_from_slice(&bytes[at..at + PAGE_BYTES]);
                end += PAGE_BYTES;
            }
        }
        end
    }
}

fn literals(plan: &Plan) -> impl Iterator<Item = usize> {
    plan.pages.iter().filter_map(|page| match page.op {
        PageOp::Literal { at } => Some(at as usize),
        _ => None,
    })
}

fn page_at(bytes: &[u8], at: usize) -> Option<&Page> {
    bytes.get(at..)?.first_chunk()
}

/// The fields of a frame's first bytes.
struct Header {
    codec: u8,
    records: usize,
    data: usize,
    packed: usize,
}

impl Header {
    fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0] = FRAME_VERSION;
        out[1] = self.codec;
        for (at, value) in [(4, self.records), (8, self.data), (12, self.packed)] {
            let value = u32::try_from(value).unwrap_or(u32::MAX);
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    fn decode(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let version = cursor.byte("frame header")?;
        if version != FRAME_VERSION {
            return Err(DecodeError::Version(version));
        }
        let codec = cursor.byte("frame header")?;
        if codec > CODEC_ZSTD || cursor.array::<2>("frame header")? != &[0, 0] {
            return Err(DecodeError::Unknown { what: "codec", value: codec });
        }
        let mut length = |limit: usize, what| {
            let value = cursor.u32("frame header")? as usize;
            if value > limit {
                let (value, limit) = (value as u64, limit as u64);
                return Err(DecodeError::Bound { what, value, limit });
            }
            Ok(value)
        };
        let records = length(RECORD_BYTES_MAX, "bytes of records")?;
        let data = length(FRAME_PAGES_MAX * PAGE_BYTES, "bytes of data")?;
        let packed = length(records + data, "bytes of the packed section")?;
        Ok(Self { codec, records, data, packed })
    }
}

/// The three parts of a frame, decompressed.
pub(crate) struct Sections<'a> {
    pub(crate) records: &'a [u8],
    pub(crate) data: &'a [u8],
    pub(crate) plain: &'a [u8],
}

/// Splits a frame, decompressing into `scratch`, which has [`PACKED_BYTES_MAX`] bytes.
pub(crate) fn split<'a>(
    body: &'a [u8],
    zstd: &mut zstd_safe::DCtx<'_>,
    scratch: &'a mut [u8],
) -> Result<Sections<'a>, DecodeError> {
    let mut cursor = Cursor::new(body);
    let header = Header::decode(&mut cursor)?;
    let packed = cursor.take(header.packed, "packed section")?;
    let plain = cursor.rest();
    let expected = header.records + header.data;
    let raw = match header.codec {
        CODEC_RAW => packed,
        _ => {
            let out = &mut scratch[..expected];
            match zstd.decompress(out, packed) {
                Ok(length) if length == expected => out,
                _ => return Err(DecodeError::Zstd { expected }),
            }
        }
    };
    let (records, data) =
        raw.split_at_checked(header.records).ok_or(DecodeError::Length("records"))?;
    if data.len() != header.data {
        return Err(DecodeError::Length("data"));
    }
    Ok(Sections { records, data, plain })
}

#[cfg(test)]
mod tests;
