//! Building one index: workers read and hash, the caller's thread sorts and writes. Nothing here
//! knows names in the store's folder.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{Advice, fadvise};

use crate::error::{Doing, Result, StoreError};
use crate::extents::Extents;
use crate::index::IndexWriter;
use crate::limits::{Limits, READ_BYTES, WORKERS_MAX};
use crate::sort::{Entry, Sorter};
use crate::{BLOCK, BLOCK_BYTES, content_hash};

/// Entries written between two calls of the progress callback.
const ENTRIES_PER_CALL: u64 = 1 << 18;

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildProgress {
    /// Bytes of the file done, holes included.
    pub bytes_done: u64,
    /// Bytes of the file.
    pub bytes_total: u64,
    /// Blocks with content so far.
    pub blocks: u64,
}

/// What is asked after every piece of work; `false` stops it.
pub(crate) type Callback<'a> = &'a mut dyn FnMut(BuildProgress) -> bool;

/// One build.
pub(crate) struct Build<'a> {
    pub(crate) file: &'a File,
    /// For messages.
    pub(crate) path: &'a Path,
    pub(crate) bytes_total: u64,
    /// Where unnamed files of the sort may lie.
    pub(crate) dir: &'a Path,
    pub(crate) limits: &'a Limits,
}

/// What a worker made of one read.
struct Hashed {
    covered: u64,
    entries: Vec<Entry>,
}

/// Which part is read next.
struct Claims {
    extents: Extents,
    part: std::ops::Range<u64>,
    /// End of what was claimed so far.
    claimed: u64,
}

impl Claims {
    /// Offset and length of the next read, and the bytes it covers with the hole before it.
    fn next(&mut self, file: &File) -> io::Result<Option<(u64, usize, u64)>> {
        if self.part.is_empty() {
            match self.extents.next(file, self.claimed)? {
                Some(part) => self.part = part,
                None => return Ok(None),
            }
        }
        let start = self.part.start;
        let length = (self.part.end - start).min(READ_BYTES as u64);
        self.part.start += length;
        let covered = (start + length).saturating_sub(self.claimed);
        self.claimed = start + length;
        Ok(Some((start, length as usize, covered)))
    }
}

impl Build<'_> {
    /// Hashes the extents and hands the sorted entries to the writer. Returns the number of blocks
    /// with content.
    pub(crate) fn run(
        &self,
        extents: Extents,
        out: &mut IndexWriter<'_>,
        progress: Callback<'_>,
    ) -> Result<u64> {
        let mut state = BuildProgress { bytes_done: 0, bytes_total: self.bytes_total, blocks: 0 };
        let mut sorter = Sorter::new(self.dir, self.limits.sort_bytes);
        let _ = fadvise(self.file, 0, None, Advice::Sequential);
        let claims = Mutex::new(Claims { extents, part: 0..0, claimed: 0 });
        let stop = AtomicBool::new(false);
        let workers = self.limits.workers.clamp(1, WORKERS_MAX);
        let (send, receive) = sync_channel(2 * workers);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                let send = send.clone();
                scope.spawn(|| self.work(&claims, &stop, send));
            }
            drop(send);
            let collected = self.collect(receive, &mut sorter, &mut state, progress);
            stop.store(true, Relaxed);
            collected
        })?;
        let mut written = 0;
        sorter.finish(&mut |entry| {
            written += 1;
            if written % ENTRIES_PER_CALL == 0 && !progress(state) {
                return Err(StoreError::Stopped);
            }
            out.push(entry.prefix, entry.block)
        })?;
        state.bytes_done = state.bytes_total;
        if progress(state) { Ok(state.blocks) } else { Err(StoreError::Stopped) }
    }

    fn collect(
        &self,
        receive: Receiver<io::Result<Hashed>>,
        sorter: &mut Sorter,
        state: &mut BuildProgress,
        progress: Callback<'_>,
    ) -> Result<()> {
        for hashed in receive {
            let hashed = hashed.doing("reading", self.path)?;
            state.blocks += hashed.entries.len() as u64;
            state.bytes_done = (state.bytes_done + hashed.covered).min(state.bytes_total);
            hashed.entries.into_iter().try_for_each(|entry| sorter.push(entry))?;
            if !progress(*state) {
                return Err(StoreError::Stopped);
            }
        }
        Ok(())
    }

    fn work(
        &self,
        claims: &Mutex<Claims>,
        stop: &AtomicBool,
        send: SyncSender<io::Result<Hashed>>,
    ) {
        let mut bytes = vec![0; READ_BYTES];
        while !stop.load(Relaxed) {
            let claimed = match claims.lock() {
                Ok(mut claims) => claims.next(self.file),
                Err(_) => return,
            };
            let hashed = match claimed {
                Ok(Some((offset, length, covered))) => {
                    self.hash(offset, &mut bytes[..length], covered)
                }
                Ok(None) => return,
                Err(e) => Err(e),
            };
            let failed = hashed.is_err();
            if send.send(hashed).is_err() || failed {
                return;
            }
        }
    }

    fn hash(&self, offset: u64, bytes: &mut [u8], covered: u64) -> io::Result<Hashed> {
        let length = read_what_is_there(self.file, bytes, offset)?;
        let (blocks, _) = bytes[..length].as_chunks::<BLOCK_BYTES>();
        let mut entries = Vec::with_capacity(blocks.len());
        for (number, block) in (offset / BLOCK..).zip(blocks) {
            if *block == [0; BLOCK_BYTES] {
                continue;
            }
            let hash = content_hash(block);
            let [_, _, _, _, _, _, _, _, i, j, k, l, m, n, o, p, ..] = hash;
            entries.push(Entry {
                prefix: self.limits.prefix(&hash),
                rest: u64::from_be_bytes([i, j, k, l, m, n, o, p]),
                // Sources are at most SOURCE_BYTES_MAX long.
                block: number as u32,
            });
        }
        Ok(Hashed { covered, entries })
    }
}

/// Reads up to the end of the file, which may have come nearer meanwhile.
fn read_what_is_there(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
