//! Sorts a source's entries within bounded memory: runs that fit are sorted in memory, larger ones
//! go to an unnamed file and are merged. What comes out has no content twice.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::folder::TempFile;

/// Bytes of an entry in a run on disk.
const RUN_ENTRY_BYTES: usize = 20;
/// Entries read at once from a run.
const RUN_READ_ENTRIES_MIN: usize = 64;
const RUN_READ_ENTRIES_MAX: usize = 1 << 14;
/// Entries written at once to a run.
const RUN_WRITE_ENTRIES: usize = 1 << 14;

/// Where content lies, ordered by hash. Two entries whose 128 bits agree count as the same content;
/// were they not, one of them would not be found, which is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// What the index is sorted by.
    pub(crate) prefix: u64,
    /// The next 64 bits of the hash.
    pub(crate) rest: u64,
    /// Offset in the source file in blocks.
    pub(crate) block: u32,
}

impl Entry {
    fn same_content(&self, other: &Self) -> bool {
        (self.prefix, self.rest) == (other.prefix, other.rest)
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix.to_le_bytes());
        out.extend_from_slice(&self.rest.to_le_bytes());
        out.extend_from_slice(&self.block.to_le_bytes());
    }

    fn read(bytes: &[u8; RUN_ENTRY_BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = *bytes;
        Self {
            prefix: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            rest: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
            block: u32::from_le_bytes([q, r, s, t]),
        }
    }
}

/// Collects entries, then hands them out in order.
pub(crate) struct Sorter {
    dir: PathBuf,
    entries: Vec<Entry>,
    entries_max: usize,
    file: Option<File>,
    /// Start and end of each run in `file`, in bytes.
    runs: Vec<(u64, u64)>,
}

impl Sorter {
    /// Runs that do not fit `bytes` go to an unnamed file in `dir`.
    pub(crate) fn new(dir: &Path, bytes: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            entries: Vec::new(),
            entries_max: (bytes / size_of::<Entry>()).max(1),
            file: None,
            runs: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, entry: Entry) -> Result<()> {
        if self.entries.len() == self.entries_max {
            self.spill()?;
        }
        self.entries.push(entry);
        Ok(())
    }

    fn sort(&mut self) {
        self.entries.sort_unstable();
        self.entries.dedup_by(|later, earlier| earlier.same_content(later));
    }

    fn spill(&mut self) -> Result<()> {
        self.sort();
        if self.file.is_none() {
            self.file = Some(TempFile::create(&self.dir)?.anonymous()?);
        }
        let Some(file) = &self.file else { return Ok(()) };
        let start = self.runs.last().map_or(0, |run| run.1);
        let mut end = start;
        let mut bytes = Vec::with_capacity(RUN_WRITE_ENTRIES * RUN_ENTRY_BYTES);
        for some in self.entries.chunks(RUN_WRITE_ENTRIES) {
            bytes.clear();
            some.iter().for_each(|entry| entry.write(&mut bytes));
            file.write_all_at(&bytes, end).doing("sorting in", &self.dir)?;
            end += bytes.len() as u64;
        }
        self.runs.push((start, end));
        self.entries.clear();
        Ok(())
    }

    /// Hands out everything in order, each content once, with its lowest block.
    pub(crate) fn finish(mut self, emit: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        if self.file.is_none() {
            self.sort();
            return self.entries.iter().try_for_each(|entry| emit(*entry));
        }
        self.spill()?;
        self.entries = Vec::new();
        let Some(file) = self.file.take() else { return Ok(()) };
        let share = self.entries_max * size_of::<Entry>() / RUN_ENTRY_BYTES / self.runs.len();
        let entries = share.clamp(RUN_READ_ENTRIES_MIN, RUN_READ_ENTRIES_MAX);
        let mut runs: Vec<Run> = self.runs.iter().map(|run| Run::new(*run, entries)).collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (number, run) in runs.iter_mut().enumerate() {
            heads.extend(run.next(&file, &self.dir)?.map(|entry| Reverse((entry, number))));
        }
        let mut last: Option<Entry> = None;
        while let Some(Reverse((entry, number))) = heads.pop() {
            if !last.is_some_and(|last| last.same_content(&entry)) {
                emit(entry)?;
                last = Some(entry);
            }
            heads
                .extend(runs[number].next(&file, &self.dir)?.map(|entry| Reverse((entry, number))));
        }
        Ok(())
    }
}

/// One sorted run being read.
struct Run {
    next: u64,
    end: u64,
    bytes: Vec<u8>,
    used: usize,
    bytes_max: u64,
}

impl Run {
    fn new((next, end): (u64, u64), entries: usize) -> Self {
        let bytes_max = (entries * RUN_ENTRY_BYTES) as u64;
        Self { next, end, bytes: Vec::new(), used: 0, bytes_max }
    }

    fn next(&mut self, file: &File, dir: &Path) -> Result<Option<Entry>> {
        if self.used == self.bytes.len() {
            let length = (self.end - self.next).min(self.bytes_max);
            self.bytes.resize(length as usize, 0);
            file.read_exact_at(&mut self.bytes, self.next).doing("merging in", dir)?;
            self.next += length;
            self.used = 0;
        }
        let Some(bytes) = self.bytes[self.used..].first_chunk() else { return Ok(None) };
        self.used += RUN_ENTRY_BYTES;
        Ok(Some(Entry::read(bytes)))
    }
}
