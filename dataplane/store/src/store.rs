//! The store of one tenant: sources come, are listed, and go.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::BLOCK;
use crate::builder::{Build, BuildProgress, Callback};
use crate::catalog::{
    Found, INDEX_SUFFIX, Identity, MEMORY_SUFFIX, SourceInfo, SourceKind, id_of, open_source, scan,
};
use crate::checkpoint::CheckpointWriter;
use crate::error::{Result, StoreError};
use crate::extents::Extents;
use crate::folder::{self, Lock, TempFile};
use crate::index::{Header, IndexWriter};
use crate::limits::{Limits, PATH_BYTES_MAX, SOURCE_BYTES_MAX, TENANT_BYTES_MAX, VM_BYTES_MAX};
use crate::qcow2;
use crate::reader::Reader;

/// The tenant of a host that has only one.
pub const DEFAULT_TENANT: &str = "default";

/// One tenant's folder of a store. Cheap to clone; any number of them, in any number of processes,
/// may use the folder at once.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) limits: Arc<Limits>,
}

/// What `add` or `keep` did.
#[derive(Debug, Clone)]
pub struct Added {
    /// The source's id.
    pub id: String,
    /// Its resolved path.
    pub path: PathBuf,
    /// Its kind.
    pub kind: SourceKind,
    /// Blocks with content.
    pub blocks: u64,
    /// Different ones among them: what can be found.
    pub blocks_found: u64,
    /// Disk bytes of the index.
    pub indexed_bytes: u64,
    /// Bytes of content that has no place in the file (compressed clusters of a qcow2 image).
    pub left_out_bytes: u64,
    /// Images this one builds on, whose content is found when they are added as well.
    pub further: Vec<PathBuf>,
    /// The file was as it had been, so nothing was done.
    pub unchanged: bool,
}

/// What `drop_source` removed.
#[derive(Debug, Clone)]
pub struct Dropped {
    /// The source's id.
    pub id: String,
    /// Its path, empty for a broken index. The file is still there, but for a checkpoint's.
    pub path: PathBuf,
    /// Disk bytes that were freed.
    pub freed_bytes: u64,
}

/// Sums over a store, with its bounds.
#[derive(Debug, Clone, Default)]
pub struct StoreStats {
    /// Sources, broken ones included.
    pub sources: u64,
    /// Images among them.
    pub images: u64,
    /// Checkpoints among them.
    pub checkpoints: u64,
    /// Siblings among them.
    pub siblings: u64,
    /// Sources whose index is damaged or of another version.
    pub broken: u64,
    /// Different blocks per source, summed.
    pub blocks: u64,
    /// Disk bytes of the indexes of images and siblings.
    pub index_bytes: u64,
    /// Most of them.
    pub index_bytes_max: u64,
    /// Disk bytes of checkpoints with their indexes.
    pub checkpoint_bytes: u64,
    /// Most of them.
    pub checkpoint_bytes_max: u64,
    /// Most sources.
    pub sources_max: u64,
}

/// What is about to be published.
pub(crate) struct Ready {
    pub(crate) index: TempFile,
    pub(crate) header: Header,
    pub(crate) index_bytes: u64,
}

impl Store {
    /// Opens the store of `tenant` below `dir`, with bounds as [`Limits::default`] has them.
    /// Creates the folders (0700), and removes what dead writers left and what is too old.
    ///
    /// # Errors
    /// [`StoreError::Tenant`] for a name that is not allowed; the folders' failure.
    pub fn open(dir: &Path, tenant: &str) -> Result<Self> {
        Self::open_with(dir, tenant, Limits::default())
    }

    /// As [`Store::open`], with other bounds.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_with(dir: &Path, tenant: &str, limits: Limits) -> Result<Self> {
        let allowed = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let bytes = tenant.as_bytes();
        if bytes.is_empty() || bytes.len() > TENANT_BYTES_MAX || !bytes.iter().all(allowed) {
            return Err(StoreError::Tenant(tenant.to_owned()));
        }
        let store = Self { dir: folder::create(dir, tenant)?, limits: Arc::new(limits) };
        folder::remove_dead(&store.dir)?;
        store.remove_orphans()?;
        Ok(store)
    }

    /// Memory files without an index, and checkpoints that are too old.
    fn remove_orphans(&self) -> Result<()> {
        let _lock = Lock::take(&self.dir)?;
        let all = scan(&self.dir)?;
        for name in folder::names(&self.dir, MEMORY_SUFFIX)? {
            if !all.iter().any(|found| name.strip_suffix(MEMORY_SUFFIX) == Some(&found.id)) {
                folder::remove(&self.dir.join(name))?;
            }
        }
        let now = SystemTime::now();
        for found in all.iter().filter(|found| found.kind() == Some(SourceKind::Checkpoint)) {
            let unused = now.duration_since(found.used).unwrap_or_default();
            if unused > self.limits.checkpoint_age_max {
                found.remove()?;
            }
        }
        Ok(())
    }

    /// Indexes a file: an image (raw, or qcow2 by its first bytes, for which `qemu-img` is needed),
    /// or a guest's RAM file. Adding it again replaces its index at once when the new one is ready;
    /// a file of the same length, time and inode is left alone, but for siblings, whose writes
    /// through a mapping need not show there. The callback is told how far it is and stops it by
    /// `false`. Runs on the caller's thread at the caller's priority, with the workers of
    /// [`Limits`].
    ///
    /// # Errors
    /// The file is missing, no file, longer than 16 TiB, or a qcow2 image that has no plain content;
    /// `qemu-img` is missing or fails; a bound is reached; the disk is full;
    /// [`StoreError::Stopped`]. An earlier index of the file is then still there.
    pub fn add(
        &self,
        path: &Path,
        kind: SourceKind,
        vm: Option<&str>,
        progress: &mut dyn FnMut(BuildProgress) -> bool,
    ) -> Result<Added> {
        check_vm(vm)?;
        let path = path.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
            _ => StoreError::io(format!("resolving {}", path.display()), e),
        })?;
        let (file, identity) = open_source(&path)?;
        let id = id_of(&path);
        let all = scan(&self.dir)?;
        let before = all.iter().find(|found| found.id == id);
        if let Some(done) = self.unchanged(before, &file, identity, kind, vm) {
            return Ok(done);
        }
        self.check_sources(&all, &id)?;
        let qcow2 = match kind {
            SourceKind::Image if qcow2::is_qcow2(&file) => Some(qcow2::ask(&path)?),
            _ => None,
        };
        let left_out_bytes = qcow2.as_ref().map_or(0, |image| image.left_out_bytes);
        let further = qcow2.as_ref().and_then(|image| image.backing.clone());
        let extents = match qcow2 {
            Some(image) => Extents::Listed(image.extents.into_iter()),
            None => Extents::Raw { len: identity.len / BLOCK * BLOCK },
        };
        let header = Header {
            kind,
            prefix_bits: self.limits.prefix_bits,
            identity,
            blocks: 0,
            entries: 0,
            left_out_bytes,
            path,
            vm: vm.map(str::to_owned),
        };
        let ready = self.build(&file, extents, header, progress)?;
        let added = added(&id, &ready.header, ready.index_bytes, further);
        self.publish(ready, &id)?;
        Ok(added)
    }

    fn unchanged(
        &self,
        before: Option<&Found>,
        file: &std::fs::File,
        identity: Identity,
        kind: SourceKind,
        vm: Option<&str>,
    ) -> Option<Added> {
        let before = before?;
        let header = before.header.as_ref()?;
        let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let same = (header.identity, header.kind, header.vm.as_deref(), header.prefix_bits)
            == (identity, kind, vm, self.limits.prefix_bits);
        let settled = kind != SourceKind::Sibling && regular;
        (same && settled).then(|| Added {
            unchanged: true,
            ..added(&before.id, header, before.index_bytes, None)
        })
    }

    fn check_sources(&self, all: &[Found], id: &str) -> Result<()> {
        let wanted = all.iter().filter(|found| found.id != id).count() + 1;
        if wanted > self.limits.sources_max {
            return Err(StoreError::Limit {
                what: "sources of a store (drop some)",
                wanted: wanted as u64,
                allowed: self.limits.sources_max as u64,
            });
        }
        Ok(())
    }

    /// Builds an index under a temporary name, synced.
    pub(crate) fn build(
        &self,
        file: &std::fs::File,
        extents: Extents,
        mut header: Header,
        progress: Callback<'_>,
    ) -> Result<Ready> {
        let long = header.path.as_os_str().len();
        if header.identity.len > SOURCE_BYTES_MAX || long > PATH_BYTES_MAX {
            return Err(StoreError::Limit {
                what: "bytes of a source (or of its path)",
                wanted: header.identity.len.max(long as u64),
                allowed: if long > PATH_BYTES_MAX {
                    PATH_BYTES_MAX as u64
                } else {
                    SOURCE_BYTES_MAX
                },
            });
        }
        let index = TempFile::create(&self.dir)?;
        let bytes_max = match header.kind {
            SourceKind::Checkpoint => self.limits.checkpoint_bytes_max,
            SourceKind::Image | SourceKind::Sibling => self.limits.index_bytes_max,
        };
        let mut writer = IndexWriter::new(&index.file, index.path(), bytes_max);
        let build = Build {
            file,
            path: &header.path,
            bytes_total: header.identity.len,
            dir: &self.dir,
            limits: &self.limits,
        };
        header.blocks = build.run(extents, &mut writer, progress)?;
        let index_bytes = writer.finish(&mut header)?;
        index.sync()?;
        Ok(Ready { index, header, index_bytes })
    }

    /// Gives a built index its name, if the bounds still allow it.
    fn publish(&self, ready: Ready, id: &str) -> Result<()> {
        let _lock = Lock::take(&self.dir)?;
        let all = scan(&self.dir)?;
        self.check_sources(&all, id)?;
        let others = all
            .iter()
            .filter(|found| found.id != id && found.kind() != Some(SourceKind::Checkpoint));
        let wanted = others.map(|found| found.index_bytes).sum::<u64>() + ready.index_bytes;
        if wanted > self.limits.index_bytes_max {
            return Err(StoreError::Limit {
                what: "bytes of indexes on disk (drop sources to make room)",
                wanted,
                allowed: self.limits.index_bytes_max,
            });
        }
        ready.index.publish(&self.index_path(id))?;
        folder::sync(&self.dir)
    }

    pub(crate) fn index_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}{INDEX_SUFFIX}"))
    }

    /// All sources, ordered by kind and path, with what has become of them.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<SourceInfo>> {
        let mut all: Vec<SourceInfo> = scan(&self.dir)?.iter().map(Found::info).collect();
        all.sort_by(|a, b| (a.kind, &a.path, &a.id).cmp(&(b.kind, &b.path, &b.id)));
        Ok(all)
    }

    /// Removes a source by its id or path. The file stays where it is, but a checkpoint's memory
    /// goes with it.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; the folder's failure.
    pub fn drop_source(&self, id_or_path: &str) -> Result<Dropped> {
        let _lock = Lock::take(&self.dir)?;
        let given = Path::new(id_or_path);
        let resolved = given.canonicalize().ok();
        let is_it = |found: &Found| {
            let path = found.header.as_ref().map(|header| header.path.as_path());
            found.id == id_or_path
                || path.is_some_and(|p| p == given || Some(p) == resolved.as_deref())
        };
        let all = scan(&self.dir)?;
        let found = all
            .iter()
            .find(|found| is_it(found))
            .ok_or_else(|| StoreError::NotFound(id_or_path.to_owned()))?;
        let dropped = Dropped {
            id: found.id.clone(),
            path: found.header.as_ref().map_or_else(PathBuf::new, |header| header.path.clone()),
            freed_bytes: found.index_bytes + found.memory_bytes(),
        };
        found.remove()?;
        folder::sync(&self.dir)?;
        Ok(dropped)
    }

    /// Sums over all sources.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn stats(&self) -> Result<StoreStats> {
        let mut stats = StoreStats {
            index_bytes_max: self.limits.index_bytes_max,
            checkpoint_bytes_max: self.limits.checkpoint_bytes_max,
            sources_max: self.limits.sources_max as u64,
            ..StoreStats::default()
        };
        for found in scan(&self.dir)? {
            stats.sources += 1;
            stats.blocks += found.header.as_ref().map_or(0, |header| header.entries);
            match found.kind() {
                Some(SourceKind::Image) => stats.images += 1,
                Some(SourceKind::Checkpoint) => stats.checkpoints += 1,
                Some(SourceKind::Sibling) => stats.siblings += 1,
                None => stats.broken += 1,
            }
            match found.kind() {
                Some(SourceKind::Checkpoint) => {
                    stats.checkpoint_bytes += found.index_bytes + found.memory_bytes();
                }
                _ => stats.index_bytes += found.index_bytes,
            }
        }
        Ok(stats)
    }

    /// A snapshot of what is there now, to be asked.
    ///
    /// # Errors
    /// The folder cannot be read. An index that cannot be is passed over.
    pub fn reader(&self) -> Result<Reader> {
        Ok(Reader::new(&self.limits, scan(&self.dir)?))
    }

    /// Starts keeping the memory of a guest that leaves. `blocks` is the length of each of its RAM
    /// blocks in pages, `bytes_max` how much memory with content may be written.
    ///
    /// # Errors
    /// [`StoreError::Vm`]; more than 16 TiB; the disk's failure.
    pub fn checkpoint(&self, vm: &str, blocks: &[u64], bytes_max: u64) -> Result<CheckpointWriter> {
        check_vm(Some(vm))?;
        CheckpointWriter::create(self.clone(), vm, blocks, bytes_max)
    }
}

pub(crate) fn added(
    id: &str,
    header: &Header,
    indexed_bytes: u64,
    further: Option<PathBuf>,
) -> Added {
    Added {
        id: id.to_owned(),
        path: header.path.clone(),
        kind: header.kind,
        blocks: header.blocks,
        blocks_found: header.entries,
        indexed_bytes,
        left_out_bytes: header.left_out_bytes,
        further: further.into_iter().collect(),
        unchanged: false,
    }
}

fn check_vm(vm: Option<&str>) -> Result<()> {
    match vm {
        Some(name)
            if name.is_empty()
                || name.len() > VM_BYTES_MAX
                || name.chars().any(char::is_control) =>
        {
            Err(StoreError::Vm(name.to_owned()))
        }
        _ => Ok(()),
    }
}
