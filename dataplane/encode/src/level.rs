//! How hard to compress.

/// Codec and level of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No compression.
    Off,
    /// zstd at this level; negative ones are faster than 1.
    Zstd(i32),
}
