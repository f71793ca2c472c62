//! One immutable index file: what it was built from, and its entries sorted by hash prefix.
//!
//! ```text
//! header   8192 bytes, little-endian, xxh3 of the rest in its last 8 bytes
//! pages    4096 bytes each: up to 341 entries of 12 bytes (prefix u64, block u32), ascending
//! fences   8 bytes per page: the page's first prefix
//! ```
//! The length of the file follows from the header's entry count, so nothing is allocated by a number
//! that the file's length does not bear out. Entries are hints: a wrong one costs a read and a hash.

use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::catalog::{Identity, SourceKind};
use crate::error::{Doing, Result, StoreError};
use crate::limits::{CANDIDATES_MAX, PATH_BYTES_MAX, READER_FENCE_BYTES_MAX, VM_BYTES_MAX};

const MAGIC: [u8; 8] = *b"DWCPIDX\n";
const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 8192;
/// Where the path starts in the header; the VM's name follows it.
const TEXT_AT: usize = 256;
const PAGE_BYTES: usize = 4096;
const ENTRY_BYTES: usize = 12;
pub(crate) const PAGE_ENTRIES: usize = PAGE_BYTES / ENTRY_BYTES;
const FENCE_BYTES: u64 = 8;

const _: () = assert!(TEXT_AT + PATH_BYTES_MAX + VM_BYTES_MAX + 8 <= HEADER_BYTES);

/// Something with bytes at offsets: a file, or a fuzzer's bytes.
pub(crate) trait ReadAt {
    /// Fills `out` from `offset`.
    fn fill(&self, out: &mut [u8], offset: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn fill(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for &[u8] {
    fn fill(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(offset).map_err(|_| short())?;
        let end = start.checked_add(out.len()).ok_or_else(short)?;
        out.copy_from_slice(self.get(start..end).ok_or_else(short)?);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// What an index was built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: SourceKind,
    pub(crate) prefix_bits: u32,
    pub(crate) identity: Identity,
    /// Blocks of the source with content, repeated ones included.
    pub(crate) blocks: u64,
    pub(crate) entries: u64,
    /// Bytes of content that has no place in the file: compressed clusters.
    pub(crate) left_out_bytes: u64,
    pub(crate) path: PathBuf,
    pub(crate) vm: Option<String>,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        let path = self.path.as_os_str().as_bytes();
        let vm = self.vm.as_deref().unwrap_or_default().as_bytes();
        out.extend_from_slice(&MAGIC);
        for number in [VERSION, self.kind as u32, self.prefix_bits] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&(path.len() as u16).to_le_bytes());
        out.extend_from_slice(&(vm.len() as u16).to_le_bytes());
        let Identity { len, mtime_ns, dev, ino } = self.identity;
        for number in [len, mtime_ns as u64, dev, ino] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for number in [self.blocks, self.entries, self.left_out_bytes] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.resize(TEXT_AT, 0);
        out.extend_from_slice(path);
        out.extend_from_slice(vm);
        out.resize(HEADER_BYTES - 8, 0);
        let check = xxh3_64(&out);
        out.extend_from_slice(&check.to_le_bytes());
        out
    }

    /// Reads a header; `None` for what is not one of ours, whole and of this version.
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<8>()?;
        let u16_at = |at: usize| Some(u16::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*body.get(at..)?.first_chunk()?));
        if !body.starts_with(&MAGIC) || u32_at(8)? != VERSION {
            return None;
        }
        if xxh3_64(body) != u64::from_le_bytes(*check) {
            return None;
        }
        let path_bytes = usize::from(u16_at(20)?);
        let vm_bytes = usize::from(u16_at(22)?);
        if path_bytes == 0 || path_bytes > PATH_BYTES_MAX || vm_bytes > VM_BYTES_MAX {
            return None;
        }
        let (path, after) = body.get(TEXT_AT..)?.split_at_checked(path_bytes)?;
        let vm = String::from_utf8(after.get(..vm_bytes)?.to_vec()).ok()?;
        Some(Self {
            kind: SourceKind::from_number(u32_at(12)?)?,
            prefix_bits: u32_at(16).filter(|bits| (1..=u64::BITS).contains(bits))?,
            identity: Identity {
                len: u64_at(24)?,
                mtime_ns: u64_at(32)? as i64,
                dev: u64_at(40)?,
                ino: u64_at(48)?,
            },
            blocks: u64_at(56)?,
            entries: u64_at(64).filter(|entries| *entries <= u64::from(u32::MAX))?,
            left_out_bytes: u64_at(72)?,
            path: PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())),
            vm: (!vm.is_empty()).then_some(vm),
        })
    }

    fn pages(&self) -> u64 {
        self.entries.div_ceil(PAGE_ENTRIES as u64)
    }

    /// Length of the whole index file. Cannot overflow: there are at most 2^32 entries.
    pub(crate) fn file_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.pages() * (PAGE_BYTES as u64 + FENCE_BYTES)
    }

    /// Reads the header of an index file, if that is what it is, with the length it must have.
    pub(crate) fn read(file: &impl ReadAt) -> Option<Self> {
        let mut bytes = [0; HEADER_BYTES];
        file.fill(&mut bytes, 0).ok()?;
        let header = Self::decode(&bytes)?;
        (file.length().ok()? == header.file_bytes()).then_some(header)
    }
}

/// Writes an index: entries in order, then the header.
pub(crate) struct IndexWriter<'a> {
    file: &'a File,
    path: &'a Path,
    page: Vec<u8>,
    /// Pages not yet written.
    full: Vec<u8>,
    at: u64,
    fences: Vec<u8>,
    entries: u64,
    bytes_max: u64,
}

/// Bytes of whole pages that are written at once.
const WRITE_BYTES: usize = 1 << 20;

impl<'a> IndexWriter<'a> {
    /// Writes to `file` (`path` is for messages), at most `bytes_max`.
    pub(crate) fn new(file: &'a File, path: &'a Path, bytes_max: u64) -> Self {
        Self {
            file,
            path,
            page: Vec::with_capacity(PAGE_BYTES),
            full: Vec::with_capacity(WRITE_BYTES),
            at: HEADER_BYTES as u64,
            fences: Vec::new(),
            entries: 0,
            bytes_max,
        }
    }

    /// Adds one entry, not before the last one.
    pub(crate) fn push(&mut self, prefix: u64, block: u32) -> Result<()> {
        if self.page.is_empty() {
            self.fences.extend_from_slice(&prefix.to_le_bytes());
        }
        self.page.extend_from_slice(&prefix.to_le_bytes());
        self.page.extend_from_slice(&block.to_le_bytes());
        self.entries += 1;
        if self.page.len() + ENTRY_BYTES > PAGE_BYTES {
            self.end_page()?;
        }
        Ok(())
    }

    fn end_page(&mut self) -> Result<()> {
        self.page.resize(PAGE_BYTES, 0);
        self.full.append(&mut self.page);
        if self.full.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let end = self.at + (self.full.len() + self.fences.len()) as u64;
        if end > self.bytes_max {
            return Err(StoreError::Limit {
                what: "bytes of indexes on disk (drop sources to make room)",
                wanted: end,
                allowed: self.bytes_max,
            });
        }
        self.file.write_all_at(&self.full, self.at).doing("writing", self.path)?;
        self.at += self.full.len() as u64;
        self.full.clear();
        Ok(())
    }

    /// Writes the rest, with the header last. The entry count is put into it here. Returns the
    /// length of the file.
    pub(crate) fn finish(mut self, header: &mut Header) -> Result<u64> {
        if !self.page.is_empty() {
            self.end_page()?;
        }
        self.flush()?;
        self.file.write_all_at(&self.fences, self.at).doing("writing", self.path)?;
        header.entries = self.entries;
        self.file.write_all_at(&header.encode(), 0).doing("writing", self.path)?;
        Ok(header.file_bytes())
    }
}

/// An index being asked: its fences in memory, its pages read one at a time.
pub(crate) struct Index<F> {
    file: F,
    entries: u64,
    fences: Vec<u64>,
}

impl<F: ReadAt> Index<F> {
    /// Reads the fences. `None` when the file cannot be read or they would take more than
    /// `fence_bytes_max`.
    pub(crate) fn open(file: F, header: &Header, fence_bytes_max: u64) -> Option<Self> {
        let bytes = header.pages() * FENCE_BYTES;
        if bytes > fence_bytes_max || file.length().ok()? < header.file_bytes() {
            return None;
        }
        let mut raw = vec![0; bytes as usize];
        file.fill(&mut raw, header.file_bytes() - bytes).ok()?;
        let fences =
            raw.chunks_exact(8).filter_map(|c| Some(u64::from_le_bytes(*c.first_chunk()?)));
        Some(Self { entries: header.entries, fences: fences.collect(), file })
    }

    /// Memory the fences take.
    pub(crate) fn fence_bytes(&self) -> u64 {
        self.fences.len() as u64 * FENCE_BYTES
    }

    fn page(&self, page: usize, out: &mut [u8; PAGE_BYTES]) -> usize {
        let at = HEADER_BYTES as u64 + page as u64 * PAGE_BYTES as u64;
        let left = self.entries.saturating_sub(page as u64 * PAGE_ENTRIES as u64);
        match self.file.fill(out, at) {
            Ok(()) => left.min(PAGE_ENTRIES as u64) as usize,
            Err(_) => 0,
        }
    }

    /// Calls `found` with the block of every entry of this prefix, up to a bound.
    pub(crate) fn lookup(&self, prefix: u64, mut found: impl FnMut(u32)) {
        let mut bytes = [0; PAGE_BYTES];
        let mut left = CANDIDATES_MAX;
        // The first page that begins with the prefix or after it; its run may begin one before.
        let after = self.fences.partition_point(|fence| *fence < prefix);
        for page in after.saturating_sub(1)..self.fences.len() {
            if self.fences[page] > prefix {
                return;
            }
            let count = self.page(page, &mut bytes);
            let first = lower_bound(&bytes, count, prefix);
            for at in first..count {
                let (other, block) = entry(&bytes, at);
                if other != prefix || left == 0 {
                    return;
                }
                left -= 1;
                found(block);
            }
        }
    }

    /// Calls `each` with every entry; `false` when the file could not be read to its end.
    pub(crate) fn all(file: &F, header: &Header, mut each: impl FnMut(u64, u32)) -> bool {
        let mut bytes = vec![0; WRITE_BYTES];
        let mut left = header.entries as usize;
        let mut at = HEADER_BYTES as u64;
        while left > 0 {
            let pages = left.div_ceil(PAGE_ENTRIES).min(WRITE_BYTES / PAGE_BYTES);
            let some = &mut bytes[..pages * PAGE_BYTES];
            if file.fill(some, at).is_err() {
                return false;
            }
            at += some.len() as u64;
            for page in some.as_chunks::<PAGE_BYTES>().0 {
                let count = left.min(PAGE_ENTRIES);
                (0..count).map(|i| entry(page, i)).for_each(|(prefix, block)| each(prefix, block));
                left -= count;
            }
        }
        true
    }
}

fn entry(page: &[u8; PAGE_BYTES], at: usize) -> (u64, u32) {
    match page.get(at * ENTRY_BYTES..).and_then(|rest| rest.first_chunk::<ENTRY_BYTES>()) {
        Some([a, b, c, d, e, f, g, h, i, j, k, l]) => (
            u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            u32::from_le_bytes([*i, *j, *k, *l]),
        ),
        None => (u64::MAX, u32::MAX),
    }
}

/// The first of `count` entries whose prefix is not below.
fn lower_bound(page: &[u8; PAGE_BYTES], count: usize, prefix: u64) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if entry(page, middle).0 < prefix { low = middle + 1 } else { high = middle }
    }
    low
}

/// Reads any bytes as an index and asks it for a prefix: how many candidates it names. For fuzzing.
#[must_use]
pub fn probe(bytes: &[u8], prefix: u64) -> usize {
    let mut count = 0;
    if let Some(header) = Header::read(&bytes) {
        if let Some(index) = Index::open(bytes, &header, READER_FENCE_BYTES_MAX) {
            index.lookup(prefix, |_| count += 1);
        }
        Index::all(&bytes, &header, |_, _| ());
    }
    count
}
