//! RAM blocks of one job, and the numbering that turns (block, page index) into one integer.
//!
//! Filled before the first page, read only afterwards: nothing allocates once pages flow.
//! It knows lengths and names, nothing of contents.

use dwcp_wire::{BlockId, PageIndex};

use crate::error::BlockError;

/// Most RAM blocks of one job.
pub const BLOCKS_MAX: usize = 4096;
/// Longest name of a RAM block in bytes (QEMU's idstr has a one-byte length).
pub const BLOCK_NAME_BYTES_MAX: usize = 255;
/// Every block starts at a multiple of this, so that no tree node spans two blocks.
pub(crate) const BLOCK_ALIGN_PAGES: u32 = 512;
/// Most pages of one job, holes between blocks included: 8 TiB of guest memory.
pub const PAGES_MAX: u64 = 1 << 31;

/// One RAM block.
pub(crate) struct Block {
    pub(crate) id: BlockId,
    pub(crate) name: String,
    /// Number of its first page in the job-wide numbering.
    pub(crate) base: u32,
    pub(crate) pages: u32,
}

/// All RAM blocks of a job.
#[derive(Default)]
pub(crate) struct BlockTable {
    blocks: Vec<Block>,
    /// Position in `blocks` plus one, by id; zero where there is no such block.
    by_id: Vec<u16>,
    /// Job-wide number after the last page, rounded up.
    end: u32,
}

impl BlockTable {
    pub(crate) fn add(&mut self, id: BlockId, name: &str, pages: u64) -> Result<(), BlockError> {
        if name.len() > BLOCK_NAME_BYTES_MAX {
            let (length, max) = (name.len(), BLOCK_NAME_BYTES_MAX);
            return Err(BlockError::NameTooLong { block: id, length, max });
        }
        if self.position(id).is_some() {
            return Err(BlockError::Duplicate(id));
        }
        let too_large = BlockError::TooLarge { block: id, pages };
        let room = PAGES_MAX - u64::from(self.end);
        if self.blocks.len() >= BLOCKS_MAX || pages > room {
            return Err(too_large);
        }
        let pages = u32::try_from(pages).map_err(|_| too_large.clone())?;
        let aligned = pages.checked_next_multiple_of(BLOCK_ALIGN_PAGES).ok_or(too_large)?;
        self.blocks.push(Block { id, name: name.to_owned(), base: self.end, pages });
        self.end += aligned;
        self.enter(id);
        Ok(())
    }

    fn enter(&mut self, id: BlockId) {
        let slot = usize::from(id.0);
        if self.by_id.len() <= slot {
            self.by_id.resize(slot + 1, 0);
        }
        self.by_id[slot] = u16::try_from(self.blocks.len()).unwrap_or(0);
    }

    fn position(&self, id: BlockId) -> Option<usize> {
        let entry = *self.by_id.get(usize::from(id.0))?;
        usize::from(entry).checked_sub(1)
    }

    /// Job-wide number of the first page of a run that lies wholly inside one block.
    #[inline]
    pub(crate) fn resolve(&self, id: BlockId, index: PageIndex, count: u32) -> Option<u32> {
        let block = &self.blocks[self.position(id)?];
        let first = u32::try_from(index.0).ok()?;
        let end = first.checked_add(count)?;
        (end <= block.pages).then_some(block.base + first)
    }

    /// Block and index of a page that [`Self::resolve`] has numbered.
    pub(crate) fn locate(&self, page: u32) -> (BlockId, PageIndex) {
        let after = self.blocks.partition_point(|block| block.base <= page);
        let block = &self.blocks[after - 1];
        (block.id, PageIndex(u64::from(page - block.base)))
    }

    /// How many of the `max` pages from `page` on exist in its block.
    pub(crate) fn pages_from(&self, page: u32, max: u32) -> u32 {
        let after = self.blocks.partition_point(|block| block.base <= page);
        let block = &self.blocks[after - 1];
        (block.base + block.pages).saturating_sub(page).min(max)
    }

    /// Entries that a table over all pages needs.
    pub(crate) fn span(&self) -> usize {
        self.end as usize
    }

    /// Blocks in the order of their ids.
    pub(crate) fn sorted(&self) -> Vec<&Block> {
        let mut sorted: Vec<&Block> = self.blocks.iter().collect();
        sorted.sort_by_key(|block| block.id);
        sorted
    }

    /// Pages of all blocks together.
    pub(crate) fn pages(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.pages)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_resolve_inside_their_block_only() {
        let mut table = BlockTable::default();
        table.add(BlockId(7), "pc.ram", 600).unwrap();
        table.add(BlockId(2), "vga", 3).unwrap();
        assert_eq!(table.resolve(BlockId(7), PageIndex(0), 600), Some(0));
        assert_eq!(table.resolve(BlockId(7), PageIndex(1), 600), None);
        assert_eq!(table.resolve(BlockId(2), PageIndex(2), 1), Some(1026));
        assert_eq!(table.resolve(BlockId(2), PageIndex(u64::MAX), 1), None);
        assert_eq!(table.resolve(BlockId(3), PageIndex(0), 1), None);
        assert_eq!(table.resolve(BlockId(9), PageIndex(0), 1), None);
        assert_eq!(table.locate(1026), (BlockId(2), PageIndex(2)));
        assert_eq!(table.locate(599), (BlockId(7), PageIndex(599)));
        assert_eq!((table.span(), table.pages()), (1536, 603));
        assert_eq!(table.sorted()[0].id, BlockId(2));
    }

    #[test]
    fn bad_blocks_are_refused() {
        let mut table = BlockTable::default();
        table.add(BlockId(0), "a", PAGES_MAX).unwrap();
        assert_eq!(table.add(BlockId(0), "a", 1), Err(BlockError::Duplicate(BlockId(0))));
        for pages in [1, u64::MAX] {
            let refused = table.add(BlockId(1), "b", pages);
            assert_eq!(refused, Err(BlockError::TooLarge { block: BlockId(1), pages }));
        }
        let refused = table.add(BlockId(1), &"n".repeat(256), 0);
        assert!(matches!(refused, Err(BlockError::NameTooLong { length: 256, .. })));
    }
}
