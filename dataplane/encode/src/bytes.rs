//! Packs bytes of the rewritten stream (device state, descriptions) for skeleton slices.
//!
//! A packer belongs to one thread; it allocates when created and when a zstd level is used for
//! the first time. Form: one codec byte (`0x10` raw, `0x11` zstd), u32 length of the content,
//! little-endian, and the content, raw or compressed.

use zstd_safe::{CCtx, DCtx};

use crate::error::UnpackError;
use crate::level::Level;

/// Bytes before the content.
pub const PACK_HEADER_BYTES: usize = 5;

/// High half: version of the form; low half: codec.
const RAW: u8 = 0x10;
const ZSTD: u8 = 0x11;

/// Bytes that `pack` may need for `length` bytes of content.
#[must_use]
pub const fn packed_bytes_max(length: usize) -> usize {
    length + PACK_HEADER_BYTES
}

/// Packs byte strings.
pub struct Packer {
    zstd: CCtx<'static>,
}

impl Default for Packer {
    fn default() -> Self {
        Self::new()
    }
}

impl Packer {
    /// A packer.
    #[must_use]
    pub fn new() -> Self {
        Self { zstd: CCtx::create() }
    }

    /// Packs `input` into `out`, raw where compression saves nothing; the bytes written.
    ///
    /// # Panics
    /// If `out` is shorter than [`packed_bytes_max`], or `input` longer than 4 GiB.
    pub fn pack(&mut self, level: Level, input: &[u8], out: &mut [u8]) -> usize {
        assert!(out.len() >= packed_bytes_max(input.len()), "out is too short");
        let length = u32::try_from(input.len()).expect("input is longer than 4 GiB");
        let (head, body) = out.split_at_mut(PACK_HEADER_BYTES);
        head[1..].copy_from_slice(&length.to_le_bytes());
        if let Level::Zstd(level) = level
            && let Some(limit) = input.len().checked_sub(1)
            && let Ok(written) = self.zstd.compress(&mut body[..limit], input, level)
        {
            head[0] = ZSTD;
            return PACK_HEADER_BYTES + written;
        }
        head[0] = RAW;
        body[..input.len()].copy_from_slice(input);
        PACK_HEADER_BYTES + input.len()
    }
}

/// Reads what a [`Packer`] wrote.
pub struct Unpacker {
    zstd: DCtx<'static>,
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::new()
    }
}

impl Unpacker {
    /// An unpacker.
    #[must_use]
    pub fn new() -> Self {
        Self { zstd: DCtx::create() }
    }

    /// Unpacks `packed` into the front of `out`, whose length is the most that is accepted; the
    /// bytes written.
    ///
    /// # Errors
    /// [`UnpackError`] for damaged bytes or content longer than `out`.
    pub fn unpack(&mut self, packed: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
        let (head, body) =
            packed.split_first_chunk::<PACK_HEADER_BYTES>().ok_or(UnpackError::Length)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let max = out.len();
        let out = out.get_mut(..length).ok_or(UnpackError::TooLong { length, max })?;
        match head[0] {
            RAW if body.len() == length => out.copy_from_slice(body),
            RAW => return Err(UnpackError::Length),
            ZSTD => match self.zstd.decompress(out, body) {
                Ok(written) if written == length => {}
                Ok(_) => return Err(UnpackError::Length),
                Err(_) => return Err(UnpackError::Zstd),
            },
            other => return Err(UnpackError::Unknown(other)),
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_back(
            input in prop::collection::vec(0..4u8, 0..3000),
            noise in prop::collection::vec(any::<u8>(), 0..300),
            level in prop_oneof![Just(Level::Off), (-5..9i32).prop_map(Level::Zstd)],
        ) {
            let input = [input, noise].concat();
            let mut packed = vec![0; packed_bytes_max(input.len())];
            let length = Packer::new().pack(level, &input, &mut packed);
            let mut out = vec![0; input.len()];
            let unpacked = Unpacker::new().unpack(&packed[..length], &mut out);
            prop_assert_eq!(unpacked, Ok(input.len()));
            prop_assert!(out == input);
        }

        #[test]
        fn hostile_bytes_never_panic(packed in prop::collection::vec(any::<u8>(), 0..200)) {
            for codec in [RAW, ZSTD] {
                let mut packed = packed.clone();
                if let Some(first) = packed.first_mut() {
                    *first = codec;
                }
                let _ = Unpacker::new().unpack(&packed, &mut [0; 128]);
            }
        }
    }

    #[test]
    fn more_than_accepted_is_refused_before_decoding() {
        let mut packed = vec![0; packed_bytes_max(1000)];
        let length = Packer::new().pack(Level::Zstd(1), &[7; 1000], &mut packed);
        assert!(length < 100);
        let refused = Unpacker::new().unpack(&packed[..length], &mut [0; 999]);
        assert_eq!(refused, Err(UnpackError::TooLong { length: 1000, max: 999 }));
        assert_eq!(Unpacker::new().unpack(&[], &mut []), Err(UnpackError::Length));
        assert_eq!(Unpacker::new().unpack(&[0; 5], &mut []), Err(UnpackError::Unknown(0)));
    }
}
