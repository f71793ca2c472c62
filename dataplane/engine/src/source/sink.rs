//! What the parser finds in QEMU's stream, gathered for the intake: pages of the current slot,
//! skeleton bytes, and where the stream stands. Grows to its bounds once and is then reused.

use std::collections::HashMap;

use dwcp_encode::{FRAME_ENTRIES_MAX, PageBatch};
use dwcp_qemustream::{Mark, RamBlock, Sink};
use dwcp_wire::{BlockId, Generation, PageIndex};

/// Bytes of the stream that may be parsed between two looks at the batch.
pub const PARSE_BYTES_MAX: usize = 8 << 10;
/// Shortest page record of the stream: a zero page of the same block.
const RECORD_BYTES_MIN: usize = 9;
/// A batch with more entries than this must go on before the next piece is parsed.
const ENTRIES_BEFORE_PARSE_MAX: usize = FRAME_ENTRIES_MAX - PARSE_BYTES_MAX / RECORD_BYTES_MIN - 1;
/// Skeleton bytes gathered before they go on.
const SKELETON_BYTES: usize = 256 << 10;
/// Longest device state that is kept until GO.
const TAIL_BYTES_MAX: usize = 256 << 20;

/// Gathers what the parser finds.
#[derive(Debug, Default)]
pub struct StreamSink {
    /// Pages of the current slot, in stream order.
    pub batch: PageBatch,
    /// Bytes for the target QEMU; after RAM's end, the tail.
    pub skeleton: Vec<u8>,
    /// Where the parser's input begins in the slot.
    pub base: usize,
    /// RAM's last section is over: skeleton bytes from here on are the tail, which waits for GO.
    pub tail_at: Option<usize>,
    /// The device description was seen to its end.
    pub stream_ended: bool,
    /// RAM sections seen to their end.
    pub sections: u64,
    /// Something the parser cannot know is wrong.
    pub failure: Option<String>,
    expected: HashMap<String, (BlockId, u64)>,
    ids: Vec<Option<BlockId>>,
    generation: u32,
    entries: usize,
    pages: u64,
    pages_since_eos: bool,
}

impl StreamSink {
    /// A sink that expects these blocks: name, number on the wire, bytes.
    #[must_use]
    pub fn new(blocks: impl IntoIterator<Item = (String, BlockId, u64)>) -> Self {
        Self {
            skeleton: Vec::with_capacity(SKELETON_BYTES * 2),
            expected: blocks.into_iter().map(|(name, id, bytes)| (name, (id, bytes))).collect(),
            ..Self::default()
        }
    }

    /// The capture generation: pages may recur only after RAM's end-of-section mark.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    /// True when the skeleton should go on.
    #[must_use]
    pub fn skeleton_is_full(&self) -> bool {
        self.skeleton.len() >= SKELETON_BYTES
    }

    /// True when the batch must go on before more of the stream is parsed.
    #[must_use]
    pub fn batch_is_full(&self) -> bool {
        self.batch.is_full() || self.entries > ENTRIES_BEFORE_PARSE_MAX
    }

    /// Empties the batch; the pages that were in it.
    pub fn clear_batch(&mut self) -> u64 {
        self.batch.clear();
        self.entries = 0;
        std::mem::take(&mut self.pages)
    }

    /// Bytes that may leave now: all until RAM's end, nothing of the tail.
    #[must_use]
    pub fn before_tail(&self) -> &[u8] {
        &self.skeleton[..self.tail_at.unwrap_or(self.skeleton.len())]
    }

    /// Drops what [`StreamSink::before_tail`] gave.
    pub fn clear_before_tail(&mut self) {
        let end = self.tail_at.unwrap_or(self.skeleton.len());
        self.skeleton.drain(..end);
        self.tail_at = self.tail_at.map(|_| 0);
    }

    /// The tail, out of the sink.
    pub fn take_tail(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.skeleton)
    }

    fn add(&mut self, block: u16, push: impl FnOnce(&mut PageBatch, BlockId) -> bool) {
        match self.ids.get(usize::from(block)).copied().flatten() {
            Some(id) => {
                self.pages_since_eos = true;
                self.entries += 1;
                self.pages += 1;
                if !push(&mut self.batch, id) {
                    self.fail("more pages came in one piece than a batch can hold".to_owned());
                }
            }
            None => self.fail(format!("a page of RAM block {block} came, which nobody announced")),
        }
    }

    fn fail(&mut self, text: String) {
        self.failure.get_or_insert(text);
    }
}

impl Sink for StreamSink {
    fn skeleton(&mut self, bytes: &[u8]) {
        if self.skeleton.len() + bytes.len() > TAIL_BYTES_MAX {
            self.fail("the device state is larger than 256 MiB".to_owned());
            return;
        }
        self.skeleton.extend_from_slice(bytes);
    }

    fn blocks(&mut self, blocks: &[RamBlock]) {
        self.ids = vec![None; blocks.len()];
        for (id, block) in self.ids.iter_mut().zip(blocks) {
            match self.expected.get(&block.name) {
                Some((known, bytes)) if *bytes == block.used_bytes => *id = Some(*known),
                Some((_, bytes)) if block.taken_out => {
                    let text = format!(
                        "RAM block {} has {} bytes in the stream and had {bytes} at the preflight",
                        block.name, block.used_bytes
                    );
                    self.failure.get_or_insert(text);
                }
                _ => {}
            }
        }
    }

    fn page(&mut self, block: u16, index: u64, at: usize) {
        let at = (self.base + at) as u32;
        self.add(block, |batch, id| batch.push_page(id, PageIndex(index), at).is_ok());
    }

    fn zero(&mut self, block: u16, index: u64) {
        self.add(block, |batch, id| batch.push_zero(id, PageIndex(index)).is_ok());
    }

    fn mark(&mut self, mark: Mark) {
        self.sections += u64::from(mark == Mark::Eos);
        match mark {
            Mark::Eos if self.pages_since_eos => {
                self.pages_since_eos = false;
                self.generation = self.generation.wrapping_add(1);
            }
            Mark::RamEnd => self.tail_at = Some(self.skeleton.len()),
            Mark::StreamEnd => self.stream_ended = true,
            Mark::Opaque => self.fail(
                "QEMU's stream holds a section that we do not know, so its end cannot be told"
                    .to_owned(),
            ),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_the_tail_leaves_with_the_rest() {
        let mut sink = StreamSink::new([]);
        Sink::skeleton(&mut sink, b"sections");
        sink.mark(Mark::RamEnd);
        Sink::skeleton(&mut sink, b"devices");
        assert_eq!(sink.before_tail(), b"sections");
        sink.clear_before_tail();
        assert_eq!(sink.before_tail(), b"");
        assert_eq!(sink.take_tail(), b"devices");
    }
}
