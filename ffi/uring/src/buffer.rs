//! Buffers that keep their address while they are moved.
//!
//! That is what the kernel needs: it was given an address, and the owning value travels through
//! tables meanwhile. No trait that callers could implement wrongly, but the two kinds we use.

use std::ops::{Deref, DerefMut};

use dwcp_hostmem::Slot;

/// Memory for one operation.
#[derive(Debug)]
pub enum Buffer {
    /// A slot of an arena: slices.
    Slot(Slot),
    /// A heap buffer: headers, link and control messages. All its `len` bytes can be used.
    Heap(Vec<u8>),
}

impl Buffer {
    /// First byte, derived without a reference to the content.
    pub(crate) fn start(&mut self) -> *mut u8 {
        match self {
            Self::Slot(slot) => slot.start().as_ptr(),
            Self::Heap(bytes) => bytes.as_mut_ptr(),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Slot(slot) => slot,
            Self::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Slot(slot) => slot,
            Self::Heap(bytes) => bytes,
        }
    }
}
