//! Sparse deltas: which byte runs of a page differ from its earlier version.
//!
//! Pure functions over two pages; writing appends to a vector the caller has sized. Form:
//! any number of `varint skip, varint length, bytes`, where skip counts from the end of the
//! previous run. Applying checks every length against the page.

use dwcp_wire::PAGE_BYTES;

use crate::error::DecodeError;
use crate::hash::Page;
use crate::varint::{Cursor, put};

/// Longest delta worth sending: half a page; past it the page itself compresses better.
pub const DELTA_BYTES_MAX: usize = PAGE_BYTES / 2;
/// Equal bytes between two runs that cost less than the header of a new run.
const GAP_BYTES_MIN: usize = 4;
/// Bytes compared at a time; a multiple of `WORD_BYTES`.
const STRIDE_BYTES: usize = 64;
const WORD_BYTES: usize = 8;

/// Appends the delta from `base` to `page`. False, and `out` as it was, if it would exceed
/// `bytes_max` bytes.
pub(crate) fn encode(base: &Page, page: &Page, bytes_max: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let mut writer = RunWriter { page, out, limit: start + bytes_max, written: 0, run: 0..0 };
    let mut fits = true;
    for (stride, (old, new)) in chunks(base).zip(chunks(page)).enumerate() {
        if old != new {
            fits = writer.differ(stride * STRIDE_BYTES, old, new);
        }
        if !fits {
            break;
        }
    }
    fits = fits && writer.flush();
    if !fits {
        out.truncate(start);
    }
    fits
}

fn chunks(page: &Page) -> impl Iterator<Item = &[u8; STRIDE_BYTES]> {
    page.as_chunks().0.iter()
}

struct RunWriter<'a> {
    page: &'a Page,
    out: &'a mut Vec<u8>,
    /// Length that `out` must not exceed.
    limit: usize,
    /// End of the last run written.
    written: usize,
    /// Run being collected; empty before the first.
    run: std::ops::Range<usize>,
}

impl RunWriter<'_> {
    /// Looks through a stride that differs somewhere.
    fn differ(&mut self, at: usize, old: &[u8; STRIDE_BYTES], new: &[u8; STRIDE_BYTES]) -> bool {
        let words = old.as_chunks::<WORD_BYTES>().0.iter().zip(new.as_chunks::<WORD_BYTES>().0);
        for (word, (a, b)) in words.enumerate() {
            let bits = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
            if bits != 0 && !self.differ_word(at + word * WORD_BYTES, bits) {
                return false;
            }
        }
        true
    }

    /// Adds the bytes of a word whose `bits` differ. Equal bytes between them are no longer
    /// than a new run's header, or nearly: the word is one run, from first to last.
    #[inline]
    fn differ_word(&mut self, at: usize, bits: u64) -> bool {
        let first = at + bits.trailing_zeros() as usize / 8;
        let end = at + WORD_BYTES - bits.leading_zeros() as usize / 8;
        if self.run.is_empty() || first >= self.run.end + GAP_BYTES_MIN {
            let fits = self.flush();
            self.run = first..end;
            return fits;
        }
        self.run.end = end;
        self.out.len() + self.run.len() <= self.limit
    }

    /// Writes the run collected so far; false when the delta is too long.
    fn flush(&mut self) -> bool {
        if self.run.is_empty() {
            return true;
        }
        let (skip, length) = (self.run.start - self.written, self.run.len());
        let header = varint_bytes(skip) + varint_bytes(length);
        if self.out.len() + header + length > self.limit {
            return false;
        }
        put(self.out, skip as u64);
        put(self.out, length as u64);
        self.out.extend_from_slice(&self.page[self.run.clone()]);
        self.written = self.run.end;
        self.run = 0..0;
        true
    }
}

/// Bytes of a number up to [`PAGE_BYTES`].
fn varint_bytes(value: usize) -> usize {
    1 + usize::from(value >= 0x80)
}

/// Turns `page`, which holds the base, into the new version.
///
/// # Errors
/// [`DecodeError`] when a run leaves the page or the delta.
pub(crate) fn apply(delta: &[u8], page: &mut Page) -> Result<(), DecodeError> {
    let mut cursor = Cursor::new(delta);
    let mut at = 0usize;
    while !cursor.is_empty() {
        let skip = cursor.bounded((PAGE_BYTES - at) as u64, "delta skip")?;
        at += usize::try_from(skip).unwrap_or(PAGE_BYTES);
        let length = cursor.bounded((PAGE_BYTES - at) as u64, "delta run")?;
        let length = usize::try_from(length).unwrap_or(0);
        let bytes = cursor.take(length, "delta bytes")?;
        page[at..at + length].copy_from_slice(bytes);
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pages() -> impl Strategy<Value = (Page, Page)> {
        let edits = prop::collection::vec((0..PAGE_BYTES, 1..200usize, any::<u8>()), 0..40);
        (any::<u8>(), edits).prop_map(|(fill, edits)| {
            let base = [fill; PAGE_BYTES];
            let mut page = base;
            for (at, length, value) in edits {
                let end = (at + length).min(PAGE_BYTES);
                page[at..end].fill(value);
            }
            (base, page)
        })
    }

    proptest! {
        #[test]
        fn applying_gives_the_new_page((base, page) in pages()) {
            let mut out = vec![0xee; 3];
            if encode(&base, &page, DELTA_BYTES_MAX, &mut out) {
                prop_assert!(out.len() - 3 <= DELTA_BYTES_MAX);
                let mut rebuilt = base;
                apply(&out[3..], &mut rebuilt).unwrap();
                prop_assert!(rebuilt == page);
            } else {
                prop_assert_eq!(out, vec![0xee; 3]);
                let differing = base.iter().zip(&page).filter(|(a, b)| a != b).count();
                prop_assert!(differing * 8 > DELTA_BYTES_MAX);
            }
        }

        #[test]
        fn hostile_deltas_never_panic(delta in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = apply(&delta, &mut [0; PAGE_BYTES]);
        }
    }

    #[test]
    fn close_runs_are_merged_and_far_ones_are_not() {
        let base = [0; PAGE_BYTES];
        let mut page = base;
        page[0] = 1;
        page[4] = 1;
        page[4095] = 9;
        let mut out = Vec::new();
        assert!(encode(&base, &page, DELTA_BYTES_MAX, &mut out));
        assert_eq!(out, [0, 5, 1, 0, 0, 0, 1, 0xfa, 0x1f, 1, 9]);
    }

    #[test]
    fn equal_pages_have_an_empty_delta() {
        let mut out = Vec::new();
        assert!(encode(&[3; PAGE_BYTES], &[3; PAGE_BYTES], 0, &mut out));
        assert!(out.is_empty());
    }
}
