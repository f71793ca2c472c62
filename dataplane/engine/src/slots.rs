//! How a slot of the arena is laid out: room for headers, then what QEMU's stream or a frame brings.

use dwcp_encode::{FRAME_BODY_START, FRAME_BYTES_MAX, FRAME_PAGES_MAX};
use dwcp_qemustream::LOOKAHEAD_MAX;
use dwcp_wire::{PAGE_BYTES, PAYLOAD_MAX};

/// Bytes before the stream's bytes: the slice header, and the records of a frame written in place.
pub const HEADROOM: usize = 16 << 10;
/// Bytes of a page record in QEMU's stream: the flags word and the page.
const STREAM_RECORD_BYTES: usize = 8 + PAGE_BYTES;
/// Stream bytes in one slot: as many page records as a frame may hold.
pub const STREAM_BYTES_MAX: usize = FRAME_PAGES_MAX * STREAM_RECORD_BYTES;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = HEADROOM + PAYLOAD_MAX as usize;

const _: () = assert!(HEADROOM + STREAM_BYTES_MAX <= SLOT_BYTES);
const _: () = assert!(LOOKAHEAD_MAX * 4 <= STREAM_BYTES_MAX);
const _: () = assert!(FRAME_BODY_START + FRAME_BYTES_MAX <= SLOT_BYTES);
