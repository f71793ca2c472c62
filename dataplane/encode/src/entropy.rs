//! A cheap look at a page: would compressing it be worth anything?
//!
//! Pure function over one page, a fraction of a microsecond.

use dwcp_wire::PAGE_BYTES;

use crate::hash::Page;

/// Pieces looked at, spread evenly; short pieces in full, so that the columns of a table with a
/// regular stride are all seen.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 16;
const SAMPLES: usize = PIECES * PIECE_BYTES;
/// Sum of squared byte counts up to which a sample passes for random.
///
/// For `n` independent uniform bytes the sum is `n + n(n-1)/256` on average, 511 for 256, with a
/// standard deviation of 22. Base64 text (6 bits a byte) comes to 1276, machine code and text to
/// more than 2000; what lies near the limit compresses by a few per cent at best.
const RANDOM_SQUARES_MAX: u32 = 620;

/// Whether the page looks like random, encrypted or compressed bytes.
#[must_use]
pub fn is_hopeless(page: &Page) -> bool {
    let mut counts = [0u16; 256];
    for piece in page.chunks_exact(PAGE_BYTES / PIECES) {
        for &byte in &piece[..PIECE_BYTES] {
            counts[usize::from(byte)] += 1;
        }
    }
    let squares: u32 = counts.iter().map(|&count| u32::from(count) * u32::from(count)).sum();
    squares <= RANDOM_SQUARES_MAX
}

const _: () = assert!(SAMPLES <= u16::MAX as usize && PIECE_BYTES <= PAGE_BYTES / PIECES);

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64 (Steele, Lea, Flood 2014): a seeded stream of random bytes.
    fn random_page(mut state: u64) -> Page {
        let mut page = [0; PAGE_BYTES];
        for word in page.as_chunks_mut::<8>().0 {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = (z ^ (z >> 31)).to_le_bytes();
        }
        page
    }

    #[test]
    fn random_pages_are_hopeless() {
        let hopeless = (0..1000).filter(|&seed| is_hopeless(&random_page(seed * 77))).count();
        assert!(hopeless > 990, "{hopeless}");
    }

    #[test]
    fn structured_pages_are_not() {
        let text = b"It was the best of times, it was the worst of times, it was the age of wisdom";
        let mut page = [0; PAGE_BYTES];
        assert!(!is_hopeless(&page));
        for (at, byte) in page.iter_mut().enumerate() {
            *byte = text[at % text.len()];
        }
        assert!(!is_hopeless(&page));
        for seed in 0..1000 {
            let mut base64 = random_page(seed);
            base64.iter_mut().for_each(|byte| *byte = b'0' + (*byte & 0x3f));
            assert!(!is_hopeless(&base64));
            let mut half = random_page(seed);
            half[2048..].fill(0);
            assert!(!is_hopeless(&half));
        }
    }
}
