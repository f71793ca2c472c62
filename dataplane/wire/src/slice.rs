//! The 64-byte header in front of every slice and link message.
//!
//! Hot path: no allocation, no branch on content beyond the checks. The header carries its own
//! check value, so that a damaged length is never waited for; the body has a separate one.
//! Reserved bytes are sent as zero and ignored on receipt.

use xxhash_rust::xxh3::xxh3_64;

use crate::codec::Reader;
use crate::codes::closed_code;
use crate::{Epoch, Generation, LINK_BYTES_MAX, SliceSeq, WireError};

/// Bytes of a [`SliceHeader`].
pub const HEADER_BYTES: usize = 64;
/// Longest slice body any side may grant: 1 MiB of pages and 64 KiB of records.
pub const PAYLOAD_MAX: u32 = (1 << 20) + (64 << 10);
/// Unacked Control slices a side may have in flight, outside the granted window.
pub const CONTROL_ALLOWANCE_SLICES: u32 = 64;
/// How far beyond a channel's watermark (all below are consumed) a sender may number, in slices.
/// A receiver keeps one bit per slice of it; every granted window is at most this.
pub const SEQ_SPAN: u64 = 4096;
/// Channels whose slices are numbered and acked: Control, Skeleton, Pages.
pub const SEQUENCED_CHANNELS: usize = 3;

const MAGIC: [u8; 4] = *b"DWSL";
const COVERED_BYTES: usize = 60;
const _: () = assert!(COVERED_BYTES + 4 == HEADER_BYTES);

closed_code! {
    /// What a slice belongs to. Each direction of a session has its own channels.
    Channel: u8, "channel", {
        /// Messages between the two engines, delivered in order.
        Control = 0,
        /// QEMU's stream without the pages we carry ourselves, delivered in order.
        Skeleton = 1,
        /// Encoded pages, delivered as they come.
        Pages = 2,
        /// Unnumbered messages between the two ends of one rail.
        Link = 3,
    }
}

impl Channel {
    /// The numbered channels, in the order of [`Channel::index`].
    pub const SEQUENCED: [Self; SEQUENCED_CHANNELS] = [Self::Control, Self::Skeleton, Self::Pages];

    /// Place in per-channel arrays of length [`SEQUENCED_CHANNELS`]; `None` for [`Self::Link`].
    #[must_use]
    pub const fn index(self) -> Option<usize> {
        match self {
            Self::Control => Some(0),
            Self::Skeleton => Some(1),
            Self::Pages => Some(2),
            Self::Link => None,
        }
    }

    /// Whether the receiver hands slices on in the order of their numbers.
    #[must_use]
    pub const fn is_ordered(self) -> bool {
        matches!(self, Self::Control | Self::Skeleton)
    }
}

/// Flag bits of a slice. Unknown bits refuse the slice: features gate new ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SliceFlags(u16);

impl SliceFlags {
    /// Nothing special.
    pub const NONE: Self = Self(0);
    /// The final slice of its channel and direction.
    pub const LAST: Self = Self(1);

    const KNOWN: u16 = Self::LAST.0;

    /// The bits on the wire.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The flags behind bits from the wire.
    ///
    /// # Errors
    /// [`WireError::BadValue`] when a bit is not known.
    pub const fn from_bits(bits: u16) -> Result<Self, WireError> {
        if bits & !Self::KNOWN != 0 {
            return Err(WireError::BadValue { what: "slice flags", value: bits as u64 });
        }
        Ok(Self(bits))
    }

    /// Whether this is the final slice of its channel.
    #[must_use]
    pub const fn is_last(self) -> bool {
        self.0 & Self::LAST.0 != 0
    }
}

/// Header of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceHeader {
    /// Channel the slice belongs to.
    pub channel: Channel,
    /// Flags.
    pub flags: SliceFlags,
    /// First bytes of the job id ([`crate::JobId::tag`]).
    pub job_tag: u32,
    /// Attempt the slice belongs to.
    pub epoch: Epoch,
    /// Capture generation of its pages.
    pub generation: Generation,
    /// Number within the channel; 0 for [`Channel::Link`].
    pub seq: SliceSeq,
    /// Bytes of the body that follows.
    pub length: u32,
    /// [`body_checksum`] of the body.
    pub checksum: u64,
}

/// Check value of a slice body: XXH3-64 with seed 0.
#[must_use]
pub fn body_checksum(body: &[u8]) -> u64 {
    xxh3_64(body)
}

impl SliceHeader {
    /// Writes the header in front of a body.
    pub fn encode_into(&self, out: &mut [u8; HEADER_BYTES]) {
        *out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.channel.code();
        out[6..8].copy_from_slice(&self.flags.bits().to_le_bytes());
        out[8..12].copy_from_slice(&self.job_tag.to_le_bytes());
        out[12..16].copy_from_slice(&self.generation.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.seq.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.length.to_le_bytes());
        out[40..48].copy_from_slice(&self.checksum.to_le_bytes());
        let check = header_check(out);
        out[COVERED_BYTES..].copy_from_slice(&check.to_le_bytes());
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        self.encode_into(&mut out);
        out
    }

    /// Reads a header whose body may have at most `payload_max` bytes ([`LINK_BYTES_MAX`] on
    /// [`Channel::Link`]).
    ///
    /// # Errors
    /// A lost byte boundary, a bad check value, an unknown channel or flag, a body too long.
    pub fn decode(bytes: &[u8; HEADER_BYTES], payload_max: u32) -> Result<Self, WireError> {
        let mut fields = Reader::new(bytes);
        let magic = u32::from_le_bytes(fields.array("slice magic")?);
        if magic != u32::from_le_bytes(MAGIC) {
            return Err(WireError::BadValue { what: "slice magic", value: u64::from(magic) });
        }
        Self::verify(bytes)?;
        let channel = Channel::from_code(fields.u8("channel")?)?;
        fields.take("reserved", 1)?;
        let flags = SliceFlags::from_bits(fields.u16("flags")?)?;
        let job_tag = fields.u32("job tag")?;
        let generation = Generation(fields.u32("generation")?);
        let epoch = Epoch(fields.u64("epoch")?);
        let seq = SliceSeq(fields.u64("seq")?);
        let length = fields.u32("length")?;
        fields.take("reserved", 4)?;
        let checksum = fields.u64("checksum")?;
        let header = Self { channel, flags, job_tag, epoch, generation, seq, length, checksum };
        header.check_length(payload_max).map(|()| header)
    }

    /// Whether the slice belongs to this session.
    ///
    /// # Errors
    /// [`WireError::OtherSession`] names the field that differs.
    pub fn check_session(&self, job_tag: u32, epoch: Epoch) -> Result<(), WireError> {
        let mismatch =
            |what, found, expected| Err(WireError::OtherSession { what, found, expected });
        if self.job_tag != job_tag {
            return mismatch("job tag", u64::from(self.job_tag), u64::from(job_tag));
        }
        if self.epoch != epoch {
            return mismatch("epoch", self.epoch.0, epoch.0);
        }
        Ok(())
    }

    /// Whether `body` is what the sender hashed.
    ///
    /// # Errors
    /// [`WireError::BadCheck`], or [`WireError::Truncated`] when the length differs.
    pub fn check_body(&self, body: &[u8]) -> Result<(), WireError> {
        let needed = usize::try_from(self.length).unwrap_or(usize::MAX);
        if body.len() != needed {
            return Err(WireError::Truncated { what: "slice body", needed, left: body.len() });
        }
        let computed = body_checksum(body);
        if computed == self.checksum {
            return Ok(());
        }
        Err(WireError::BadCheck { what: "slice body", found: self.checksum, computed })
    }

    fn verify(bytes: &[u8; HEADER_BYTES]) -> Result<(), WireError> {
        let found = Reader::new(&bytes[COVERED_BYTES..]).u32("header check")?;
        let computed = header_check(bytes);
        if found == computed {
            return Ok(());
        }
        let (found, computed) = (u64::from(found), u64::from(computed));
        Err(WireError::BadCheck { what: "slice header", found, computed })
    }

    fn check_length(&self, payload_max: u32) -> Result<(), WireError> {
        let (what, max) = match self.channel {
            Channel::Link => ("link message", LINK_BYTES_MAX),
            _ => ("slice body", usize::try_from(payload_max.min(PAYLOAD_MAX)).unwrap_or(0)),
        };
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        if length > max {
            return Err(WireError::TooLong { what, length, max });
        }
        Ok(())
    }
}

/// Low 32 bits of XXH3-64 over everything before the check value.
fn header_check(bytes: &[u8; HEADER_BYTES]) -> u32 {
    let hash = xxh3_64(&bytes[..COVERED_BYTES]).to_le_bytes();
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])
}
