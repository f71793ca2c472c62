//! What a guest leaves behind on its old host: its pages, kept as they pass, for a cheap way back.
//! The intake writes them in the order of capture. A checkpoint that cannot be kept costs a note,
//! never the migration.

use dwcp_encode::PageBatch;
use dwcp_store::CheckpointWriter;

use crate::ipc::ChildPlan;
use crate::qemu::GuestFacts;

/// Longest checkpoint, beside the store's own bound: a guest's memory and no more.
fn bytes_max(plan: &ChildPlan) -> u64 {
    plan.blocks.iter().map(|block| block.used_bytes).sum()
}

/// What a checkpoint is filed under.
fn identity(facts: &GuestFacts) -> Option<String> {
    if facts.uuid != [0; 16] {
        return Some(uuid::Uuid::from_bytes(facts.uuid).to_string());
    }
    (!facts.name.is_empty()).then(|| facts.name.clone())
}

/// Keeps pages until something fails.
pub struct Keeping {
    writer: Option<CheckpointWriter>,
    failure: Option<String>,
}

impl Keeping {
    /// Begins when the plan asks for it.
    #[must_use]
    pub fn new(plan: &ChildPlan) -> Self {
        let begun = plan.checkpoint.as_ref().map(|content| -> Result<_, String> {
            let pages: Vec<u64> = plan
                .blocks
                .iter()
                .map(|block| block.used_bytes / dwcp_wire::PAGE_BYTES as u64)
                .collect();
            let vm = identity(&plan.facts).ok_or("the guest has neither a UUID nor a name")?;
            let store = content.open().map_err(|e| e.to_string())?;
            store.checkpoint(&vm, &pages, bytes_max(plan)).map_err(|e| e.to_string())
        });
        match begun {
            None => Self { writer: None, failure: None },
            Some(Ok(writer)) => Self { writer: Some(writer), failure: None },
            Some(Err(text)) => Self { writer: None, failure: Some(text) },
        }
    }

    /// Keeps a batch whose contents lie in `bytes`.
    pub fn add(&mut self, batch: &PageBatch, bytes: &[u8]) {
        let Some(writer) = &mut self.writer else { return };
        let kept = batch.pages_in(bytes).try_for_each(|(block, index, content)| match content {
            Some(page) => writer.write(block.0, index.0, page),
            None => writer.zero(block.0, index.0),
        });
        if let Err(error) = kept {
            self.writer = None;
            self.failure = Some(error.to_string());
        }
    }

    /// Makes it the guest's checkpoint; what became of it in words, if one was asked for.
    #[must_use]
    pub fn keep(self) -> Option<String> {
        if let Some(text) = self.failure {
            return Some(format!("no checkpoint was kept: {text}"));
        }
        Some(match self.writer?.keep(&mut |_| true) {
            Ok(added) => format!("checkpoint {} kept, {} pages", added.id, added.blocks),
            Err(error) => format!("no checkpoint was kept: {error}"),
        })
    }
}
