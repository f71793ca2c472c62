//! What either side knows of every page: the slice that last wrote it and its leaf hash.
//!
//! One table per job and side, 20 bytes a page with XXH3 and 36 with BLAKE3, zeroed by the
//! allocator: memory that no page has touched costs nothing. Allocated while blocks are added,
//! never afterwards. Leaves hang in a tree of nodes of 512, so that the root costs work only
//! for what changed since it was last taken.

use dwcp_wire::BlockId;

use crate::blocks::{BLOCK_ALIGN_PAGES, BlockTable};
use crate::error::BlockError;
use crate::hash::{HashAlgorithm, Leaf, PageHasher, ZERO_PAGE};

/// Leaves under one tree node.
pub(crate) const LEAVES_PER_NODE: usize = BLOCK_ALIGN_PAGES as usize;
/// Largest slice number that the table can keep.
pub const SEQ_MAX: u64 = u32::MAX as u64 - 1;

/// First bytes of the root's input.
const ROOT_CONTEXT: &[u8] = b"DWCP v3 root";
const NODES_PER_WORD: usize = 64;
const LEAF_BYTES_MAX: usize = 32;

/// Digest over all of a job's pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Hash that made it.
    pub algorithm: HashAlgorithm,
    /// XXH3 fills the first 16 bytes, the others are zero; BLAKE3 fills all 32.
    pub digest: [u8; 32],
    /// Pages it covers.
    pub pages: u64,
}

/// Slice numbers and leaves of all pages.
pub(crate) struct PageTable {
    hasher: PageHasher,
    zero: Leaf,
    blocks: BlockTable,
    /// Slice that last wrote the page, plus one; zero if none did.
    seqs: Vec<u32>,
    /// Leaves, XORed with the zero page's, so that zeroed memory means zero pages.
    low: Vec<u128>,
    high: Vec<u128>,
    nodes: Vec<Leaf>,
    /// One bit per node whose leaves changed since it was computed.
    dirty: Vec<u64>,
}

impl PageTable {
    pub(crate) fn new(hasher: PageHasher) -> Self {
        Self {
            zero: hasher.leaf(&ZERO_PAGE),
            hasher,
            blocks: BlockTable::default(),
            seqs: Vec::new(),
            low: Vec::new(),
            high: Vec::new(),
            nodes: Vec::new(),
            dirty: Vec::new(),
        }
    }

    /// Adds a block of zero pages and clears the table.
    pub(crate) fn add_block(
        &mut self,
        id: BlockId,
        name: &str,
        pages: u64,
    ) -> Result<(), BlockError> {
        self.blocks.add(id, name, pages)?;
        let span = self.blocks.span();
        self.seqs = vec![0; span];
        self.low = vec![0; span];
        if self.is_wide() {
            self.high = vec![0; span];
        }
        self.clear_nodes();
        Ok(())
    }

    fn clear_nodes(&mut self) {
        let count = self.blocks.span() / LEAVES_PER_NODE;
        let full = self.node_of_zeros(LEAVES_PER_NODE);
        self.nodes = vec![full; count];
        self.dirty = vec![0; count.div_ceil(NODES_PER_WORD)];
        for block in self.blocks.sorted() {
            let rest = block.pages as usize % LEAVES_PER_NODE;
            if rest > 0 {
                let last = (block.base + block.pages) as usize / LEAVES_PER_NODE;
                self.nodes[last] = self.node_of_zeros(rest);
            }
        }
    }

    fn is_wide(&self) -> bool {
        self.hasher.algorithm() == HashAlgorithm::Blake3
    }

    pub(crate) fn blocks(&self) -> &BlockTable {
        &self.blocks
    }

    pub(crate) fn hasher(&self) -> &PageHasher {
        &self.hasher
    }

    /// Leaf of the zero page.
    pub(crate) fn zero_leaf(&self) -> Leaf {
        self.zero
    }

    /// The slice that last wrote `page`.
    #[inline]
    pub(crate) fn seq(&self, page: u32) -> Option<u64> {
        u64::from(self.seqs[page as usize]).checked_sub(1)
    }

    /// Whether no slice ever wrote any of `count` pages from `page` on.
    #[inline]
    pub(crate) fn is_untouched(&self, page: u32, count: u32) -> bool {
        let first = page as usize;
        self.seqs[first..first + count as usize].iter().all(|&seq| seq == 0)
    }

    #[inline]
    pub(crate) fn leaf(&self, page: u32) -> Leaf {
        let at = page as usize;
        let high = if self.high.is_empty() { 0 } else { self.high[at] ^ self.zero.high };
        Leaf { low: self.low[at] ^ self.zero.low, high }
    }

    /// Notes that slice `seq` (at most [`SEQ_MAX`]) wrote `leaf`.
    #[inline]
    pub(crate) fn set(&mut self, page: u32, seq: u64, leaf: Leaf) {
        debug_assert!(seq <= SEQ_MAX);
        self.seqs[page as usize] = u32::try_from(seq + 1).unwrap_or(u32::MAX);
        self.set_leaf(page, leaf);
    }

    /// Replaces the leaf alone.
    #[inline]
    pub(crate) fn set_leaf(&mut self, page: u32, leaf: Leaf) {
        let at = page as usize;
        self.low[at] = leaf.low ^ self.zero.low;
        if let Some(high) = self.high.get_mut(at) {
            *high = leaf.high ^ self.zero.high;
        }
        let node = at / LEAVES_PER_NODE;
        self.dirty[node / NODES_PER_WORD] |= 1 << (node % NODES_PER_WORD);
    }

    /// Brings at most `nodes_max` tree nodes up to date; true when none is left.
    pub(crate) fn settle(&mut self, nodes_max: usize) -> bool {
        let mut left = nodes_max;
        for word in 0..self.dirty.len() {
            while self.dirty[word] != 0 {
                if left == 0 {
                    return false;
                }
                left -= 1;
                let bit = self.dirty[word].trailing_zeros() as usize;
                self.dirty[word] &= self.dirty[word] - 1;
                let node = word * NODES_PER_WORD + bit;
                self.nodes[node] = self.compute_node(node);
            }
        }
        true
    }

    /// Digest of all blocks' ids, names, lengths and leaves, blocks in the order of their ids.
    pub(crate) fn root(&mut self) -> Root {
        self.settle(usize::MAX);
        let sorted = self.blocks.sorted();
        let mut stream = self.hasher.stream();
        stream.update(ROOT_CONTEXT);
        stream.update(&[self.hasher.algorithm().code()]);
        stream.update(&(sorted.len() as u64).to_le_bytes());
        for block in sorted {
            stream.update(&block.id.0.to_le_bytes());
            stream.update(&[u8::try_from(block.name.len()).unwrap_or(u8::MAX)]);
            stream.update(block.name.as_bytes());
            stream.update(&u64::from(block.pages).to_le_bytes());
            let first = block.base as usize / LEAVES_PER_NODE;
            let count = (block.pages as usize).div_ceil(LEAVES_PER_NODE);
            for node in &self.nodes[first..first + count] {
                stream.update(&node.to_bytes());
            }
        }
        Root {
            algorithm: self.hasher.algorithm(),
            digest: stream.finish().to_bytes(),
            pages: self.blocks.pages(),
        }
    }

    fn compute_node(&self, node: usize) -> Leaf {
        let first = u32::try_from(node * LEAVES_PER_NODE).unwrap_or(u32::MAX);
        let count = self.blocks.pages_from(first, BLOCK_ALIGN_PAGES);
        self.digest_leaves((first..first + count).map(|page| self.leaf(page)))
    }

    fn node_of_zeros(&self, count: usize) -> Leaf {
        self.digest_leaves(std::iter::repeat_n(self.zero, count))
    }

    fn digest_leaves(&self, leaves: impl Iterator<Item = Leaf>) -> Leaf {
        let width = if self.is_wide() { LEAF_BYTES_MAX } else { LEAF_BYTES_MAX / 2 };
        let mut bytes = [0u8; LEAVES_PER_NODE * LEAF_BYTES_MAX];
        let mut filled = 0;
        for leaf in leaves {
            bytes[filled..filled + width].copy_from_slice(&leaf.to_bytes()[..width]);
            filled += width;
        }
        self.hasher.digest(&bytes[..filled])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: BlockId = BlockId(3);

    fn table(algorithm: HashAlgorithm, pages: u64) -> PageTable {
        let mut table = PageTable::new(PageHasher::new(algorithm, 5));
        table.add_block(ID, "pc.ram", pages).unwrap();
        table
    }

    #[test]
    fn untouched_memory_is_zero_pages() {
        for algorithm in [HashAlgorithm::Xxh3, HashAlgorithm::Blake3] {
            let mut fresh = table(algorithm, 700);
            let mut written = table(algorithm, 700);
            for page in 0..700 {
                assert_eq!(written.leaf(page), written.zero_leaf());
                written.set(page, 9, written.zero_leaf());
            }
            assert_eq!(fresh.root(), written.root());
            assert!(fresh.is_untouched(0, 700));
            assert!(!written.is_untouched(699, 1));
        }
    }

    #[test]
    fn every_leaf_and_its_place_count_in_the_root() {
        for algorithm in [HashAlgorithm::Xxh3, HashAlgorithm::Blake3] {
            let mut table = table(algorithm, 1100);
            let leaf = table.hasher().leaf(&[1; 4096]);
            let mut roots = vec![table.root().digest];
            for page in [0, 511, 512, 1023, 1024, 1099] {
                table.set(page, 0, leaf);
                roots.push(table.root().digest);
                table.set(page, 1, table.zero_leaf());
                assert_eq!(table.root().digest, roots[0]);
            }
            roots.sort_unstable();
            roots.dedup();
            assert_eq!(roots.len(), 7, "{algorithm:?}");
        }
    }

    #[test]
    fn names_ids_and_lengths_count_but_the_order_of_adding_does_not() {
        let root = |blocks: &[(u16, &str, u64)]| {
            let mut table = PageTable::new(PageHasher::new(HashAlgorithm::Xxh3, 5));
            for (id, name, pages) in blocks {
                table.add_block(BlockId(*id), name, *pages).unwrap();
            }
            table.root().digest
        };
        let base = root(&[(0, "a", 10), (1, "b", 600)]);
        assert_eq!(base, root(&[(1, "b", 600), (0, "a", 10)]));
        assert_ne!(base, root(&[(0, "a", 10), (1, "c", 600)]));
        assert_ne!(base, root(&[(0, "a", 10), (2, "b", 600)]));
        assert_ne!(base, root(&[(0, "a", 10), (1, "b", 601)]));
    }

    /// Two releases must agree on roots.
    #[test]
    fn roots_are_what_they_were() {
        let root = |algorithm| {
            let mut table = table(algorithm, 513);
            table.set(512, 0, table.hasher().leaf(&[7; 4096]));
            let digest = table.root().digest;
            digest[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(root(HashAlgorithm::Xxh3), "e728194897215c7b");
        assert_eq!(root(HashAlgorithm::Blake3), "13f2fe88281f94bd");
    }

    #[test]
    fn settling_in_steps_gives_the_same_root() {
        let mut steps = table(HashAlgorithm::Xxh3, 512 * 130);
        let mut at_once = table(HashAlgorithm::Xxh3, 512 * 130);
        let leaf = steps.hasher().leaf(&[7; 4096]);
        for page in (0..512 * 130).step_by(512) {
            steps.set(page, 0, leaf);
            at_once.set(page, 0, leaf);
        }
        assert!(!steps.settle(129));
        assert!(steps.settle(1));
        assert_eq!(steps.root(), at_once.root());
    }
}
