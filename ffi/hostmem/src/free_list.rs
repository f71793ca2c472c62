//! Free slots as a stack: the one given back last goes out first, because it lies in a cache.
//!
//! A Treiber stack over slot numbers; the head carries a count of its changes, so that a head
//! that came back by way of others (ABA) is told from one that never changed. Lock-free, no
//! allocation after `new`.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// End of the stack.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct FreeList {
    /// Changes (upper half) and number of the top slot (lower half).
    head: AtomicU64,
    /// Per slot on the stack, the one below.
    below: Box<[AtomicU32]>,
    len: AtomicUsize,
}

fn pack(changes: u32, top: u32) -> u64 {
    u64::from(changes) << 32 | u64::from(top)
}

fn unpack(head: u64) -> (u32, u32) {
    ((head >> 32) as u32, head as u32)
}

impl FreeList {
    /// All of `slots` are free.
    pub(crate) fn new(slots: u32) -> Self {
        let list = Self {
            head: AtomicU64::new(pack(0, NONE)),
            below: (0..slots).map(|_| AtomicU32::new(NONE)).collect(),
            len: AtomicUsize::new(0),
        };
        for index in (0..slots).rev() {
            list.push(index);
        }
        list
    }

    /// Gives slot `index` back. Its owner does so once, which is what keeps the stack a stack.
    pub(crate) fn push(&self, index: u32) {
        // Before the slot can be taken, so that the count never falls below zero.
        self.len.fetch_add(1, Ordering::SeqCst);
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (changes, top) = unpack(head);
            self.below[index as usize].store(top, Ordering::Relaxed);
            let next = pack(changes.wrapping_add(1), index);
            // Release: the next owner sees what this one wrote. SeqCst: `Arena` compares the
            // order of this with its count of waiters.
            match self.head.compare_exchange_weak(head, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(found) => head = found,
            }
        }
    }

    pub(crate) fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::SeqCst);
        loop {
            let (changes, top) = unpack(head);
            if top == NONE {
                return None;
            }
            // May be stale when others were faster; then the exchange fails.
            let below = self.below[top as usize].load(Ordering::Relaxed);
            let next = pack(changes.wrapping_add(1), below);
            match self.head.compare_exchange_weak(head, next, Ordering::SeqCst, Ordering::Acquire) {
                Ok(_) => {
                    self.len.fetch_sub(1, Ordering::SeqCst);
                    return Some(top);
                }
                Err(found) => head = found,
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_in_is_the_first_out() {
        let list = FreeList::new(3);
        assert_eq!((list.pop(), list.pop(), list.len()), (Some(0), Some(1), 1));
        list.push(0);
        list.push(1);
        assert_eq!(
            [list.pop(), list.pop(), list.pop(), list.pop()],
            [Some(1), Some(0), Some(2), None]
        );
    }

    #[test]
    fn threads_never_get_the_same_slot() {
        const SLOTS: u32 = 4;
        let list = FreeList::new(SLOTS);
        let owned: Vec<AtomicU32> = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let Some(index) = list.pop() else { continue };
                        assert_eq!(owned[index as usize].fetch_add(1, Ordering::SeqCst), 0);
                        if round % 64 == 0 {
                            std::thread::yield_now();
                        }
                        owned[index as usize].fetch_sub(1, Ordering::SeqCst);
                        list.push(index);
                    }
                });
            }
        });
        assert_eq!(list.len(), SLOTS as usize);
    }
}
