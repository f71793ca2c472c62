//! The only source of chance: SplitMix64 (Steele, Lea, Flood 2014), small and seedable.

/// A stream of numbers that follows from its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.bits() % (high - low + 1)
    }

    /// A number in `low..=high` whose logarithm is even: small ones are as likely as large ones.
    pub fn log_between(&mut self, low: u64, high: u64) -> u64 {
        let doublings = (high / low.max(1)).max(1).ilog2();
        let scale = low.max(1) << self.between(0, u64::from(doublings));
        self.between(scale, scale.saturating_mul(2)).clamp(low, high)
    }

    /// Whether something of `percent` probability happens.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.bits() % 100 < percent
    }

    /// An index below `len`, which is not 0.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.bits() % len as u64).unwrap_or(0)
    }

    /// A stream of its own, so that what draws from it does not shift what others draw.
    pub fn fork(&mut self) -> Self {
        Self(self.bits())
    }
}
