//! Slices as the engine sees them, and how an outbound one is made ready for the wire.
//!
//! Layout of a slot: `[.. free ..][header 64][body ..]`, so that one send carries both.

use std::ops::Range;

use dwcp_hostmem::Slot;
use dwcp_uring::Buffer;
use dwcp_wire::{
    Channel, Epoch, Generation, HEADER_BYTES, PAYLOAD_MAX, SliceFlags, SliceHeader, SliceSeq,
};

use crate::{SubmitError, checksum};

/// Where a received body starts in its slot, and where senders place the payload: what comes
/// before has room for headers and records. Page-aligned.
pub const HEADROOM_BYTES: usize = 8192;

/// Bytes of a slot that can hold any slice.
pub const SLOT_BYTES: usize = HEADROOM_BYTES + PAYLOAD_MAX as usize;

const _: () = assert!(HEADROOM_BYTES >= HEADER_BYTES && HEADROOM_BYTES.is_multiple_of(4096));

/// Bytes of a slice.
#[derive(Debug)]
pub enum Body {
    /// In a slot of an arena.
    Slot {
        /// The slot; it goes back to its arena on drop.
        slot: Slot,
        /// Where the body lies. Outbound: at least 64 bytes before it belong to the header.
        range: Range<usize>,
    },
    /// On the heap: control messages.
    Small(Vec<u8>),
}

impl Body {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Slot { slot, range } => &slot[range.clone()],
            Self::Small(bytes) => bytes,
        }
    }
}

/// A slice to send.
#[derive(Debug)]
pub struct Outbound {
    /// A numbered channel.
    pub channel: Channel,
    /// Number, given by the producer: consecutive from 0 on Control and Skeleton.
    pub seq: u64,
    /// Capture generation of its pages.
    pub generation: u32,
    /// `LAST` ends the channel.
    pub flags: SliceFlags,
    /// Pages only: not sent before all Pages slices up to and including this one are acked.
    pub not_before: Option<u64>,
    /// The bytes.
    pub body: Body,
}

/// A slice that came in whole and unharmed.
#[derive(Debug)]
pub struct Inbound {
    /// A numbered channel.
    pub channel: Channel,
    /// Number. In order on Control and Skeleton.
    pub seq: u64,
    /// Capture generation of its pages.
    pub generation: u32,
    /// `LAST` ends the channel.
    pub flags: SliceFlags,
    /// The bytes. Drop it before (or when) saying `consumed`: the peer then sends the next.
    pub body: Body,
}

/// A slice with its header written, ready to be sent as `buffer[wire]`.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) channel: Channel,
    pub(crate) seq: u64,
    pub(crate) flags: SliceFlags,
    pub(crate) not_before: Option<u64>,
    pub(crate) bytes: u32,
    pub(crate) buffer: Buffer,
    pub(crate) wire: Range<usize>,
}

impl Outbound {
    /// Writes the header and gives the bytes their wire form. Runs on the submitter's thread.
    pub(crate) fn prepare(
        self,
        job_tag: u32,
        epoch: Epoch,
        payload_max: u32,
    ) -> Result<Prepared, SubmitError> {
        let Self { channel, seq, generation, flags, not_before, body } = self;
        if channel == Channel::Link {
            return Err(SubmitError::Link);
        }
        let (mut buffer, wire) = framed(body)?;
        let bytes = wire.len() - HEADER_BYTES;
        let max = payload_max.min(PAYLOAD_MAX);
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        if length > max {
            return Err(SubmitError::TooLong { bytes, max });
        }
        let (head, body) = buffer[wire.clone()].split_at_mut(HEADER_BYTES);
        let header = SliceHeader {
            channel,
            flags,
            job_tag,
            epoch,
            generation: Generation(generation),
            seq: SliceSeq(seq),
            length,
            checksum: checksum::of(body),
        };
        head.copy_from_slice(&header.encode());
        Ok(Prepared { channel, seq, flags, not_before, bytes: length, buffer, wire })
    }
}

/// The buffer and the range in it that header and body take.
fn framed(body: Body) -> Result<(Buffer, Range<usize>), SubmitError> {
    match body {
        Body::Slot { slot, range } => {
            let Range { start, end } = range;
            let len = slot.len();
            if start < HEADER_BYTES || end < start || end > len {
                return Err(SubmitError::Range { start, end, len });
            }
            Ok((Buffer::Slot(slot), start - HEADER_BYTES..end))
        }
        Body::Small(bytes) => {
            let mut framed = vec![0; HEADER_BYTES + bytes.len()];
            framed[HEADER_BYTES..].copy_from_slice(&bytes);
            let end = framed.len();
            Ok((Buffer::Heap(framed), 0..end))
        }
    }
}

#[cfg(test)]
mod tests {
    use dwcp_hostmem::{Arena, HugePages};

    use super::*;

    fn outbound(body: Body) -> Outbound {
        Outbound {
            channel: Channel::Pages,
            seq: 3,
            generation: 2,
            flags: SliceFlags::LAST,
            not_before: None,
            body,
        }
    }

    #[test]
    fn the_wire_form_is_header_then_body() {
        let arena = Arena::new(1, SLOT_BYTES, HugePages::Never).unwrap();
        let mut slot = arena.take().unwrap();
        slot[8000..9000].fill(5);
        for body in [Body::Small(vec![5; 1000]), Body::Slot { slot, range: 8000..9000 }] {
            let ready = outbound(body).prepare(77, Epoch(4), PAYLOAD_MAX).unwrap();
            let wire = &ready.buffer[ready.wire.clone()];
            let (head, body) = wire.split_first_chunk::<HEADER_BYTES>().unwrap();
            let header = SliceHeader::decode(head, PAYLOAD_MAX).unwrap();
            assert_eq!((header.seq.0, header.generation.0, header.length), (3, 2, 1000));
            assert!(header.flags.is_last());
            header.check_session(77, Epoch(4)).unwrap();
            header.check_body(body).unwrap();
            assert_eq!(body, [5; 1000]);
        }
    }

    #[test]
    fn bodies_that_do_not_fit_are_refused() {
        let arena = Arena::new(1, 8192, HugePages::Never).unwrap();
        #[allow(clippy::reversed_empty_ranges)]
        for range in [63..100, 64..8193, 200..100] {
            let body = Body::Slot { slot: arena.take().unwrap(), range };
            let refused = outbound(body).prepare(0, Epoch(0), PAYLOAD_MAX).unwrap_err();
            assert!(matches!(refused, SubmitError::Range { .. }), "{refused}");
        }
        let refused = outbound(Body::Small(vec![0; 11])).prepare(0, Epoch(0), 10).unwrap_err();
        assert_eq!(refused, SubmitError::TooLong { bytes: 11, max: 10 });
        let mut link = outbound(Body::Small(Vec::new()));
        link.channel = Channel::Link;
        assert_eq!(link.prepare(0, Epoch(0), 10).unwrap_err(), SubmitError::Link);
        assert_eq!(arena.free_slots(), 1);
    }
}
