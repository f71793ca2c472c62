//! The target guest's RAM as we see it: files mapped beside QEMU, and the room they may take.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dwcp_encode::{ASK_BYTES, Held, PageStore};
use dwcp_hostmem::{GuestRam, free_memory_bytes, free_tmpfs_bytes};
use dwcp_store::{Reader, SourceKind};
use dwcp_wire::{BlockId, PAGE_BYTES, PageIndex};

use crate::error::{Class, Doing, EngineError, Result};
use crate::qemu::RamBacking;

/// Memory that must stay free on this host whatever arrives.
const HOST_RESERVE_BYTES: u64 = 256 << 20;

/// Mapped RAM blocks by their number on the wire.
#[derive(Default)]
pub struct GuestMemory {
    blocks: Vec<Option<GuestRam>>,
    content: Option<Reader>,
}

impl GuestMemory {
    /// Maps a backing's file and makes it empty: what is never sent must read zero.
    ///
    /// # Errors
    /// The file cannot be opened, mapped or emptied.
    pub fn map(&mut self, id: BlockId, backing: &RamBacking) -> Result<()> {
        let path = &backing.path;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .doing(|| format!("opening the guest's RAM file {}", path.display()))?;
        let failed = |e: dwcp_hostmem::HostMemError| {
            EngineError::new(Class::Resource, format!("RAM file {}: {e}", path.display()))
        };
        let ram = GuestRam::map(file.into(), backing.bytes).map_err(failed)?;
        ram.punch_all().map_err(failed)?;
        let index = usize::from(id.0);
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
        }
        self.blocks[index] = Some(ram);
        Ok(())
    }

    /// Lets pages that are asked for be looked up in a store.
    pub fn look_into(&mut self, content: Reader) {
        self.content = Some(content);
    }

    /// Bytes of guest RAM that lie on huge pages.
    #[must_use]
    pub fn huge_bytes(&self) -> u64 {
        self.blocks.iter().flatten().map(|ram| ram.huge_bytes() as u64).sum()
    }

    fn ram(&self, block: BlockId) -> &GuestRam {
        // The applier asks for pages of blocks it was given only, and checks their indices.
        self.blocks[usize::from(block.0)].as_ref().expect("a block that was added is mapped")
    }
}

/// A page index that the applier has checked lies within the map.
const CHECKED: &str = "the applier checks page indices against the block's size";

impl PageStore for GuestMemory {
    fn read(&self, block: BlockId, index: PageIndex, out: &mut [u8; PAGE_BYTES]) {
        self.ram(block).read_page(index.0, out).expect(CHECKED);
    }

    fn write(&mut self, block: BlockId, index: PageIndex, content: &[u8; PAGE_BYTES]) {
        self.ram(block).write_page(index.0, content).expect(CHECKED);
    }

    fn zero(&mut self, block: BlockId, index: PageIndex) {
        self.ram(block).zero_page(index.0).expect(CHECKED);
    }

    fn known(&mut self, hash: &[u8; ASK_BYTES], out: &mut [u8; PAGE_BYTES]) -> Held {
        match self.content.as_mut().and_then(|content| content.fetch(hash, out)) {
            None => Held::Nothing,
            Some(SourceKind::Image) => Held::Image,
            Some(SourceKind::Checkpoint) => Held::Checkpoint,
            Some(SourceKind::Sibling) => Held::Sibling,
        }
    }

    fn prefetch(&mut self, hashes: &[u8]) {
        if let Some(content) = &mut self.content {
            content.prefetch(hashes.as_chunks().0);
        }
    }
}

/// Refuses a guest that this host has no room for.
///
/// # Errors
/// [`Class::Limit`] with both figures.
pub fn admit(bytes: u64, ram_dir: Option<&Path>) -> Result<()> {
    let free = free_memory_bytes().map_err(unknown)?.saturating_sub(HOST_RESERVE_BYTES);
    let room = match ram_dir {
        Some(dir) => free.min(free_tmpfs_bytes(dir).map_err(unknown)?),
        None => free,
    };
    if bytes > room {
        let text = format!(
            "the guest holds {} MiB and this host has room for {} MiB (256 MiB stay free)",
            bytes >> 20,
            room >> 20
        );
        return Err(EngineError::new(Class::Limit, text));
    }
    Ok(())
}

fn unknown(error: dwcp_hostmem::HostMemError) -> EngineError {
    EngineError::new(Class::Resource, format!("looking for free memory: {error}"))
}

/// The folder for RAM files: the one given, else our own tmpfs with huge pages as root, else a
/// folder of ours on /dev/shm.
///
/// # Errors
/// It cannot be made.
pub fn ram_dir(given: Option<&Path>) -> Result<PathBuf> {
    let make = |dir: &Path| -> Result<()> {
        fs::create_dir_all(dir).doing(|| format!("creating {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .doing(|| format!("closing {} to others", dir.display()))
    };
    if let Some(dir) = given {
        make(dir)?;
        return Ok(dir.to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        let dir = PathBuf::from(format!("/dev/shm/dwcp-{}", rustix::process::geteuid().as_raw()));
        make(&dir)?;
        return Ok(dir);
    }
    let dir = PathBuf::from("/run/dwcp/ram");
    make(&dir)?;
    if !is_mount_point(&dir) {
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        let huge = c"huge=within_size,mode=0700,size=95%";
        let plain = c"mode=0700,size=95%";
        // A kernel without huge pages in tmpfs refuses the option; small pages do as well.
        rustix::mount::mount("dwcp-ram", &dir, "tmpfs", flags, huge)
            .or_else(|_| rustix::mount::mount("dwcp-ram", &dir, "tmpfs", flags, plain))
            .map_err(std::io::Error::from)
            .doing(|| format!("mounting tmpfs on {} (or give --ram-dir)", dir.display()))?;
    }
    Ok(dir)
}

fn is_mount_point(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    dir.parent().is_some_and(|parent| device(parent) != device(dir))
}
