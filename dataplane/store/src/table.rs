//! Entries of all small indexes in memory, in one sorted table: one lookup however many sources.

use std::fs::File;

use crate::index::{Header, Index};
use crate::limits::CANDIDATES_MAX;

/// Memory of an entry with its share of `starts`.
pub(crate) const ENTRY_BYTES: usize = size_of::<Entry>() + 2;
/// Entries per start on average.
const ENTRIES_PER_START: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    prefix: u64,
    source: u32,
    block: u32,
}

/// The table. Prefixes are evenly spread, so their first bits say nearly where they are.
#[derive(Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
    /// `starts[b]`: the first entry whose prefix begins with the bits of `b` or more. One longer
    /// than there are such beginnings.
    starts: Vec<u32>,
    shift: u32,
}

impl Table {
    /// Adds all entries of an index; `false` (and nothing added) when it cannot be read.
    pub(crate) fn load(&mut self, file: &File, header: &Header, source: u32) -> bool {
        let before = self.entries.len();
        let whole = Index::all(file, header, |prefix, block| {
            self.entries.push(Entry { prefix, source, block });
        });
        if !whole {
            self.entries.truncate(before);
        }
        whole
    }

    /// To be called after the last `load`, before the first lookup.
    pub(crate) fn finish(&mut self) {
        // Several ascending runs one after another: what a stable sort merges.
        self.entries.sort();
        self.entries.shrink_to_fit();
        let bits = (self.entries.len() / ENTRIES_PER_START).max(1).ilog2();
        self.shift = u64::BITS - bits;
        let mut next = 0;
        self.starts = (0..=1_usize << bits)
            .map(|begin| {
                while self.entries.get(next).is_some_and(|e| self.bucket(e.prefix) < begin) {
                    next += 1;
                }
                next as u32
            })
            .collect();
    }

    fn bucket(&self, prefix: u64) -> usize {
        prefix.checked_shr(self.shift).unwrap_or(0) as usize
    }

    /// Whether it holds nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Calls `found` with source and block of every entry of this prefix, up to a bound.
    pub(crate) fn lookup(&self, prefix: u64, mut found: impl FnMut(u32, u32)) {
        let bucket = self.bucket(prefix);
        let (Some(start), Some(end)) = (self.starts.get(bucket), self.starts.get(bucket + 1))
        else {
            return;
        };
        let Some(some) = self.entries.get(*start as usize..*end as usize) else { return };
        let first = some.partition_point(|entry| entry.prefix < prefix);
        some[first..]
            .iter()
            .take(CANDIDATES_MAX)
            .take_while(|entry| entry.prefix == prefix)
            .for_each(|entry| found(entry.source, entry.block));
    }
}
