//! Messages between the two ends of one rail: acks, keepalive, goodbye.
//!
//! Hot path: fixed arrays, no allocation. A link message is the body of a slice on
//! [`Channel::Link`](crate::Channel::Link); it has no number and is never re-sent, because the
//! next ack says everything again.

use crate::codec::Reader;
use crate::{
    Channel, Epoch, Generation, HEADER_BYTES, ReasonCode, SEQUENCED_CHANNELS, SliceFlags,
    SliceHeader, SliceSeq, WireError, body_checksum,
};

/// Ranges beyond the watermarks that one ack can carry, all channels together.
pub const ACK_RANGES_MAX: usize = 32;
/// Longest link message: an ack with all its ranges.
pub const LINK_BYTES_MAX: usize = ACK_FIXED_BYTES + ACK_RANGES_MAX * ACK_RANGE_BYTES;

const ACK_FIXED_BYTES: usize = 8 + 8 * SEQUENCED_CHANNELS;
const ACK_RANGE_BYTES: usize = 16;
const PING_BYTES: usize = 24;
const GOODBYE_BYTES: usize = 8;

const KIND_ACK: u8 = 1;
const KIND_PING: u8 = 2;
const KIND_PONG: u8 = 3;
const KIND_GOODBYE: u8 = 4;

/// Consecutive slices of a channel that are consumed although an earlier one is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckRange {
    /// A numbered channel.
    pub channel: Channel,
    /// First slice of the range, above the channel's watermark.
    pub first: SliceSeq,
    /// How many slices, at least 1.
    pub count: u32,
}

impl AckRange {
    const EMPTY: Self = Self { channel: Channel::Control, first: SliceSeq(0), count: 0 };
}

/// What the receiving side has consumed.
#[derive(Clone, Copy)]
pub struct AckInfo {
    watermarks: [u64; SEQUENCED_CHANNELS],
    ranges: [AckRange; ACK_RANGES_MAX],
    range_count: u8,
}

impl AckInfo {
    /// An ack with one watermark per numbered channel, in the order of [`Channel::index`]:
    /// every slice below it is consumed.
    #[must_use]
    pub const fn new(watermarks: [u64; SEQUENCED_CHANNELS]) -> Self {
        Self { watermarks, ranges: [AckRange::EMPTY; ACK_RANGES_MAX], range_count: 0 }
    }

    /// Adds a range; `false` when the ack is full (a later one will carry it).
    pub fn push(&mut self, range: AckRange) -> bool {
        let Some(free) = self.ranges.get_mut(usize::from(self.range_count)) else {
            return false;
        };
        *free = range;
        self.range_count += 1;
        true
    }

    /// Watermarks in the order of [`Channel::index`].
    #[must_use]
    pub const fn watermarks(&self) -> &[u64; SEQUENCED_CHANNELS] {
        &self.watermarks
    }

    /// Ranges beyond the watermarks.
    #[must_use]
    pub fn ranges(&self) -> &[AckRange] {
        &self.ranges[..usize::from(self.range_count)]
    }

    fn encode(&self, out: &mut [u8; LINK_BYTES_MAX]) -> usize {
        out[0] = KIND_ACK;
        out[1] = self.range_count;
        let (watermarks, ranges) = out[8..].split_at_mut(8 * SEQUENCED_CHANNELS);
        for (place, watermark) in watermarks.chunks_exact_mut(8).zip(self.watermarks) {
            place.copy_from_slice(&watermark.to_le_bytes());
        }
        for (place, range) in ranges.chunks_exact_mut(ACK_RANGE_BYTES).zip(self.ranges()) {
            place[..8].copy_from_slice(&range.first.0.to_le_bytes());
            place[8..12].copy_from_slice(&range.count.to_le_bytes());
            place[12] = range.channel.code();
        }
        ACK_FIXED_BYTES + usize::from(self.range_count) * ACK_RANGE_BYTES
    }

    fn decode(fields: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = usize::from(fields.u8("ack ranges")?);
        if count > ACK_RANGES_MAX {
            return Err(WireError::TooLong {
                what: "ack ranges",
                length: count,
                max: ACK_RANGES_MAX,
            });
        }
        fields.take("reserved", 6)?;
        let mut watermarks = [0; SEQUENCED_CHANNELS];
        for watermark in &mut watermarks {
            *watermark = fields.u64("ack watermark")?;
        }
        let mut ack = Self::new(watermarks);
        for _ in 0..count {
            let range = ack.decode_range(fields)?;
            ack.push(range);
        }
        Ok(ack)
    }

    /// End of what is said about `channel` so far: its last range, or its watermark.
    fn floor(&self, channel: Channel, watermark: u64) -> u64 {
        let of_channel = self.ranges().iter().rev().find(|range| range.channel == channel);
        of_channel.map_or(watermark, |range| range.first.0.saturating_add(u64::from(range.count)))
    }

    /// A range must lie beyond its channel's watermark and the range before it, without touching
    /// either, and must not be empty.
    fn decode_range(&self, fields: &mut Reader<'_>) -> Result<AckRange, WireError> {
        let first = fields.u64("ack range")?;
        let count = fields.u32("ack range")?;
        let channel = Channel::from_code(fields.u8("ack range")?)?;
        fields.take("reserved", 3)?;
        let Some(index) = channel.index() else {
            let value = u64::from(channel.code());
            return Err(WireError::BadValue { what: "ack range channel", value });
        };
        if count == 0 || first.checked_add(u64::from(count)).is_none() {
            return Err(WireError::BadValue { what: "ack range count", value: u64::from(count) });
        }
        if first <= self.floor(channel, self.watermarks[index]) {
            return Err(WireError::BadValue { what: "ack range start", value: first });
        }
        Ok(AckRange { channel, first: SliceSeq(first), count })
    }
}

impl PartialEq for AckInfo {
    fn eq(&self, other: &Self) -> bool {
        self.watermarks == other.watermarks && self.ranges() == other.ranges()
    }
}

impl Eq for AckInfo {}

impl std::fmt::Debug for AckInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AckInfo")
            .field("watermarks", &self.watermarks)
            .field("ranges", &self.ranges())
            .finish()
    }
}

/// One message between the two ends of a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // The ack must live in place: this path does not allocate.
pub enum LinkMessage {
    /// What this side has consumed, on all rails together.
    Ack(AckInfo),
    /// Asks for a [`LinkMessage::Pong`] with the same values.
    Ping {
        /// Number of the ping on its rail.
        nonce: u64,
        /// Sender's clock in nanoseconds; means nothing to the peer.
        sent_ns: u64,
    },
    /// Answer to a ping.
    Pong {
        /// Nonce of the ping.
        nonce: u64,
        /// Clock of the ping.
        sent_ns: u64,
    },
    /// The sender will not use this rail any more and closes the session.
    Goodbye {
        /// Why.
        code: ReasonCode,
    },
}

impl LinkMessage {
    /// Writes the message and returns its length in bytes.
    pub fn encode_into(&self, out: &mut [u8; LINK_BYTES_MAX]) -> usize {
        *out = [0; LINK_BYTES_MAX];
        match self {
            Self::Ack(ack) => ack.encode(out),
            Self::Ping { nonce, sent_ns } => encode_ping(out, KIND_PING, *nonce, *sent_ns),
            Self::Pong { nonce, sent_ns } => encode_ping(out, KIND_PONG, *nonce, *sent_ns),
            Self::Goodbye { code } => {
                out[0] = KIND_GOODBYE;
                out[2..4].copy_from_slice(&code.code().to_le_bytes());
                GOODBYE_BYTES
            }
        }
    }

    /// Writes header and message, ready to send, and returns their length in bytes.
    pub fn encode_framed(
        &self,
        job_tag: u32,
        epoch: Epoch,
        out: &mut [u8; HEADER_BYTES + LINK_BYTES_MAX],
    ) -> usize {
        let mut body = [0; LINK_BYTES_MAX];
        let length = self.encode_into(&mut body);
        let header = SliceHeader {
            channel: Channel::Link,
            flags: SliceFlags::NONE,
            job_tag,
            epoch,
            generation: Generation(0),
            seq: SliceSeq(0),
            length: u32::try_from(length).unwrap_or(0),
            checksum: body_checksum(&body[..length]),
        };
        out[..HEADER_BYTES].copy_from_slice(&header.encode());
        out[HEADER_BYTES..].copy_from_slice(&body);
        HEADER_BYTES + length
    }

    /// Reads a message; bytes after its last field are ignored.
    ///
    /// # Errors
    /// A message cut short, an unknown kind, or an ack that contradicts itself.
    pub fn decode(body: &[u8]) -> Result<Self, WireError> {
        let mut fields = Reader::new(body);
        match fields.u8("link message")? {
            KIND_ACK => AckInfo::decode(&mut fields).map(Self::Ack),
            KIND_PING => {
                decode_ping(&mut fields).map(|(nonce, sent_ns)| Self::Ping { nonce, sent_ns })
            }
            KIND_PONG => {
                decode_ping(&mut fields).map(|(nonce, sent_ns)| Self::Pong { nonce, sent_ns })
            }
            KIND_GOODBYE => {
                fields.take("reserved", 1)?;
                let code = ReasonCode::from_code(fields.u16("goodbye")?);
                fields.take("reserved", 4)?;
                Ok(Self::Goodbye { code })
            }
            other => Err(WireError::BadValue { what: "link message", value: u64::from(other) }),
        }
    }
}

fn encode_ping(out: &mut [u8; LINK_BYTES_MAX], kind: u8, nonce: u64, sent_ns: u64) -> usize {
    out[0] = kind;
    out[8..16].copy_from_slice(&nonce.to_le_bytes());
    out[16..24].copy_from_slice(&sent_ns.to_le_bytes());
    PING_BYTES
}

fn decode_ping(fields: &mut Reader<'_>) -> Result<(u64, u64), WireError> {
    fields.take("reserved", 7)?;
    Ok((fields.u64("ping nonce")?, fields.u64("ping time")?))
}
