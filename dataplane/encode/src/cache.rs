//! Earlier contents of pages on the source: what deltas are made against.
//!
//! Bounded, set-associative, allocated once and zeroed by the allocator. First-pass pages are
//! taken only while there is room; pages dirtied again push out those that were not. Each
//! refused page ages its set by one step, so that a working set larger than the cache keeps a
//! stable part of it instead of washing through. The invariant: what is stored for a page is
//! what was last sent for it.

use dwcp_wire::PAGE_BYTES;

use crate::hash::Page;

/// Pages that compete for each other's place.
const WAYS: usize = 8;
/// Bytes a cached page takes: content, tag and heat.
const BYTES_PER_SLOT: usize = PAGE_BYTES + 5;
/// Heat of a page that was stored when first sent.
const COLD: u8 = 0;
/// Heat of a page that was sent before, when it comes in.
const WARM: u8 = 1;
/// Heat is counted no further than this.
const HOT_MAX: u8 = 3;

/// Bounded store of the last sent version of pages.
pub(crate) struct DeltaCache {
    /// Page number plus one; zero is free.
    tags: Vec<u32>,
    heats: Vec<u8>,
    /// Next way to age, for each set.
    hands: Vec<u8>,
    contents: Vec<u8>,
    sets: u32,
}

impl DeltaCache {
    /// A cache for `pages` pages in at most `bytes_max` bytes.
    pub(crate) fn new(pages: usize, bytes_max: usize) -> Self {
        let slots = (bytes_max / BYTES_PER_SLOT).min(pages.next_multiple_of(WAYS));
        let sets = slots / WAYS;
        let slots = sets * WAYS;
        Self {
            tags: vec![0; slots],
            heats: vec![0; slots],
            hands: vec![0; sets],
            contents: vec![0; slots * PAGE_BYTES],
            sets: u32::try_from(sets).unwrap_or(0),
        }
    }

    #[inline]
    fn set_of(&self, page: u32) -> Option<usize> {
        Some(page.checked_rem(self.sets)? as usize)
    }

    #[inline]
    fn slot_of(&self, page: u32) -> Option<usize> {
        let start = self.set_of(page)? * WAYS;
        let way = self.tags[start..start + WAYS].iter().position(|&tag| tag == page + 1)?;
        Some(start + way)
    }

    /// The version last sent of `page`, if it is kept.
    #[inline]
    pub(crate) fn get(&self, page: u32) -> Option<&Page> {
        let at = self.slot_of(page)? * PAGE_BYTES;
        self.contents[at..].first_chunk()
    }

    /// Notes what is being sent for `page`; `resent` says that it was sent before.
    #[inline]
    pub(crate) fn store(&mut self, page: u32, content: &Page, resent: bool) {
        let slot = match self.slot_of(page) {
            Some(slot) => {
                self.heats[slot] = (self.heats[slot] + 1).min(HOT_MAX);
                slot
            }
            None => match self.admit(page, resent) {
                Some(slot) => slot,
                None => return,
            },
        };
        let at = slot * PAGE_BYTES;
        self.contents[at..at + PAGE_BYTES].copy_from_slice(content);
    }

    /// Forgets `page`: what was sent for it is not stored here.
    #[inline]
    pub(crate) fn forget(&mut self, page: u32) {
        if let Some(slot) = self.slot_of(page) {
            self.tags[slot] = 0;
        }
    }

    fn admit(&mut self, page: u32, resent: bool) -> Option<usize> {
        let set = self.set_of(page)?;
        let start = set * WAYS;
        let free = self.tags[start..start + WAYS].iter().position(|&tag| tag == 0);
        let way = match free {
            Some(way) => way,
            None if !resent => return None,
            None => self.evict(set)?,
        };
        self.tags[start + way] = page + 1;
        self.heats[start + way] = if resent { WARM } else { COLD };
        Some(start + way)
    }

    /// A way whose page is cold; without one, ages the page under the hand and gives none.
    fn evict(&mut self, set: usize) -> Option<usize> {
        let start = set * WAYS;
        let heats = &mut self.heats[start..start + WAYS];
        if let Some(way) = heats.iter().position(|&heat| heat == COLD) {
            return Some(way);
        }
        let hand = &mut self.hands[set];
        heats[usize::from(*hand)] -= 1;
        *hand = (*hand + 1) % u8::try_from(WAYS).unwrap_or(1);
        None
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.tags.len() * BYTES_PER_SLOT + self.hands.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(fill: u8) -> Page {
        [fill; PAGE_BYTES]
    }

    fn cache(slots: usize) -> DeltaCache {
        DeltaCache::new(1 << 20, slots * BYTES_PER_SLOT)
    }

    #[test]
    fn keeps_the_version_last_stored() {
        let mut cache = cache(16);
        cache.store(3, &page(1), false);
        cache.store(3, &page(2), true);
        assert_eq!(cache.get(3), Some(&page(2)));
        cache.forget(3);
        assert_eq!(cache.get(3), None);
        assert_eq!(cache.get(4), None);
    }

    #[test]
    fn first_pass_pages_never_push_out_and_resent_ones_push_out_cold_ones() {
        let mut cache = cache(8);
        for number in 0..8 {
            cache.store(number, &page(1), false);
        }
        cache.store(8, &page(2), false);
        assert_eq!(cache.get(8), None);
        cache.store(9, &page(3), true);
        assert_eq!(cache.get(9), Some(&page(3)));
        assert_eq!((0..8).filter(|&number| cache.get(number).is_some()).count(), 7);
    }

    #[test]
    fn a_working_set_twice_the_cache_keeps_hitting() {
        let mut cache = cache(8);
        let mut hits = 0;
        for _ in 0..100 {
            for number in 0..14 {
                hits += usize::from(cache.get(number).is_some());
                cache.store(number, &page(0), true);
            }
        }
        assert!(hits > 300, "{hits} of 1400");
    }

    #[test]
    fn a_set_that_went_out_of_use_gives_way() {
        let mut cache = cache(8);
        for _ in 0..10 {
            for number in 0..8 {
                cache.store(number, &page(0), true);
            }
        }
        for _ in 0..40 {
            cache.store(100, &page(9), true);
        }
        assert_eq!(cache.get(100), Some(&page(9)));
    }

    #[test]
    fn memory_is_bounded() {
        assert_eq!(DeltaCache::new(100, 0).bytes(), 0);
        assert!(DeltaCache::new(100, 1 << 20).bytes() <= 1 << 20);
        assert!(DeltaCache::new(10, 1 << 30).bytes() <= 17 * BYTES_PER_SLOT);
        let mut none = DeltaCache::new(100, 0);
        none.store(1, &page(1), true);
        assert_eq!(none.get(1), None);
    }
}
