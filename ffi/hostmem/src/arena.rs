//! A fixed number of equal, page-aligned buffers in one prefaulted map.
//!
//! Any thread takes and returns slots. Nothing allocates after `new`; a lock is touched only
//! while somebody waits for a slot. A slot is owned by exactly one value at a time, which is what
//! lets `dwcp-uring` hand it to the kernel.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::free_list::FreeList;
use crate::map::Map;
use crate::{HostMemError, PAGE_BYTES, smaps};

/// Most slots an arena can have: io_uring accepts this many registered buffers at most.
const SLOTS_MAX: usize = 16_384;

/// What pages to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved 2 MiB pages if enough are free, else transparent ones, else small ones.
    Auto,
    /// Small pages only.
    Never,
}

/// What the arena was built from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages.
    Hugetlb,
    /// Anonymous memory with at least one transparent huge page.
    Transparent,
    /// Small pages only.
    Small,
}

/// What the arena got, for the log line at arming.
#[derive(Clone, Copy, Debug)]
pub struct ArenaReport {
    /// Number of slots.
    pub slots: usize,
    /// Usable bytes per slot.
    pub slot_bytes: usize,
    /// Bytes of memory in all.
    pub bytes: usize,
    /// How many of them lie on huge pages.
    pub huge_bytes: usize,
    /// What kind of memory it is.
    pub backing: Backing,
}

/// The buffers of one job. Dropped (and unmapped) after its last slot.
#[derive(Debug)]
pub struct Arena {
    map: Map,
    slot_bytes: usize,
    slots: usize,
    backing: Backing,
    free: FreeList,
    waiting: AtomicUsize,
    waiters: Mutex<()>,
    returned: Condvar,
}

impl Arena {
    /// Maps and faults in `slots` buffers of at least `slot_bytes` (rounded up to whole pages).
    ///
    /// # Errors
    /// [`HostMemError::Size`] for an empty or absurd arena, [`HostMemError::Map`] when the host
    /// has not got the memory.
    pub fn new(
        slots: usize,
        slot_bytes: usize,
        huge: HugePages,
    ) -> Result<Arc<Self>, HostMemError> {
        let too_big = HostMemError::Size { slots, slot_bytes };
        if slots == 0 || slots > SLOTS_MAX || slot_bytes == 0 {
            return Err(too_big);
        }
        let Some(slot_bytes) = slot_bytes.checked_next_multiple_of(PAGE_BYTES) else {
            return Err(too_big);
        };
        let Some(bytes) = slot_bytes.checked_mul(slots).filter(|b| *b <= isize::MAX as usize / 2)
        else {
            return Err(too_big);
        };
        let (map, backing) = Self::back(bytes, huge)?;
        Ok(Arc::new(Self {
            map,
            slot_bytes,
            slots,
            backing,
            free: FreeList::new(slots as u32),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::new(()),
            returned: Condvar::new(),
        }))
    }

    fn back(bytes: usize, huge: HugePages) -> Result<(Map, Backing), HostMemError> {
        if huge == HugePages::Never {
            return Ok((Map::transparent(bytes, false)?, Backing::Small));
        }
        if let Ok(map) = Map::hugetlb(bytes) {
            return Ok((map, Backing::Hugetlb));
        }
        let map = Map::transparent(bytes, true)?;
        let huge_bytes = smaps::huge_bytes(map.ptr().addr().get(), map.len()).unwrap_or(0);
        let backing = if huge_bytes > 0 { Backing::Transparent } else { Backing::Small };
        Ok((map, backing))
    }

    /// The slot given back last, or `None` when all are in use. Its content is whatever its last
    /// user left.
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let index = self.free.pop()?;
        Some(Slot { arena: Arc::clone(self), index })
    }

    /// Like [`Arena::take`], waiting up to `timeout` for a slot to come back.
    pub fn take_timeout(self: &Arc<Self>, timeout: Duration) -> Option<Slot> {
        if let Some(slot) = self.take() {
            return Some(slot);
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let slot = self.wait_for_slot(timeout);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        slot
    }

    fn wait_for_slot(self: &Arc<Self>, timeout: Duration) -> Option<Slot> {
        let deadline = Instant::now() + timeout;
        let mut guard = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(slot) = self.take() {
                return Some(slot);
            }
            let left = deadline.checked_duration_since(Instant::now()).filter(|d| !d.is_zero())?;
            guard =
                self.returned.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Slots nobody owns just now.
    pub fn free_slots(&self) -> usize {
        self.free.len()
    }

    /// Slots in all.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Usable bytes in each slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// What the arena got from the host. Reads /proc: for arming and reports, not for loops.
    pub fn report(&self) -> ArenaReport {
        let huge_bytes = match self.backing {
            Backing::Hugetlb => self.map.len(),
            Backing::Small => 0,
            Backing::Transparent => {
                smaps::huge_bytes(self.map.ptr().addr().get(), self.map.len()).unwrap_or(0)
            }
        };
        ArenaReport {
            slots: self.slots,
            slot_bytes: self.slot_bytes,
            bytes: self.map.len(),
            huge_bytes,
            backing: self.backing,
        }
    }

    /// First byte and length of slot `index`, for registering the memory with the kernel. The
    /// range stays mapped as long as the arena lives; whoever dereferences it must own the slot.
    ///
    /// # Panics
    /// When `index` is not below [`Arena::slots`].
    pub fn slot_range(&self, index: usize) -> (NonNull<u8>, usize) {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        // SAFETY: index < slots, so the offset lies inside the map.
        let start = unsafe { self.map.ptr().add(index * self.slot_bytes) };
        (start, self.slot_bytes)
    }

    fn give_back(&self, index: u32) {
        self.free.push(index);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            drop(self.waiters.lock().unwrap_or_else(PoisonError::into_inner));
            self.returned.notify_one();
        }
    }
}

/// One buffer of an [`Arena`], owned. Returns to it on drop.
#[derive(Debug)]
pub struct Slot {
    arena: Arc<Arena>,
    index: u32,
}

impl Slot {
    /// Its number in the arena; also its index in the ring's table of registered buffers.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// The arena it belongs to.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Its first byte. Made without a reference, so it stays good while the slot is moved.
    pub fn start(&self) -> NonNull<u8> {
        self.arena.slot_range(self.index()).0
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (start, len) = self.arena.slot_range(self.index());
        // SAFETY: the range is mapped and zero-initialised for the arena's life, which this slot
        // prolongs; an index is handed out to one slot at a time, so no one else writes it.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (start, len) = self.arena.slot_range(self.index());
        // SAFETY: as in `deref`; the exclusive borrow of the only owner makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.arena.give_back(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_disjoint_and_come_back() {
        let arena = Arena::new(8, 5000, HugePages::Auto).unwrap();
        assert_eq!(arena.slot_bytes(), 8192);
        let mut slots: Vec<Slot> = std::iter::from_fn(|| arena.take()).collect();
        assert_eq!((slots.len(), arena.free_slots()), (8, 0));
        for slot in &mut slots {
            assert_eq!(slot.start().as_ptr() as usize % PAGE_BYTES, 0);
            let mark = slot.index() as u8 + 1;
            slot.fill(mark);
        }
        for slot in &slots {
            assert!(slot.iter().all(|b| *b == slot.index() as u8 + 1), "slots overlap");
        }
        drop(slots);
        assert_eq!(arena.free_slots(), 8);
    }

    #[test]
    fn a_waiter_gets_the_slot_that_comes_back() {
        let arena = Arena::new(1, 1, HugePages::Never).unwrap();
        let only = arena.take().unwrap();
        assert!(arena.take_timeout(Duration::from_millis(5)).is_none());
        let other = Arc::clone(&arena);
        let waiter = std::thread::spawn(move || other.take_timeout(Duration::from_secs(20)));
        while arena.waiting.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(only);
        assert!(waiter.join().unwrap().is_some());
    }

    #[test]
    fn many_threads_never_share_a_slot() {
        let arena = Arena::new(3, PAGE_BYTES, HugePages::Never).unwrap();
        std::thread::scope(|scope| {
            for mark in 0..8u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let mut slot = arena.take_timeout(Duration::from_secs(20)).unwrap();
                        slot.fill(mark);
                        assert!(slot.iter().all(|b| *b == mark));
                    }
                });
            }
        });
        assert_eq!(arena.free_slots(), 3);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for (slots, bytes) in
            [(0, 1), (1, 0), (usize::MAX, 1), (2, usize::MAX - 5), (16_384, usize::MAX / 4)]
        {
            assert!(matches!(
                Arena::new(slots, bytes, HugePages::Auto),
                Err(HostMemError::Size { .. })
            ));
        }
    }

    #[test]
    fn the_report_adds_up() {
        for huge in [HugePages::Auto, HugePages::Never] {
            let report = Arena::new(4, 1 << 20, huge).unwrap().report();
            assert!(report.bytes >= report.slots * report.slot_bytes);
            assert!(report.huge_bytes <= report.bytes);
            assert_eq!(report.backing == Backing::Small, report.huge_bytes == 0);
        }
    }
}
