//! Sends the ordered bytes for the target QEMU: packed, cut into slices, numbered.

use std::sync::Arc;

use dwcp_encode::Level;
use dwcp_encode::bytes::Packer;
use dwcp_hostmem::Arena;
use dwcp_tcp::{Body, Endpoint, Outbound};
use dwcp_wire::{Channel, PAYLOAD_MAX, SliceFlags};

use super::encoder::take_slot;
use super::gate::Gate;
use super::shared::Shared;
use crate::error::{Class, EngineError, Result};
use crate::slots::HEADROOM;

/// Bytes of the stream in one slice; packed they still fit a slot when they do not shrink.
const CHUNK_BYTES: usize = 1 << 20;
/// Below this many bytes packing does not pay.
const PACK_BYTES_MIN: usize = 256;
/// The level for device state and small RAM blocks: few bytes, and some of them in the pause.
const LEVEL: Level = Level::Zstd(3);

const _: () = assert!(CHUNK_BYTES < PAYLOAD_MAX as usize);

/// Cuts, packs and numbers skeleton bytes.
pub struct SkeletonSender {
    /// The session.
    pub endpoint: Endpoint,
    /// Slots.
    pub arena: Arc<Arena>,
    /// Holds back what the link cannot take yet.
    pub gate: Arc<Gate>,
    /// Flags.
    pub shared: Arc<Shared>,
    /// Contexts, reused.
    pub packer: Packer,
    /// The next slice's number.
    pub next_seq: u64,
}

impl SkeletonSender {
    /// Sends `bytes`; `last` marks the final slice of the stream.
    ///
    /// # Errors
    /// The session has ended.
    pub fn send(&mut self, bytes: &[u8], last: bool) -> Result<()> {
        let chunks = bytes.len().div_ceil(CHUNK_BYTES);
        for (index, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
            let flags = match last && index + 1 == chunks {
                true => SliceFlags::LAST,
                false => SliceFlags::NONE,
            };
            self.send_chunk(chunk, flags)?;
        }
        Ok(())
    }

    fn send_chunk(&mut self, chunk: &[u8], flags: SliceFlags) -> Result<()> {
        let ended = || EngineError::new(Class::Unreachable, "the session has ended");
        let mut slot = take_slot(&self.arena, &self.shared).ok_or_else(ended)?;
        let level = if chunk.len() < PACK_BYTES_MIN { Level::Off } else { LEVEL };
        let length = self.packer.pack(level, chunk, &mut slot[HEADROOM..]);
        let seq = self.next_seq;
        self.next_seq += 1;
        let slice = Outbound {
            channel: Channel::Skeleton,
            seq,
            generation: 0,
            flags,
            not_before: None,
            body: Body::Slot { slot, range: HEADROOM..HEADROOM + length },
        };
        self.gate.submit(&self.endpoint, &self.shared, slice).map_err(|_| ended())
    }
}
