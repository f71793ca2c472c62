//! What is to be done with the stream.

/// What happens to one RAM block in direct mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockRule {
    /// Its pages go to [`crate::Sink::page`]; the target ignores the block. `target_addr` is the
    /// block's `mr->addr` there, which QEMU compares: its offset inside the parent memory region.
    TakeOut {
        /// In bytes.
        target_addr: u64,
    },
    /// Its pages stay in the skeleton. QEMU does not compare the address of such a block.
    Keep {
        /// In bytes; 0 unless known better.
        target_addr: u64,
    },
    /// [`crate::StreamError::UnknownBlock`].
    Refuse,
}

/// The rules of direct mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectOptions {
    /// Rules by block name. Every block to be taken out must appear in the stream.
    pub blocks: Vec<(String, BlockRule)>,
    /// The rule for any other block (ROMs, vram): `Keep { target_addr: 0 }` or `Refuse`.
    pub others: BlockRule,
}

impl DirectOptions {
    /// The rule for the block called `name`.
    pub fn rule(&self, name: &str) -> BlockRule {
        self.blocks.iter().find(|(n, _)| n == name).map_or(self.others, |(_, rule)| *rule)
    }
}

/// How a stream is treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Every byte goes to the skeleton unchanged; blocks and marks are still reported.
    Plain,
    /// Pages are taken out and the skeleton is rewritten for a target with `x-ignore-shared`.
    Direct(DirectOptions),
}
