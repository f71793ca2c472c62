//! What can be wrong with bytes from a peer, with the values that were seen.
//!
//! Every decode error means that the rail it came from must be closed; only the three
//! negotiation errors (`NotDwcp`, `OtherMajor`, `UnknownRequiredFeature`) end the attempt.

use crate::{Features, Version};

/// A message could not be decoded, or (for the `TooLong` family) not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes do not start with `DWCP`. Abort: the peer is something else.
    #[error("the peer does not speak DWCP: its first bytes are {found:02x?}")]
    NotDwcp {
        /// The four bytes found where the magic belongs.
        found: [u8; 4],
    },
    /// The peer's major version is not ours. Abort: upgrade the older side.
    #[error("the peer speaks DWCP {peer}, this side {ours}: the major versions must be equal")]
    OtherMajor {
        /// Version in the peer's hello.
        peer: Version,
        /// Version of this build.
        ours: Version,
    },
    /// The peer requires a feature this build does not know. Abort: upgrade this side.
    #[error("the peer requires feature bit {bit}, which this side ({ours}) does not know")]
    UnknownRequiredFeature {
        /// Lowest unknown required bit, 32..=63.
        bit: u32,
        /// Features of this side.
        ours: Features,
    },
    /// The message ends before a field that it must have.
    #[error("{what}: {needed} bytes needed where {left} are left")]
    Truncated {
        /// The field that was being read.
        what: &'static str,
        /// Bytes that the field needs.
        needed: usize,
        /// Bytes that are left in the message.
        left: usize,
    },
    /// A length or count is above its bound; nothing was allocated for it.
    #[error("{what}: {length} is above the bound of {max}")]
    TooLong {
        /// The field.
        what: &'static str,
        /// Length found, in bytes or items.
        length: usize,
        /// Its bound.
        max: usize,
    },
    /// A field holds a value that has no meaning.
    #[error("{what}: value {value} has no meaning")]
    BadValue {
        /// The field.
        what: &'static str,
        /// The value found.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("{what}: the text is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// The field.
        what: &'static str,
        /// Number of good bytes before the bad one.
        valid_up_to: usize,
    },
    /// A check value does not match the bytes it covers. Close the rail; its slices are re-sent.
    #[error("{what}: check value {found:#x} does not match the bytes ({computed:#x})")]
    BadCheck {
        /// What the value covers.
        what: &'static str,
        /// Value in the message.
        found: u64,
        /// Value computed over the bytes.
        computed: u64,
    },
    /// A slice belongs to another job or another attempt. Close the rail.
    #[error("{what}: {found:#x} found, this session has {expected:#x}")]
    OtherSession {
        /// `job tag` or `epoch`.
        what: &'static str,
        /// Value in the header.
        found: u64,
        /// Value of this session.
        expected: u64,
    },
}
