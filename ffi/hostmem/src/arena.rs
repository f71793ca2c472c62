//! A fixed number of equal, page-aligned buffers in one prefaulted map.
//!
//! Any thread takes and returns slots. Nothing allocates after `new`; a lock is touched only
//! while somebody waits for a slot. A slot is owned by exactly one value at a time, which is what
//! lets `dwcp-uring` hand it to the kernel.

use std::ops::Range;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::{IoSliceRaw, SpliceFlags, vmsplice};

use crate::free_list::FreeList;
use crate::map::Map;
use crate::{HostMemError, PAGE_BYTES, smaps};

/// Most slots an arena can have: io_uring accepts this many registered buffers at most.
const SLOTS_MAX: usize = 16_384;

/// Most bytes an arena can have: an allocation of Rust is at most `isize::MAX`, rounding included.
const ARENA_BYTES_MAX: usize = isize::MAX as usize / 2;

/// Nobody waits for slots.
const NOBODY: usize = usize::MAX;

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
    /// Free slots at which `give_back` must look at `waiters`.
    wanted: AtomicUsize,
    waiters: Mutex<Waiters>,
    returned: Condvar,
}

/// Threads that wait for a slot. Waking is a system call: nobody is woken twice.
#[derive(Debug, Default)]
struct Waiters {
    waiting: usize,
    /// Of those, how many are in the kernel or on the way there.
    asleep: usize,
    /// Of those, how many were woken and have not run yet.
    woken: usize,
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
        let (slot_bytes, bytes) = sizes(slots, slot_bytes)?;
        let (map, backing) = Self::back(bytes, huge)?;
        Ok(Arc::new(Self {
            map,
            slot_bytes,
            slots,
            backing,
            free: FreeList::new(slots as u32),
            wanted: AtomicUsize::new(NOBODY),
            waiters: Mutex::default(),
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
        self.take().or_else(|| self.wait_until(1, timeout, |arena| arena.take()))
    }

    /// Waits up to `timeout` until at least `slots` are free; whether they are. For producers
    /// that work through several at once: being woken for each costs more than moving it.
    pub fn wait_free(self: &Arc<Self>, slots: usize, timeout: Duration) -> bool {
        let slots = slots.min(self.slots);
        let done = |arena: &Arc<Self>| (arena.free_slots() >= slots).then_some(());
        done(self).or_else(|| self.wait_until(slots, timeout, done)).is_some()
    }

    /// Sleeps until `done` gives something, asking whenever at least `wanted` slots are free.
    fn wait_until<T>(
        self: &Arc<Self>,
        wanted: usize,
        timeout: Duration,
        done: impl Fn(&Arc<Self>) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.waiting += 1;
        // Of several the most modest decides when all look.
        self.wanted.fetch_min(wanted, Ordering::SeqCst);
        let result = loop {
            if let Some(result) = done(self) {
                break Some(result);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            waiters.asleep += 1;
            waiters =
                self.returned.wait_timeout(waiters, left).unwrap_or_else(PoisonError::into_inner).0;
            waiters.asleep -= 1;
            // Whoever runs first takes the credit of whoever was woken: the count stays right.
            waiters.woken = waiters.woken.saturating_sub(1).min(waiters.asleep);
        };
        waiters.waiting -= 1;
        if waiters.waiting == 0 {
            self.wanted.store(NOBODY, Ordering::SeqCst);
        }
        result
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
        if self.free.len() >= self.wanted.load(Ordering::SeqCst) {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            if waiters.woken < waiters.asleep {
                waiters.woken += 1;
                self.returned.notify_one();
            }
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

    /// Puts `range` of the slot into a pipe by reference (`vmsplice`), as far as the pipe has
    /// room: the bytes put in. Does not block. On huge pages the references are few.
    ///
    /// Whoever takes them out reads the slot's bytes of that moment, a socket again until its
    /// peer has them: change the slot before, and the changed bytes arrive.
    ///
    /// # Errors
    /// The pipe's; `AGAIN` when it is full.
    ///
    /// # Panics
    /// When `range` lies outside the slot.
    pub fn lend_to_pipe(&self, pipe: BorrowedFd<'_>, range: Range<usize>) -> Result<usize, Errno> {
        let bytes = IoSliceRaw::from_slice(&self[range]);
        // SAFETY: the range is mapped, and without GIFT the kernel only reads it, keeping its
        // own references to the pages for as long as it does.
        unsafe { vmsplice(pipe, &[bytes], SpliceFlags::NONBLOCK) }
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

/// Bytes per slot and in all.
fn sizes(slots: usize, slot_bytes: usize) -> Result<(usize, usize), HostMemError> {
    let absurd = HostMemError::Size { slots, slot_bytes };
    if slots == 0 || slots > SLOTS_MAX || slot_bytes == 0 {
        return Err(absurd);
    }
    let rounded = slot_bytes.checked_next_multiple_of(PAGE_BYTES);
    let bytes = rounded.and_then(|rounded| rounded.checked_mul(slots));
    match (rounded, bytes.filter(|bytes| *bytes <= ARENA_BYTES_MAX)) {
        (Some(rounded), Some(bytes)) => Ok((rounded, bytes)),
        _ => Err(absurd),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

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
        while arena.wanted.load(Ordering::SeqCst) == NOBODY {
            std::thread::yield_now();
        }
        drop(only);
        assert!(waiter.join().unwrap().is_some());
    }

    #[test]
    fn a_waiter_for_several_is_not_woken_for_one() {
        let arena = Arena::new(4, 1, HugePages::Never).unwrap();
        let mut slots: Vec<Slot> = std::iter::from_fn(|| arena.take()).collect();
        assert!(!arena.wait_free(2, Duration::from_millis(5)));
        let other = Arc::clone(&arena);
        let waiter = std::thread::spawn(move || {
            assert!(other.wait_free(3, Duration::from_secs(20)));
            other.free_slots()
        });
        while arena.wanted.load(Ordering::SeqCst) == NOBODY {
            std::thread::yield_now();
        }
        slots.truncate(2);
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        assert_eq!(arena.waiters.lock().unwrap().woken, 0);
        slots.truncate(1);
        assert_eq!(waiter.join().unwrap(), 3);
        assert!(arena.wait_free(3, Duration::ZERO));
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
    fn a_lent_slot_is_read_through_the_pipe() {
        let arena = Arena::new(3, 5000, HugePages::Auto).unwrap();
        let mut slots: Vec<Slot> = std::iter::from_fn(|| arena.take()).collect();
        slots[2][100..103].copy_from_slice(b"abc");
        let (out, into) = rustix::pipe::pipe().unwrap();
        assert_eq!(slots[2].lend_to_pipe(into.as_fd(), 100..103), Ok(3));
        slots[2][101] = b'B';
        let mut bytes = [0; 3];
        assert_eq!(rustix::io::read(&out, &mut bytes), Ok(3));
        assert_eq!(&bytes, b"aBc", "by reference, not by value");
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
