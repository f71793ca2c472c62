//! The pages of one frame as they come out of QEMU's stream, before anything is decided.
//!
//! Filled by the thread that parses the stream. Allocates when created, never afterwards. It
//! notes where a page's bytes lie and does not read them.

use dwcp_wire::{BlockId, PageIndex};

use crate::hash::Page;

/// Most pages with content in one frame: 1 MiB of guest memory.
pub const FRAME_PAGES_MAX: usize = 256;
/// Most entries in one batch: pages with content and runs of zero pages.
pub const FRAME_ENTRIES_MAX: usize = 2048;
/// Most zero pages in one frame (4 GiB): bounds the work one frame can ask for.
pub const FRAME_ZERO_PAGES_MAX: u32 = 1 << 20;

/// One page with content, or a run of zero pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) block: BlockId,
    pub(crate) index: PageIndex,
    pub(crate) content: Content,
}

/// What an [`Entry`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Zero { count: u32 },
    At(u32),
}

/// The batch has no room: plan it, clear it, and push again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch is full: plan and clear it, then push again")]
pub struct BatchFull;

/// Pages collected for one frame, in the order of capture.
#[derive(Debug)]
pub struct PageBatch {
    entries: Vec<Entry>,
    pages: usize,
    pages_max: usize,
    zero_pages: u32,
}

impl Default for PageBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl PageBatch {
    /// An empty batch for frames of up to [`FRAME_PAGES_MAX`] pages.
    #[must_use]
    pub fn new() -> Self {
        Self {
            entries: Vec::with_capacity(FRAME_ENTRIES_MAX),
            pages: 0,
            pages_max: FRAME_PAGES_MAX,
            zero_pages: 0,
        }
    }

    /// Sets how many pages with content fill the batch, from 1 to [`FRAME_PAGES_MAX`]:
    /// small frames in the tail, large ones before.
    pub fn limit_pages(&mut self, pages_max: usize) {
        self.pages_max = pages_max.clamp(1, FRAME_PAGES_MAX);
    }

    /// Adds a page whose 4096 bytes lie at offset `at` of the buffer that will be planned.
    ///
    /// # Errors
    /// [`BatchFull`]: nothing was added.
    #[inline]
    pub fn push_page(
        &mut self,
        block: BlockId,
        index: PageIndex,
        at: u32,
    ) -> Result<(), BatchFull> {
        if self.pages >= self.pages_max || self.entries.len() >= FRAME_ENTRIES_MAX {
            return Err(BatchFull);
        }
        self.pages += 1;
        self.entries.push(Entry { block, index, content: Content::At(at) });
        Ok(())
    }

    /// Adds a zero page; one that follows the last entry prolongs its run.
    ///
    /// # Errors
    /// [`BatchFull`]: nothing was added.
    #[inline]
    pub fn push_zero(&mut self, block: BlockId, index: PageIndex) -> Result<(), BatchFull> {
        if self.zero_pages >= FRAME_ZERO_PAGES_MAX {
            return Err(BatchFull);
        }
        if let Some(count) = self.run_before(block, index) {
            *count += 1;
        } else if self.entries.len() < FRAME_ENTRIES_MAX {
            self.entries.push(Entry { block, index, content: Content::Zero { count: 1 } });
        } else {
            return Err(BatchFull);
        }
        self.zero_pages += 1;
        Ok(())
    }

    fn run_before(&mut self, block: BlockId, index: PageIndex) -> Option<&mut u32> {
        let last = self.entries.last_mut()?;
        let Content::Zero { count } = &mut last.content else { return None };
        let follows =
            last.block == block && index.0.checked_sub(last.index.0) == Some(u64::from(*count));
        follows.then_some(count)
    }

    /// Pages with content so far.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Whether the next page with content would be refused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pages >= self.pages_max || self.entries.len() >= FRAME_ENTRIES_MAX
    }

    /// Whether nothing was pushed since the last [`Self::clear`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets all entries, keeps memory and limit.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.pages = 0;
        self.zero_pages = 0;
    }

    /// Every page in the order of pushing, with its content in `bytes`, or none for zeros.
    pub fn pages_in<'a>(
        &'a self,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (BlockId, PageIndex, Option<&'a Page>)> {
        self.entries.iter().flat_map(move |entry| {
            let (count, content) = match entry.content {
                Content::Zero { count } => (count, None),
                Content::At(at) => (1, bytes.get(at as usize..).and_then(<[u8]>::first_chunk)),
            };
            (0..u64::from(count))
                .map(move |more| (entry.block, PageIndex(entry.index.0 + more), content))
        })
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BlockId = BlockId(1);

    #[test]
    fn neighbouring_zero_pages_become_one_run() {
        let mut batch = PageBatch::new();
        for index in [5, 6, 7, 9, 8] {
            batch.push_zero(ID, PageIndex(index)).unwrap();
        }
        batch.push_zero(BlockId(2), PageIndex(9)).unwrap();
        let runs: Vec<_> = batch.entries().iter().map(|e| (e.index.0, e.content)).collect();
        let zero = |count| Content::Zero { count };
        assert_eq!(runs, [(5, zero(3)), (9, zero(1)), (8, zero(1)), (9, zero(1))]);
    }

    #[test]
    fn bounds_hold() {
        let mut batch = PageBatch::new();
        batch.limit_pages(2);
        batch.push_page(ID, PageIndex(0), 0).unwrap();
        assert!(!batch.is_full());
        batch.push_page(ID, PageIndex(1), 4096).unwrap();
        assert!(batch.is_full());
        assert_eq!(batch.push_page(ID, PageIndex(2), 8192), Err(BatchFull));
        for index in 0..FRAME_ENTRIES_MAX as u64 - 2 {
            batch.push_zero(ID, PageIndex(10 + 2 * index)).unwrap();
        }
        assert_eq!(batch.push_zero(ID, PageIndex(0)), Err(BatchFull));
        batch.clear();
        assert!(batch.is_empty() && batch.pages() == 0);
        for index in 0..u64::from(FRAME_ZERO_PAGES_MAX) {
            batch.push_zero(ID, PageIndex(index)).unwrap();
        }
        assert_eq!(batch.push_zero(ID, PageIndex(1 << 20)), Err(BatchFull));
    }
}
