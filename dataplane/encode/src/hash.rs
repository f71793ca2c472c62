//! Page hashes: the leaf of a page, the digest over many leaves, and the seed they depend on.
//!
//! Runs on any thread, allocates nothing, blocks nowhere. It knows pages as 4096 bytes and
//! nothing of blocks, indices or frames. XXH3-128 finds accidents; only BLAKE3 is evidence
//! against somebody who may choose the bytes.

use dwcp_wire::PAGE_BYTES;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_secret, xxh3_128_with_secret};

pub use dwcp_wire::HashAlgorithm;

/// Contents of one page.
pub type Page = [u8; PAGE_BYTES];

/// Secret length of XXH3 (XXH3 specification, "default secret").
const XXH3_SECRET_BYTES: usize = 192;
/// Key derivation contexts (BLAKE3 specification, section 2.3).
const LEAF_KEY_CONTEXT: &str = "DWCP v3 page leaf key";
const GUARD_KEY_CONTEXT: &str = "DWCP v3 page guard key";

/// A page that holds only zeros.
pub(crate) const ZERO_PAGE: Page = [0; PAGE_BYTES];

/// Hash of one page's content: 128 bits (XXH3, `high` is zero) or 256 bits (BLAKE3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Leaf {
    pub(crate) low: u128,
    pub(crate) high: u128,
}

impl Leaf {
    /// Little-endian bytes, low half first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        out[..16].copy_from_slice(&self.low.to_le_bytes());
        out[16..].copy_from_slice(&self.high.to_le_bytes());
        out
    }

    fn from_bytes(bytes: &[u8; 32]) -> Self {
        let (low, high) = bytes.split_at(16);
        let word = |half: &[u8]| {
            let mut raw = [0; 16];
            raw.copy_from_slice(half);
            u128::from_le_bytes(raw)
        };
        Self { low: word(low), high: word(high) }
    }
}

/// A page hash with its seed already expanded. Both ends of a job must use the same.
#[derive(Clone)]
pub struct PageHasher {
    kind: Kind,
    guard_secret: [u8; XXH3_SECRET_BYTES],
}

#[derive(Clone)]
enum Kind {
    Xxh3 {
        secret: [u8; XXH3_SECRET_BYTES],
    },
    Blake3 {
        key: [u8; 32],
    },
    /// Keeps only the masked bits of the low half, so that tests can force collisions.
    #[cfg(test)]
    Masked {
        secret: [u8; XXH3_SECRET_BYTES],
        mask: u128,
    },
}

impl PageHasher {
    /// Expands `seed` (chosen at random for each job, equal on both ends) for `algorithm`.
    #[must_use]
    pub fn new(algorithm: HashAlgorithm, seed: u64) -> Self {
        let kind = match algorithm {
            HashAlgorithm::Xxh3 => Kind::Xxh3 { secret: expand(LEAF_KEY_CONTEXT, seed) },
            HashAlgorithm::Blake3 => Kind::Blake3 { key: expand(LEAF_KEY_CONTEXT, seed) },
        };
        Self { kind, guard_secret: expand(GUARD_KEY_CONTEXT, seed) }
    }

    #[cfg(test)]
    pub(crate) fn masked(seed: u64, mask: u128) -> Self {
        let kind = Kind::Masked { secret: expand(LEAF_KEY_CONTEXT, seed), mask };
        Self { kind, guard_secret: expand(GUARD_KEY_CONTEXT, seed) }
    }

    /// Which hash this is.
    #[must_use]
    pub fn algorithm(&self) -> HashAlgorithm {
        match self.kind {
            Kind::Blake3 { .. } => HashAlgorithm::Blake3,
            _ => HashAlgorithm::Xxh3,
        }
    }

    /// Leaf of one page.
    #[must_use]
    #[inline]
    pub fn leaf(&self, page: &Page) -> Leaf {
        self.digest(page)
    }

    /// 32 bits under another key than the leaf's: what a record carries to name the content it
    /// relies on. Independent of the leaf, so that it also tells equal leaves apart.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
    pub fn guard(&self, page: &Page) -> u32 {
        xxh3_64_with_secret(page, &self.guard_secret) as u32
    }

    /// Digest of up to a few KiB of bytes under the same key as the leaves.
    #[inline]
    pub(crate) fn digest(&self, bytes: &[u8]) -> Leaf {
        match &self.kind {
            Kind::Xxh3 { secret } => Leaf { low: xxh3_128_with_secret(bytes, secret), high: 0 },
            Kind::Blake3 { key } => Leaf::from_bytes(blake3::keyed_hash(key, bytes).as_bytes()),
            #[cfg(test)]
            Kind::Masked { secret, mask } => {
                Leaf { low: xxh3_128_with_secret(bytes, secret) & mask, high: 0 }
            }
        }
    }

    /// A digest that takes its input in pieces.
    pub(crate) fn stream(&self) -> DigestStream {
        match &self.kind {
            Kind::Blake3 { key } => DigestStream::Blake3(Box::new(blake3::Hasher::new_keyed(key))),
            Kind::Xxh3 { secret } => DigestStream::Xxh3(Box::new(Xxh3::with_secret(*secret))),
            #[cfg(test)]
            Kind::Masked { secret, .. } => DigestStream::Xxh3(Box::new(Xxh3::with_secret(*secret))),
        }
    }
}

/// Expands a 64-bit seed to a key or secret of `N` bytes for one purpose.
fn expand<const N: usize>(context: &str, seed: u64) -> [u8; N] {
    let mut out = [0; N];
    blake3::Hasher::new_derive_key(context)
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Digest over input that comes in pieces.
pub(crate) enum DigestStream {
    Xxh3(Box<Xxh3>),
    Blake3(Box<blake3::Hasher>),
}

impl DigestStream {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh3(state) => state.update(bytes),
            Self::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    pub(crate) fn finish(self) -> Leaf {
        match self {
            Self::Xxh3(state) => Leaf { low: state.digest128(), high: 0 },
            Self::Blake3(state) => Leaf::from_bytes(state.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_depend_on_content_seed_and_algorithm() {
        let mut page = ZERO_PAGE;
        let xxh3 = PageHasher::new(HashAlgorithm::Xxh3, 1);
        let zero = xxh3.leaf(&page);
        assert_ne!(zero, PageHasher::new(HashAlgorithm::Xxh3, 2).leaf(&page));
        assert_ne!(zero, PageHasher::new(HashAlgorithm::Blake3, 1).leaf(&page));
        page[4095] = 1;
        assert_ne!(zero, xxh3.leaf(&page));
        assert_eq!(zero.high, 0);
    }

    /// Two releases must agree on leaves.
    #[test]
    fn leaves_are_what_they_were() {
        let mut page = ZERO_PAGE;
        page[7] = 1;
        let xxh3 = PageHasher::new(HashAlgorithm::Xxh3, 42).leaf(&page);
        let blake3 = PageHasher::new(HashAlgorithm::Blake3, 42).leaf(&page);
        assert_eq!(PageHasher::new(HashAlgorithm::Blake3, 42).guard(&page), 2_402_969_170);
        assert_eq!(format!("{:032x}", xxh3.low), "c42316420a52a1e31413d315dfe02562");
        assert_eq!(
            format!("{:032x}{:032x}", blake3.high, blake3.low),
            "e0fb1a0945185179d45e50b0ccdb6daf0e3373962636214e1837819de9bd712c"
        );
    }

    #[test]
    fn pieces_digest_like_the_whole() {
        for algorithm in [HashAlgorithm::Xxh3, HashAlgorithm::Blake3] {
            let hasher = PageHasher::new(algorithm, 7);
            let bytes: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
            let mut stream = hasher.stream();
            stream.update(&bytes[..1]);
            stream.update(&bytes[1..777]);
            stream.update(&bytes[777..]);
            assert_eq!(stream.finish(), hasher.digest(&bytes));
        }
    }
}
