//! One bit per slice number in a moving range of `SEQ_SPAN` numbers.
//!
//! The caller knows where the range starts; numbers map to bits modulo the span. Never allocates
//! after creation.

use dwcp_wire::SEQ_SPAN;

const WORD_BITS: u64 = 64;
const WORDS: usize = (SEQ_SPAN / WORD_BITS) as usize;
const _: () = assert!(SEQ_SPAN.is_power_of_two() && SEQ_SPAN.is_multiple_of(WORD_BITS));

/// A set of slice numbers, all within one span.
pub(crate) struct RingBits {
    words: Box<[u64; WORDS]>,
}

impl RingBits {
    pub(crate) fn new() -> Self {
        Self { words: Box::new([0; WORDS]) }
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        let (word, bit) = place(seq);
        self.words[word] & bit != 0
    }

    pub(crate) fn insert(&mut self, seq: u64) {
        let (word, bit) = place(seq);
        self.words[word] |= bit;
    }

    pub(crate) fn remove(&mut self, seq: u64) {
        let (word, bit) = place(seq);
        self.words[word] &= !bit;
    }

    /// First number in `from..to` that is in the set (`wanted`) or missing; `to` if none.
    pub(crate) fn find(&self, from: u64, to: u64, wanted: bool) -> u64 {
        let mut seq = from;
        while seq < to {
            let (word, _) = place(seq);
            let offset = seq % WORD_BITS;
            let bits = if wanted { self.words[word] } else { !self.words[word] };
            let ahead = bits >> offset;
            if ahead != 0 {
                return to.min(seq + u64::from(ahead.trailing_zeros()));
            }
            seq += WORD_BITS - offset;
        }
        to
    }
}

fn place(seq: u64) -> (usize, u64) {
    let index = seq % SEQ_SPAN;
    let word = usize::try_from(index / WORD_BITS).unwrap_or(0);
    (word, 1 << (index % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn find_crosses_words_and_the_end_of_the_ring() {
        let mut bits = RingBits::new();
        let base = SEQ_SPAN - 3;
        for seq in [base, base + 1, base + 2, base + 3, base + 70] {
            bits.insert(seq);
        }
        let end = base + SEQ_SPAN;
        assert_eq!(bits.find(base, end, true), base);
        assert_eq!(bits.find(base, end, false), base + 4);
        assert_eq!(bits.find(base + 4, end, true), base + 70);
        assert_eq!(bits.find(base + 71, end, true), end);
        assert_eq!(bits.find(base, base + 2, false), base + 2);
        bits.remove(base);
        assert!(!bits.contains(base));
    }
}
