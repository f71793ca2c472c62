//! Keeping the memory that a guest leaves behind: a sparse file of its RAM blocks one after another.
//!
//! It becomes a source only when it is whole. The names come in this order under the folder's lock:
//! memory file, index, removal of the VM's earlier checkpoint. A crash between the first two leaves
//! a memory file without an index, which the next opening of the store removes.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, fallocate};
use xxhash_rust::xxh3::xxh3_64;

use crate::builder::BuildProgress;
use crate::catalog::{Found, MEMORY_SUFFIX, SourceKind, open_source, scan};
use crate::error::{Doing, Result, StoreError};
use crate::extents::Extents;
use crate::folder::{self, Lock, TempFile};
use crate::index::Header;
use crate::limits::SOURCE_BYTES_MAX;
use crate::store::{Added, Ready, Store, added};
use crate::{BLOCK, BLOCK_BYTES};

/// Neighbouring pages that are written with one call.
const RUN_BYTES_MAX: usize = 256 << 10;

/// Takes a guest's pages in any order; a later write of a page replaces the earlier one. Dropped
/// without [`CheckpointWriter::keep`] it leaves nothing behind.
pub struct CheckpointWriter {
    store: Store,
    vm: String,
    memory: TempFile,
    /// First page of each RAM block in the file, and one more: the end.
    starts: Vec<u64>,
    /// Pages with content, a bit each.
    written: Vec<u64>,
    bytes: u64,
    bytes_max: u64,
    /// Pages not yet in the file, and where they belong.
    run: Vec<u8>,
    run_at: u64,
}

impl CheckpointWriter {
    pub(crate) fn create(store: Store, vm: &str, blocks: &[u64], bytes_max: u64) -> Result<Self> {
        let mut starts = vec![0_u64];
        for pages in blocks {
            let end = starts.last().copied().unwrap_or(0).saturating_add(*pages);
            starts.push(end);
        }
        let end = starts.last().copied().unwrap_or(0);
        if end > SOURCE_BYTES_MAX / BLOCK {
            return Err(StoreError::Limit {
                what: "pages of a checkpoint",
                wanted: end,
                allowed: SOURCE_BYTES_MAX / BLOCK,
            });
        }
        let memory = TempFile::create(&store.dir)?;
        Ok(Self {
            vm: vm.to_owned(),
            memory,
            starts,
            written: vec![0; end.div_ceil(64) as usize],
            bytes: 0,
            bytes_max: bytes_max.min(store.limits.checkpoint_bytes_max),
            run: Vec::with_capacity(RUN_BYTES_MAX),
            run_at: 0,
            store,
        })
    }

    fn index(&self, block: u16, page: u64) -> Result<u64> {
        let n = usize::from(block);
        let pages = match (self.starts.get(n), self.starts.get(n + 1)) {
            (Some(start), Some(end)) if page < end - start => return Ok(start + page),
            (Some(start), Some(end)) => end - start,
            _ => 0,
        };
        Err(StoreError::NoSuchPage { block, page, blocks: self.starts.len() - 1, pages })
    }

    /// Keeps a page of RAM block number `block`. Most calls copy; every 256 KiB, or when the pages
    /// are no neighbours, they write.
    ///
    /// # Errors
    /// A page outside of the blocks; more than `bytes_max`; the disk's failure.
    pub fn write(&mut self, block: u16, page: u64, content: &[u8; BLOCK_BYTES]) -> Result<()> {
        if *content == [0; BLOCK_BYTES] {
            return self.zero(block, page);
        }
        let index = self.index(block, page)?;
        let bit = 1_u64 << (index % 64);
        let word = (index / 64) as usize;
        if self.written[word] & bit == 0 {
            if self.bytes + BLOCK > self.bytes_max {
                return Err(StoreError::Limit {
                    what: "bytes of a checkpoint's memory",
                    wanted: self.bytes + BLOCK,
                    allowed: self.bytes_max,
                });
            }
            self.bytes += BLOCK;
            self.written[word] |= bit;
        }
        let next = self.run_at + self.run.len() as u64;
        if index * BLOCK != next || self.run.len() == RUN_BYTES_MAX {
            self.flush()?;
            self.run_at = index * BLOCK;
        }
        self.run.extend_from_slice(content);
        Ok(())
    }

    /// Says that a page is zero now. Costs nothing where no content was written.
    ///
    /// # Errors
    /// A page outside of the blocks; the disk's failure.
    pub fn zero(&mut self, block: u16, page: u64) -> Result<()> {
        let index = self.index(block, page)?;
        let bit = 1_u64 << (index % 64);
        let word = (index / 64) as usize;
        if self.written[word] & bit == 0 {
            return Ok(());
        }
        self.flush()?;
        self.written[word] &= !bit;
        self.bytes -= BLOCK;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.memory.file, flags, index * BLOCK, BLOCK).is_ok() {
            return Ok(());
        }
        // A file system without holes.
        let path = self.memory.path();
        self.memory.file.write_all_at(&[0; BLOCK_BYTES], index * BLOCK).doing("writing", path)
    }

    fn flush(&mut self) -> Result<()> {
        let path = self.memory.path();
        self.memory.file.write_all_at(&self.run, self.run_at).doing("writing", path)?;
        self.run.clear();
        Ok(())
    }

    /// Syncs and indexes what was written, then makes it the VM's checkpoint in place of an earlier
    /// one. Checkpoints longest unused go if their bound needs it.
    ///
    /// # Errors
    /// The bound cannot be held even without all others; the disk's failure;
    /// [`StoreError::Stopped`]. The earlier checkpoint is then still there and this one is not.
    pub fn keep(mut self, progress: &mut dyn FnMut(BuildProgress) -> bool) -> Result<Added> {
        self.flush()?;
        let end = self.starts.last().copied().unwrap_or(0) * BLOCK;
        self.memory.file.set_len(end).doing("writing", self.memory.path())?;
        self.memory.sync()?;
        let (_, identity) = open_source(self.memory.path())?;
        let (id, path) = self.name();
        let header = Header {
            kind: SourceKind::Checkpoint,
            prefix_bits: self.store.limits.prefix_bits,
            identity,
            blocks: 0,
            entries: 0,
            left_out_bytes: 0,
            path,
            vm: Some(self.vm.clone()),
        };
        let extents = Extents::Raw { len: end };
        let ready = self.store.build(&self.memory.file, extents, header, progress)?;
        let result = added(&id, &ready.header, ready.index_bytes, None);
        self.publish(ready, &id)?;
        Ok(result)
    }

    /// A name that no earlier checkpoint has.
    fn name(&self) -> (String, PathBuf) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let text = format!("{} {since} {}", self.vm, std::process::id());
        let id = format!("{:016x}", xxh3_64(text.as_bytes()));
        let path = self.store.dir.join(format!("{id}{MEMORY_SUFFIX}"));
        (id, path)
    }

    fn publish(self, ready: Ready, id: &str) -> Result<()> {
        let dir = &self.store.dir;
        let _lock = Lock::take(dir)?;
        let all = scan(dir)?;
        let mut checkpoints: Vec<&Found> =
            all.iter().filter(|found| found.kind() == Some(SourceKind::Checkpoint)).collect();
        checkpoints.sort_by_key(|found| found.used);
        let (earlier, others): (Vec<&Found>, Vec<&Found>) =
            checkpoints.into_iter().partition(|found| {
                found.header.as_ref().is_some_and(|header| header.vm.as_ref() == Some(&self.vm))
            });
        let metadata = self.memory.file.metadata().doing("looking at", self.memory.path())?;
        let own = metadata.blocks() * 512 + ready.index_bytes;
        let evicted = self.to_evict(own, all.len() - earlier.len(), &others)?;
        self.memory.publish(&ready.header.path)?;
        ready.index.publish(&self.store.index_path(id))?;
        folder::sync(dir)?;
        earlier.into_iter().chain(evicted.iter().copied()).try_for_each(Found::remove)?;
        folder::sync(dir)
    }

    /// Which of the others (longest unused first) must go for `own` bytes and one more source.
    fn to_evict<'f>(
        &self,
        own: u64,
        sources: usize,
        others: &[&'f Found],
    ) -> Result<Vec<&'f Found>> {
        let limits = &self.store.limits;
        let bytes_of = |found: &&Found| found.index_bytes + found.memory_bytes();
        let mut bytes = own + others.iter().map(bytes_of).sum::<u64>();
        let mut sources = sources + 1;
        let mut evicted = Vec::new();
        for found in others {
            if bytes <= limits.checkpoint_bytes_max && sources <= limits.sources_max {
                break;
            }
            bytes -= bytes_of(found);
            sources -= 1;
            evicted.push(*found);
        }
        if bytes > limits.checkpoint_bytes_max {
            return Err(StoreError::Limit {
                what: "bytes of checkpoints on disk",
                wanted: bytes,
                allowed: limits.checkpoint_bytes_max,
            });
        }
        if sources > limits.sources_max {
            return Err(StoreError::Limit {
                what: "sources of a store (drop some)",
                wanted: sources as u64,
                allowed: limits.sources_max as u64,
            });
        }
        Ok(evicted)
    }
}
