//! One memory map: created, aligned, faulted in, unmapped on drop.
//!
//! The only module that calls mmap. It hands out a raw pointer and a length, never a reference:
//! who may touch which bytes when is decided by `arena` and `guest_ram`.

use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::{HUGE_PAGE_BYTES, HostMemError};

/// An owned map. The bytes `[ptr, ptr + len)` stay mapped until drop.
#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    base_len: usize,
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a map is plain memory of the process, tied to no thread; it is unmapped once, on drop.
unsafe impl Send for Map {}
// SAFETY: through a shared reference only the pointer value and length can be read.
unsafe impl Sync for Map {}

fn failed(what: &'static str, bytes: usize) -> impl FnOnce(rustix::io::Errno) -> HostMemError {
    move |source| HostMemError::Map { what, bytes, source }
}

impl Map {
    /// Private anonymous memory of reserved 2 MiB pages; fails when too few are free.
    pub(crate) fn hugetlb(len: usize) -> Result<Self, HostMemError> {
        let len = len.next_multiple_of(HUGE_PAGE_BYTES);
        let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
        let map = Self::anonymous(len, flags, "a map of huge pages")?;
        map.populate()?;
        Ok(map)
    }

    /// Private anonymous memory aligned to 2 MiB, advised for transparent huge pages if `advise`.
    pub(crate) fn transparent(len: usize, advise: bool) -> Result<Self, HostMemError> {
        let padded = len
            .checked_add(HUGE_PAGE_BYTES)
            .ok_or(HostMemError::Size { slots: 1, slot_bytes: len })?;
        let mut map = Self::anonymous(padded, MapFlags::PRIVATE, "an arena map")?;
        let skip = map.base.as_ptr().align_offset(HUGE_PAGE_BYTES);
        // SAFETY: the map has HUGE_PAGE_BYTES spare, so `skip` (< HUGE_PAGE_BYTES) stays inside.
        map.ptr = unsafe { map.base.add(skip) };
        map.len = len;
        if advise {
            // Refused where the kernel has no THP: the arena then lives on small pages.
            let _ = map.advise(Advice::LinuxHugepage);
        }
        map.populate()?;
        Ok(map)
    }

    /// A shared map of the first `len` bytes of a file.
    pub(crate) fn shared(file: BorrowedFd<'_>, len: usize) -> Result<Self, HostMemError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an unused address, so no existing object is overlaid.
        let ptr = unsafe { mmap(null_mut(), len, prot, MapFlags::SHARED, file, 0) }
            .map_err(failed("a map of the guest's RAM file", len))?;
        Ok(Self::whole(ptr.cast(), len))
    }

    pub(crate) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn anonymous(len: usize, flags: MapFlags, what: &'static str) -> Result<Self, HostMemError> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an unused address, so no existing object is overlaid.
        let ptr =
            unsafe { mmap_anonymous(null_mut(), len, prot, flags) }.map_err(failed(what, len))?;
        let map = Self::whole(ptr.cast(), len);
        // A forked child must not turn writes to registered buffers into copies.
        let _ = map.advise(Advice::LinuxDontFork);
        Ok(map)
    }

    fn whole(ptr: *mut u8, len: usize) -> Self {
        let base = NonNull::new(ptr).expect("mmap never returns page zero without MAP_FIXED");
        Self { base, base_len: len, ptr: base, len }
    }

    /// Faults every page in now, so that later use cannot fail or stall.
    fn populate(&self) -> Result<(), HostMemError> {
        self.advise(Advice::LinuxPopulateWrite).map_err(failed("faulting in a map", self.len))
    }

    pub(crate) fn advise(&self, advice: Advice) -> Result<(), rustix::io::Errno> {
        // SAFETY: the range is ours, and the advices used here (huge pages, don't fork, populate)
        // leave its content as it is.
        unsafe { madvise(self.ptr.as_ptr().cast(), self.len, advice) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: base/base_len are what mmap gave; the owner of this value handed out no
        // reference that outlives it, and it is dropped once.
        let done = unsafe { munmap(self.base.as_ptr().cast(), self.base_len) };
        debug_assert!(done.is_ok(), "unmapping our own map failed: {done:?}");
    }
}
