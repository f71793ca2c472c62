//! Asking a store: which source has this content, and the content itself, hashed again.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::{Advice, fadvise};

use crate::catalog::{Found, SourceKind, open_source};
use crate::index::Index;
use crate::limits::{
    Limits, READER_FENCE_BYTES_MAX, READER_FILES_MAX, READER_FOUND_MAX, READER_INDEXES_MAX,
};
use crate::table::{ENTRY_BYTES, Table};
use crate::{BLOCK, BLOCK_BYTES, ContentHash, content_hash};

/// Source and block.
type Place = (u32, u32);

struct Source {
    kind: SourceKind,
    path: PathBuf,
    index_path: PathBuf,
    file: Option<File>,
    /// The file cannot be opened: never tried again.
    failed: bool,
    /// When it was last read, in reads.
    read_at: u64,
    /// Its use has been noted on disk.
    noted: bool,
}

/// What a store held when the reader was made. For one thread; sources may change, shrink and go
/// meanwhile.
pub struct Reader {
    limits: Limits,
    sources: Vec<Source>,
    table: Table,
    /// Indexes too large for the table, by source.
    indexes: Vec<(u32, Index<File>)>,
    /// What `prefetch` found; `None`: nothing.
    found: HashMap<ContentHash, Option<Place>>,
    open_files: usize,
    reads: u64,
    places: Vec<Place>,
}

impl Reader {
    /// Reads what fits into memory of these indexes. Never fails: what cannot be read is not found.
    pub(crate) fn new(limits: &Limits, mut all: Vec<Found>) -> Self {
        let mut reader = Self {
            limits: limits.clone(),
            sources: Vec::new(),
            table: Table::default(),
            indexes: Vec::new(),
            found: HashMap::new(),
            open_files: 0,
            reads: 0,
            places: Vec::new(),
        };
        // Every index in the table saves one page read per hash, whatever its size: smallest first.
        all.sort_by_key(|found| found.index_bytes);
        let mut table_bytes = 0_u64;
        let mut large = Vec::new();
        for found in all {
            let Some(header) = &found.header else { continue };
            if header.prefix_bits != limits.prefix_bits || header.entries == 0 {
                continue;
            }
            table_bytes = table_bytes.saturating_add(header.entries * ENTRY_BYTES as u64);
            if table_bytes > limits.table_bytes as u64 {
                large.push(found);
            } else {
                let number = reader.sources.len() as u32;
                let loaded = File::open(&found.index_path)
                    .is_ok_and(|file| reader.table.load(&file, header, number));
                if loaded {
                    reader.add_source(&found);
                }
            }
        }
        reader.table.finish();
        large.sort_by_key(|found| std::cmp::Reverse(found.used));
        reader.add_indexes(&large);
        reader
    }

    fn add_indexes(&mut self, large: &[Found]) {
        let mut fence_bytes_left = READER_FENCE_BYTES_MAX;
        for found in large {
            if self.indexes.len() == READER_INDEXES_MAX {
                return;
            }
            let Some(header) = &found.header else { continue };
            let index = File::open(&found.index_path)
                .ok()
                .and_then(|file| Index::open(file, header, fence_bytes_left));
            if let Some(index) = index {
                fence_bytes_left -= index.fence_bytes();
                self.indexes.push((self.sources.len() as u32, index));
                self.add_source(found);
            }
        }
    }

    fn add_source(&mut self, found: &Found) {
        if let Some(header) = &found.header {
            self.sources.push(Source {
                kind: header.kind,
                path: header.path.clone(),
                index_path: found.index_path.clone(),
                file: None,
                failed: false,
                read_at: 0,
                noted: false,
            });
        }
    }

    /// Whether nothing can be found: then asking is not worth a message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty() && self.indexes.is_empty()
    }

    /// Looks the hashes up and starts reading their blocks into the page cache, neighbours with one
    /// call. Does not wait for the reads. A fifth of a microsecond for a hash that no source has, one
    /// for a block that is in the page cache already (docs/adr/0006).
    pub fn prefetch(&mut self, hashes: &[ContentHash]) {
        let mut places = Vec::new();
        for hash in hashes {
            if self.found.len() >= READER_FOUND_MAX {
                self.found.clear();
            }
            if self.found.contains_key(hash) {
                continue;
            }
            self.look_up(hash);
            let first = self.places.first().copied();
            self.found.insert(*hash, first);
            places.extend(first);
        }
        places.sort_unstable();
        let runs = places.chunk_by(|(source, block), (next_source, next_block)| {
            source == next_source && next_block - block <= 1
        });
        for run in runs {
            let (Some((source, first)), Some((_, last))) = (run.first(), run.last()) else {
                continue;
            };
            let bytes = NonZeroU64::new((u64::from(last - first) + 1) * BLOCK);
            if let Some(file) = self.open(*source) {
                let _ = fadvise(file, u64::from(*first) * BLOCK, bytes, Advice::WillNeed);
            }
        }
    }

    /// Content of this hash, read from a source and hashed again, and the kind of that source.
    /// `None`: nobody has it (any more); `out` is then as it was.
    pub fn fetch(&mut self, hash: &ContentHash, out: &mut [u8; BLOCK_BYTES]) -> Option<SourceKind> {
        let known = self.found.remove(hash);
        if let Some(place) = known {
            let kind = self.read(place?, hash, out);
            if kind.is_some() {
                return kind;
            }
        }
        self.look_up(hash);
        let places = std::mem::take(&mut self.places);
        let kind = places.iter().find_map(|place| self.read(*place, hash, out));
        self.places = places;
        kind
    }

    /// Puts into `places` where the content may be.
    fn look_up(&mut self, hash: &ContentHash) {
        let prefix = self.limits.prefix(hash);
        let places = &mut self.places;
        places.clear();
        self.table.lookup(prefix, |source, block| places.push((source, block)));
        for (source, index) in &self.indexes {
            index.lookup(prefix, |block| places.push((*source, block)));
        }
    }

    fn read(
        &mut self,
        (source, number): Place,
        hash: &ContentHash,
        out: &mut [u8; BLOCK_BYTES],
    ) -> Option<SourceKind> {
        // A copy of its own, so that `out` changes only when it is right.
        let mut block = [0; BLOCK_BYTES];
        let file = self.open(source)?;
        let read = file.read_exact_at(&mut block, u64::from(number) * BLOCK);
        let same = read.is_ok() && content_hash(&block) == *hash;
        if same {
            *out = block;
        }
        let source = self.sources.get_mut(source as usize).filter(|_| same)?;
        if !source.noted {
            source.noted = true;
            // The age of an index's file is what eviction goes by.
            let _ = File::open(&source.index_path)
                .and_then(|index| index.set_modified(SystemTime::now()));
        }
        Some(source.kind)
    }

    /// The source's file, opened when it is first needed.
    fn open(&mut self, number: u32) -> Option<&File> {
        self.reads += 1;
        let reads = self.reads;
        let source = self.sources.get(number as usize)?;
        if source.failed {
            return None;
        }
        if source.file.is_none() {
            if self.open_files == READER_FILES_MAX {
                self.close_oldest();
            }
            let opened = open_source(&self.sources[number as usize].path);
            let source = &mut self.sources[number as usize];
            match opened {
                Ok((file, _)) => source.file = Some(file),
                Err(_) => source.failed = true,
            }
            self.open_files += usize::from(!source.failed);
        }
        let source = &mut self.sources[number as usize];
        source.read_at = reads;
        source.file.as_ref()
    }

    fn close_oldest(&mut self) {
        let open = self.sources.iter_mut().filter(|source| source.file.is_some());
        if let Some(oldest) = open.min_by_key(|source| source.read_at) {
            oldest.file = None;
            self.open_files -= 1;
        }
    }
}
