//! The target guest's RAM file, mapped and written page by page.
//!
//! Any thread; several may write different pages at once. Never hands out a reference to the
//! memory: a guest may write it at any time. It keeps one bit per page, "written since the file
//! was empty", so that zero pages of an empty file stay holes and cost no memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fstat, seek};
use rustix::io::Errno;
use rustix::mm::Advice;

use crate::map::Map;
use crate::{HostMemError, PAGE_BYTES, racy, smaps};

static ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

const BITS: u64 = 64;

/// A shared, writable map of a RAM file.
///
/// The file must not shrink while it is mapped, and the file system must have room for what is
/// written (see [`crate::free_tmpfs_bytes`]): the kernel answers both with SIGBUS, not an error.
/// Until the guest runs, nobody but this map may write the file after it was emptied.
#[derive(Debug)]
pub struct GuestRam {
    map: Map,
    file: OwnedFd,
    pages: u64,
    /// Bit p: page p may hold data. Clear: the page is a hole.
    written: Box<[AtomicU64]>,
}

impl GuestRam {
    /// Maps the first `len_bytes` of `file`, which must be whole pages.
    ///
    /// # Errors
    /// [`HostMemError::NotPages`], [`HostMemError::FileTooShort`], or what the kernel refused.
    pub fn map(file: OwnedFd, len_bytes: u64) -> Result<Self, HostMemError> {
        if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(HostMemError::NotPages { bytes: len_bytes });
        }
        let stat = fstat(&file).map_err(os("fstat of the RAM file"))?;
        let file_bytes = u64::try_from(stat.st_size).unwrap_or(0);
        if file_bytes < len_bytes {
            return Err(HostMemError::FileTooShort { file_bytes, map_bytes: len_bytes });
        }
        let map = Map::shared(file.as_fd(), len_bytes as usize)?;
        // Refused where the file system has no huge pages: small ones do as well.
        let _ = map.advise(Advice::LinuxHugepage);
        let pages = len_bytes / PAGE_BYTES as u64;
        let words = pages.div_ceil(BITS) as usize;
        let ram = Self { map, file, pages, written: (0..words).map(|_| 0.into()).collect() };
        if !ram.file_is_empty()? {
            ram.mark_all(u64::MAX);
        }
        Ok(ram)
    }

    /// Pages in the map.
    pub fn len_pages(&self) -> u64 {
        self.pages
    }

    /// Copies page `page` out.
    ///
    /// # Errors
    /// [`HostMemError::OutOfBounds`].
    pub fn read_page(&self, page: u64, out: &mut [u8; PAGE_BYTES]) -> Result<(), HostMemError> {
        let from = self.address(page)?;
        if !self.is_written(page) {
            // A load would make the kernel fill the hole with a page of memory.
            out.fill(0);
            return Ok(());
        }
        // SAFETY: `from` is a whole page of the live map, and only racy copies touch the map.
        unsafe { racy::load_page(from, out) };
        Ok(())
    }

    /// Writes page `page`.
    ///
    /// # Errors
    /// [`HostMemError::OutOfBounds`].
    pub fn write_page(&self, page: u64, from: &[u8; PAGE_BYTES]) -> Result<(), HostMemError> {
        let to = self.address(page)?;
        self.mark(page);
        // SAFETY: `to` is a whole page of the live map, and only racy copies touch the map.
        unsafe { racy::store_page(from, to) };
        Ok(())
    }

    /// Makes page `page` zero; a hole stays a hole.
    ///
    /// # Errors
    /// [`HostMemError::OutOfBounds`].
    pub fn zero_page(&self, page: u64) -> Result<(), HostMemError> {
        let to = self.address(page)?;
        if self.is_written(page) {
            // SAFETY: as in `write_page`.
            unsafe { racy::store_page(&ZERO_PAGE, to) };
        }
        Ok(())
    }

    /// Copies page `from` over page `to`.
    ///
    /// # Errors
    /// [`HostMemError::OutOfBounds`].
    pub fn copy_page(&self, from: u64, to: u64) -> Result<(), HostMemError> {
        let source = self.address(from)?;
        let sink = self.address(to)?;
        if !self.is_written(from) {
            return self.zero_page(to);
        }
        self.mark(to);
        // SAFETY: both are whole pages of the live map, equal or disjoint, racily accessed.
        unsafe { racy::copy_page(source, sink) };
        Ok(())
    }

    /// Frees the whole file: every page reads as zero and uses no memory.
    ///
    /// # Errors
    /// [`HostMemError::Os`] when the file system cannot punch holes.
    pub fn punch_all(&self) -> Result<(), HostMemError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, 0, self.map.len() as u64)
            .map_err(os("punching the RAM file empty"))?;
        self.mark_all(0);
        Ok(())
    }

    /// True when the mapped part of the file holds no data at all (all holes).
    ///
    /// # Errors
    /// [`HostMemError::Os`] when the file cannot seek.
    pub fn file_is_empty(&self) -> Result<bool, HostMemError> {
        match seek(&self.file, SeekFrom::Data(0)) {
            Ok(data) => Ok(data >= self.map.len() as u64),
            Err(Errno::NXIO) => Ok(true),
            Err(source) => Err(os("looking for data in the RAM file")(source)),
        }
    }

    /// Bytes of the map on huge pages just now. Reads /proc: for reports, not for loops.
    pub fn huge_bytes(&self) -> usize {
        smaps::huge_bytes(self.map.ptr().addr().get(), self.map.len()).unwrap_or(0)
    }

    fn address(&self, page: u64) -> Result<*mut u8, HostMemError> {
        if page >= self.pages {
            return Err(HostMemError::OutOfBounds { page, pages: self.pages });
        }
        // SAFETY: page < pages, so the page starts (and ends) inside the map.
        let start = unsafe { self.map.ptr().add(page as usize * PAGE_BYTES) };
        Ok(start.as_ptr())
    }

    fn is_written(&self, page: u64) -> bool {
        let word = self.written[(page / BITS) as usize].load(Ordering::Relaxed);
        word & (1 << (page % BITS)) != 0
    }

    /// Before the copy, so that a reader that sees the data also sees the bit.
    fn mark(&self, page: u64) {
        if !self.is_written(page) {
            self.written[(page / BITS) as usize].fetch_or(1 << (page % BITS), Ordering::Relaxed);
        }
    }

    fn mark_all(&self, word: u64) {
        for cell in &self.written {
            cell.store(word, Ordering::Relaxed);
        }
    }
}

fn os(what: &'static str) -> impl FnOnce(Errno) -> HostMemError {
    move |source| HostMemError::Os { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    const PAGES: u64 = 130;

    fn ram() -> GuestRam {
        let file = memfd_create("guest-ram-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, PAGES * PAGE_BYTES as u64).unwrap();
        GuestRam::map(file, PAGES * PAGE_BYTES as u64).unwrap()
    }

    fn blocks(ram: &GuestRam) -> u64 {
        fstat(&ram.file).unwrap().st_blocks as u64
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, u8),
        Zero(u64),
        Copy(u64, u64),
        Punch,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..PAGES, any::<u8>()).prop_map(|(page, byte)| Step::Write(page, byte)),
            4 => (0..PAGES).prop_map(Step::Zero),
            8 => (0..PAGES, 0..PAGES).prop_map(|(from, to)| Step::Copy(from, to)),
            1 => Just(Step::Punch),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn behaves_like_a_vector_of_pages(steps in prop::collection::vec(step(), 1..80)) {
            let ram = ram();
            let mut model = vec![[0u8; PAGE_BYTES]; PAGES as usize];
            for step in steps {
                match step {
                    Step::Write(page, byte) => {
                        let mut content = [byte; PAGE_BYTES];
                        content[17] = !byte;
                        model[page as usize] = content;
                        ram.write_page(page, &content).unwrap();
                    }
                    Step::Zero(page) => {
                        model[page as usize] = [0; PAGE_BYTES];
                        ram.zero_page(page).unwrap();
                    }
                    Step::Copy(from, to) => {
                        model[to as usize] = model[from as usize];
                        ram.copy_page(from, to).unwrap();
                    }
                    Step::Punch => {
                        model.fill([0; PAGE_BYTES]);
                        ram.punch_all().unwrap();
                        prop_assert!(ram.file_is_empty().unwrap());
                    }
                }
            }
            let mut file = vec![0u8; PAGES as usize * PAGE_BYTES];
            rustix::io::pread(&ram.file, &mut file, 0).unwrap();
            let mut out = [1u8; PAGE_BYTES];
            for (page, content) in model.iter().enumerate() {
                ram.read_page(page as u64, &mut out).unwrap();
                prop_assert!(out == *content);
                prop_assert!(file[page * PAGE_BYTES..][..PAGE_BYTES] == *content);
            }
        }
    }

    #[test]
    fn holes_stay_holes() {
        let ram = ram();
        let mut out = [1u8; PAGE_BYTES];
        for page in 0..PAGES {
            ram.zero_page(page).unwrap();
            ram.read_page(page, &mut out).unwrap();
            ram.copy_page(page, (page + 1) % PAGES).unwrap();
        }
        assert_eq!(out, [0; PAGE_BYTES]);
        assert_eq!(blocks(&ram), 0);
        ram.write_page(3, &[7; PAGE_BYTES]).unwrap();
        assert!(blocks(&ram) > 0);
        ram.punch_all().unwrap();
        assert_eq!(blocks(&ram), 0);
    }

    #[test]
    fn data_that_was_there_is_seen_and_zeroed() {
        let file = memfd_create("guest-ram-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4 * PAGE_BYTES as u64).unwrap();
        rustix::io::pwrite(&file, &[9; PAGE_BYTES], 2 * PAGE_BYTES as u64).unwrap();
        let ram = GuestRam::map(file, 4 * PAGE_BYTES as u64).unwrap();
        assert!(!ram.file_is_empty().unwrap());
        let mut out = [0u8; PAGE_BYTES];
        ram.read_page(2, &mut out).unwrap();
        assert_eq!(out, [9; PAGE_BYTES]);
        ram.zero_page(2).unwrap();
        ram.read_page(2, &mut out).unwrap();
        assert_eq!(out, [0; PAGE_BYTES]);
    }

    #[test]
    fn pages_outside_and_odd_sizes_are_refused() {
        let ram = ram();
        let mut out = [0; PAGE_BYTES];
        for page in [PAGES, u64::MAX, u64::MAX / PAGE_BYTES as u64 + 1] {
            assert!(ram.read_page(page, &mut out).is_err());
            assert!(ram.write_page(page, &out).is_err());
            assert!(ram.zero_page(page).is_err());
            assert!(ram.copy_page(0, page).is_err());
            assert!(ram.copy_page(page, 0).is_err());
        }
        let file = memfd_create("guest-ram-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let again = || file.try_clone().unwrap();
        assert!(matches!(GuestRam::map(again(), 8192), Err(HostMemError::FileTooShort { .. })));
        assert!(matches!(GuestRam::map(again(), 100), Err(HostMemError::NotPages { .. })));
        assert!(matches!(GuestRam::map(again(), 0), Err(HostMemError::NotPages { .. })));
    }

    #[test]
    fn writers_of_different_pages_do_not_disturb_each_other() {
        let ram = ram();
        std::thread::scope(|scope| {
            for writer in 0..4u64 {
                let ram = &ram;
                scope.spawn(move || {
                    for page in (writer..PAGES).step_by(4) {
                        ram.write_page(page, &[page as u8; PAGE_BYTES]).unwrap();
                    }
                });
            }
        });
        let mut out = [0; PAGE_BYTES];
        for page in 0..PAGES {
            ram.read_page(page, &mut out).unwrap();
            assert_eq!(out, [page as u8; PAGE_BYTES]);
        }
    }
}
