//! Index from leaf to the page that was last sent with it: what this job already moved.
//!
//! Set-associative open addressing, eight entries in one cache line, bounded by configuration.
//! An entry is a hint: the caller compares the page's full leaf before it believes one, so
//! nothing has to be deleted when a page changes. Allocates when sized, never afterwards.

use crate::hash::Leaf;

/// Entries in one bucket: one cache line of eight-byte entries.
const WAYS: usize = 8;
const BUCKET_BYTES: usize = WAYS * 8;
/// Index entries for each page of the guest, so that buckets seldom overflow.
const ENTRIES_PER_PAGE: usize = 2;

/// Bounded map from leaf to page.
pub(crate) struct DedupIndex {
    /// `tag << 32 | page + 1`; zero is free.
    entries: Vec<u64>,
    /// First entry that starts a cache line.
    first: usize,
    /// Buckets minus one; buckets are a power of two, none without memory.
    mask: Option<usize>,
}

impl DedupIndex {
    /// An empty index for `pages` pages in at most `bytes_max` bytes.
    pub(crate) fn new(pages: usize, bytes_max: usize) -> Self {
        let wanted = (pages * ENTRIES_PER_PAGE).div_ceil(WAYS);
        let affordable = bytes_max / BUCKET_BYTES;
        let buckets = match affordable.min(wanted.next_power_of_two()) {
            0 => return Self { entries: Vec::new(), first: 0, mask: None },
            some if some.is_power_of_two() => some,
            some => some.next_power_of_two() / 2,
        };
        let entries = vec![0u64; (buckets + 1) * WAYS];
        let first = entries.as_ptr().align_offset(BUCKET_BYTES).min(WAYS);
        Self { entries, first, mask: Some(buckets - 1) }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "hash bits are spread by cutting them")]
    fn bucket(&self, leaf: Leaf) -> Option<(usize, u64)> {
        let at = (leaf.low >> 64) as usize & self.mask?;
        let tag = (leaf.low >> 32) as u32;
        Some((self.first + at * WAYS, u64::from(tag) << 32))
    }

    /// The first page under this leaf's tag that `accept` takes.
    #[inline]
    pub(crate) fn find(&self, leaf: Leaf, mut accept: impl FnMut(u32) -> bool) -> Option<u32> {
        let (start, tag) = self.bucket(leaf)?;
        self.entries[start..start + WAYS]
            .iter()
            .filter(|&&entry| entry != 0 && entry & TAG_BITS == tag)
            .map(|&entry| page_of(entry))
            .find(|&page| accept(page))
    }

    /// Notes that `page` was sent with `leaf`. Takes the place of an entry with the same tag, a
    /// free one, or any.
    #[inline]
    pub(crate) fn insert(&mut self, leaf: Leaf, page: u32) {
        let Some((start, tag)) = self.bucket(leaf) else { return };
        let ways = &mut self.entries[start..start + WAYS];
        let same = ways.iter().position(|&entry| entry != 0 && entry & TAG_BITS == tag);
        let free = || ways.iter().position(|&entry| entry == 0);
        let victim = page as usize % WAYS;
        let way = same.or_else(free).unwrap_or(victim);
        ways[way] = tag | (u64::from(page) + 1);
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.len() * 8
    }
}

const TAG_BITS: u64 = 0xffff_ffff_0000_0000;

#[expect(clippy::cast_possible_truncation, reason = "the low half is the page number plus one")]
fn page_of(entry: u64) -> u32 {
    (entry as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(low: u128) -> Leaf {
        Leaf { low, high: 0 }
    }

    #[test]
    fn memory_is_bounded_and_follows_the_guest() {
        assert_eq!(DedupIndex::new(1000, 0).bytes(), 0);
        assert!(DedupIndex::new(1 << 24, 1 << 20).bytes() <= (1 << 20) + BUCKET_BYTES);
        assert!(DedupIndex::new(1000, 1 << 30).bytes() <= 33 << 10);
        let mut none = DedupIndex::new(1000, 0);
        none.insert(leaf(1), 1);
        assert_eq!(none.find(leaf(1), |_| true), None);
    }

    #[test]
    fn finds_what_was_inserted_and_offers_only_equal_tags() {
        let mut index = DedupIndex::new(1000, 1 << 20);
        for page in 0..1000u32 {
            index.insert(
                leaf(u128::from(page).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
                page,
            );
        }
        let found = (0..1000u32)
            .filter(|&page| {
                let low = u128::from(page).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                index.find(leaf(low), |candidate| candidate == page) == Some(page)
            })
            .count();
        assert!(found > 950, "{found}");
        assert_eq!(index.find(leaf(1 << 40), |_| true), None);
    }

    #[test]
    fn a_full_bucket_keeps_working() {
        let mut index = DedupIndex::new(8, 1 << 10);
        for page in 0..100u32 {
            index.insert(leaf(u128::from(page) << 32), page);
            assert_eq!(index.find(leaf(u128::from(page) << 32), |_| true), Some(page));
        }
    }
}
