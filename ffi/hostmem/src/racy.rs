//! Copies to and from memory that somebody else (a guest, another thread) may change meanwhile.
//!
//! An ordinary copy of such bytes is a data race and undefined. On x86-64 a string instruction
//! does it: to the compiler an assembly block stands for relaxed atomic byte accesses, which may
//! race. Elsewhere it is written as relaxed atomic words. A torn result is possible and
//! harmless: a page that changed while it was read is sent again.

use crate::PAGE_BYTES;

/// Copies a racy page out.
///
/// # Safety
/// `from` must be valid for reads of `PAGE_BYTES`, aligned to 8, outside `out`, and stay mapped
/// meanwhile. Others may change it, through this module or from outside the process only.
pub(crate) unsafe fn load_page(from: *const u8, out: &mut [u8; PAGE_BYTES]) {
    // SAFETY: `from` by the caller's word; `out` is exclusive and of one page.
    unsafe { imp::copy(from, out.as_mut_ptr()) }
}

/// Writes a racy page.
///
/// # Safety
/// As for `from` of [`load_page`], for writes.
pub(crate) unsafe fn store_page(from: &[u8; PAGE_BYTES], to: *mut u8) {
    // SAFETY: `to` by the caller's word; `from` is borrowed, of one page, and outside the map.
    unsafe { imp::copy(from.as_ptr(), to) }
}

/// Copies a racy page over another.
///
/// # Safety
/// As for [`load_page`] and [`store_page`]; the two are equal or disjoint.
pub(crate) unsafe fn copy_page(from: *const u8, to: *mut u8) {
    // SAFETY: by the caller's word.
    unsafe { imp::copy(from, to) }
}

#[cfg(target_arch = "x86_64")]
use string as imp;
#[cfg(not(target_arch = "x86_64"))]
use words as imp;

#[cfg(target_arch = "x86_64")]
mod string {
    use crate::PAGE_BYTES;

    /// # Safety
    /// One page each, mapped, readable and writable; equal or disjoint.
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8) {
        // SAFETY: reads and writes exactly PAGE_BYTES bytes, valid by the caller's word; the
        // direction flag is clear on entry to every assembly block.
        unsafe {
            std::arch::asm!(
                "rep movsb",
                inout("rcx") PAGE_BYTES => _,
                inout("rsi") from => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
        }
    }
}

#[cfg(any(test, not(target_arch = "x86_64")))]
mod words {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use crate::PAGE_BYTES;

    const WORD: usize = size_of::<u64>();

    /// # Safety
    /// One page each, mapped, readable and writable; equal or disjoint.
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8) {
        for at in (0..PAGE_BYTES).step_by(WORD) {
            // SAFETY: at + WORD <= PAGE_BYTES, valid by the caller's word.
            let source = unsafe { from.add(at) };
            // SAFETY: as above.
            let sink = unsafe { to.add(at) };
            // SAFETY: whole words inside both pages.
            unsafe { copy_word(source, sink) };
        }
    }

    /// # Safety
    /// As for `copy`, for one word.
    unsafe fn copy_word(from: *const u8, to: *mut u8) {
        let mut word = [0u8; WORD];
        if from.cast::<u64>().is_aligned() {
            // SAFETY: aligned and valid; a relaxed load does not write a read-only source.
            let source = unsafe { AtomicU64::from_ptr(from.cast_mut().cast()) };
            word = source.load(Ordering::Relaxed).to_ne_bytes();
        } else {
            for (at, byte) in word.iter_mut().enumerate() {
                // SAFETY: at < WORD, inside the word.
                let source = unsafe { from.add(at) };
                // SAFETY: valid for one byte, as above.
                *byte = unsafe { AtomicU8::from_ptr(source.cast_mut()) }.load(Ordering::Relaxed);
            }
        }
        if to.cast::<u64>().is_aligned() {
            // SAFETY: aligned and valid for writes.
            let sink = unsafe { AtomicU64::from_ptr(to.cast()) };
            sink.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        } else {
            for (at, byte) in word.iter().enumerate() {
                // SAFETY: at < WORD, inside the word.
                let sink = unsafe { to.add(at) };
                // SAFETY: valid for one byte, as above.
                unsafe { AtomicU8::from_ptr(sink) }.store(*byte, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Copy = unsafe fn(*const u8, *mut u8);

    fn check(copy: Copy, from_at: usize, to_at: usize) {
        let from: Vec<u8> = (0..3 * PAGE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
        let mut to = vec![0xee; 3 * PAGE_BYTES];
        // SAFETY: both have a whole page from their offset on, which is at most PAGE_BYTES + 3.
        unsafe { copy(from[from_at..].as_ptr(), to[to_at..].as_mut_ptr()) };
        assert_eq!(to[to_at..][..PAGE_BYTES], from[from_at..][..PAGE_BYTES]);
        assert!(to[..to_at].iter().all(|b| *b == 0xee));
        assert!(to[to_at + PAGE_BYTES..].iter().all(|b| *b == 0xee));
    }

    #[test]
    fn both_ways_copy_exactly_one_page() {
        for (from_at, to_at) in [(PAGE_BYTES, PAGE_BYTES), (3, PAGE_BYTES), (PAGE_BYTES, 3)] {
            check(words::copy, from_at, to_at);
            check(imp::copy, from_at, to_at);
        }
    }
}
