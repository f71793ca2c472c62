//! Memory whose content is known: every byte follows from page number and pass, so a lost page is noticed.
//! No allocation after `new`.

use std::time::Duration;

use crate::config::Kind;

const PAGE: usize = 4096;
/// Bytes changed at each of the four places of a text page.
const EDIT_BYTES: usize = 16;
const EDITS_PER_PAGE: usize = 4;
/// Consecutive dirty pages lie this far apart (prime), so that dirtying is spread over the region.
const STRIDE: usize = 1_000_003;

const WORDS: [&str; 32] = [
    "memory ", "page ", "kernel ", "thread ", "request ", "value=", "index ", "the ", "of ",
    "and ", "session ", "buffer ", "state ", "error ", "handle ", "0x0000", "null\n", "return ",
    "begin ", "end;\n", "user ", "time ", "cache ", "node ", "block ", "offset ", "length ",
    "name: ", "id ", "true, ", "false, ", "\n    ",
];

/// splitmix64: <https://prng.di.unimi.it/splitmix64.c>.
struct Rng(u64);

impl Rng {
    fn for_page(page: usize, pass: u64) -> Self {
        Self(
            (page as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93) ^ pass.wrapping_mul(0xA5A5_1234_89AB),
        )
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn fill_random(page: &mut [u8], rng: &mut Rng) {
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.next().to_le_bytes());
    }
}

fn fill_words(page: &mut [u8], rng: &mut Rng) {
    let mut at = 0;
    while at < page.len() {
        let mut bits = rng.next();
        for _ in 0..12 {
            let word = WORDS[(bits & 31) as usize].as_bytes();
            bits >>= 5;
            let n = word.len().min(page.len() - at);
            page[at..at + n].copy_from_slice(&word[..n]);
            at += n;
        }
    }
}

fn edit_words(page: &mut [u8], rng: &mut Rng) {
    for _ in 0..EDITS_PER_PAGE {
        let r = rng.next();
        let at = (r as usize) % (PAGE - EDIT_BYTES);
        page[at..at + 8].copy_from_slice(&r.to_le_bytes());
        page[at + 8..at + EDIT_BYTES].copy_from_slice(b"changed ");
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(0x51_7C_C1_B7_27_22_0A_95, |sum: u64, word| {
        let mut value = [0u8; 8];
        value.copy_from_slice(word);
        (sum.rotate_left(5) ^ u64::from_le_bytes(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    })
}

/// Pages rewritten for ever at a given rate; each is verified against its last content before.
pub(crate) struct DirtySet {
    bytes: Vec<u8>,
    sums: Vec<u64>,
    kind: Kind,
    written: u64,
    owed_bytes: f64,
    intact: bool,
}

impl DirtySet {
    pub(crate) fn new(bytes: usize, kind: Kind) -> Self {
        let pages = bytes / PAGE;
        let mut set = Self {
            bytes: vec![0; pages * PAGE],
            sums: vec![0; pages],
            kind,
            written: 0,
            owed_bytes: 0.0,
            intact: true,
        };
        for page in 0..pages {
            let text = set.is_text(page);
            let content = &mut set.bytes[page * PAGE..(page + 1) * PAGE];
            let mut rng = Rng::for_page(page, 0);
            if text {
                fill_words(content, &mut rng)
            } else {
                fill_random(content, &mut rng)
            }
            set.sums[page] = checksum(content);
        }
        set
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn pages_written(&self) -> u64 {
        self.written
    }

    pub(crate) fn intact(&self) -> bool {
        self.intact
    }

    fn is_text(&self, page: usize) -> bool {
        match self.kind {
            Kind::Random => false,
            Kind::Words => true,
            Kind::Mixed => page % 2 == 1,
        }
    }

    /// Rewrites as many pages as `rate_bytes` per second owes for `elapsed`.
    pub(crate) fn advance(&mut self, elapsed: Duration, rate_bytes: u64) {
        if self.sums.is_empty() {
            return;
        }
        self.owed_bytes += elapsed.as_secs_f64() * rate_bytes as f64;
        while self.owed_bytes >= PAGE as f64 {
            self.owed_bytes -= PAGE as f64;
            self.rewrite_next();
        }
    }

    fn rewrite_next(&mut self) {
        let pages = self.sums.len();
        let pass = self.written / pages as u64 + 1;
        let page = ((self.written % pages as u64) as usize * STRIDE) % pages;
        let text = self.is_text(page);
        let content = &mut self.bytes[page * PAGE..(page + 1) * PAGE];
        self.intact &= checksum(content) == self.sums[page];
        let mut rng = Rng::for_page(page, pass);
        if text {
            edit_words(content, &mut rng)
        } else {
            fill_random(content, &mut rng)
        }
        self.sums[page] = checksum(content);
        self.written += 1;
    }
}

/// Memory written once: text pages as an idle process has them, then random bytes as the check region.
pub(crate) struct StaticSet {
    bytes: Vec<u8>,
    sums: Vec<u64>,
    next: usize,
    intact: bool,
}

impl StaticSet {
    pub(crate) fn new(text_bytes: usize, random_bytes: usize) -> Self {
        let text_pages = text_bytes / PAGE;
        let pages = text_pages + random_bytes / PAGE;
        let mut bytes = vec![0u8; pages * PAGE];
        let mut sums = Vec::with_capacity(pages);
        for (page, content) in bytes.chunks_exact_mut(PAGE).enumerate() {
            let mut rng = Rng::for_page(page, u64::MAX);
            if page < text_pages {
                fill_words(content, &mut rng);
            } else {
                fill_random(content, &mut rng);
            }
            sums.push(checksum(content));
        }
        Self { bytes, sums, next: 0, intact: true }
    }

    pub(crate) fn intact(&self) -> bool {
        self.intact
    }

    /// Verifies the next `budget` bytes, starting over at the end.
    pub(crate) fn verify_some(&mut self, budget: usize) {
        for _ in 0..(budget / PAGE).min(self.sums.len()) {
            let content = &self.bytes[self.next * PAGE..(self.next + 1) * PAGE];
            self.intact &= checksum(content) == self.sums[self.next];
            self.next = (self.next + 1) % self.sums.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_rewritten_once_in_a_pass() {
        let mut set = DirtySet::new(64 * PAGE, Kind::Mixed);
        let before = set.bytes.clone();
        set.advance(Duration::from_secs(1), 64 * PAGE as u64);
        assert_eq!(set.pages_written(), 64);
        for page in 0..64 {
            let range = page * PAGE..(page + 1) * PAGE;
            assert_ne!(before[range.clone()], set.bytes[range], "page {page}");
        }
        assert!(set.intact());
    }

    #[test]
    fn content_is_reproducible() {
        let run = || {
            let mut set = DirtySet::new(16 * PAGE, Kind::Mixed);
            set.advance(Duration::from_secs(1), 40 * PAGE as u64);
            set.bytes
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn one_flipped_bit_is_noticed() {
        let mut set = DirtySet::new(8 * PAGE, Kind::Words);
        set.bytes[5 * PAGE + 77] ^= 4;
        set.advance(Duration::from_secs(1), 8 * PAGE as u64);
        assert!(!set.intact());
        let mut fixed = StaticSet::new(4 * PAGE, 4 * PAGE);
        fixed.verify_some(8 * PAGE);
        assert!(fixed.intact());
        fixed.bytes[7 * PAGE] ^= 1;
        fixed.verify_some(8 * PAGE);
        assert!(!fixed.intact());
    }
}
