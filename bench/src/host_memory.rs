//! Free memory that is really there. A machine that is itself a virtual one may have handed its free
//! pages back to its own host; the first touch of such a page costs many times a normal one, and by
//! chance hits one mover and not the next. So every run starts with as much memory freshly freed. The
//! kernel may still prefer other free pages: where most of the memory is free and was handed back, all
//! movers are slowed by first touches, and only the figures of one run can be compared.

/// Bytes between two touched ones: no page is larger than it must be.
const PAGE_BYTES: usize = 4096;

/// Memory that has been touched; dropping it just before a run makes it the memory that is taken next.
#[derive(Debug)]
pub(crate) struct Backed {
    _bytes: Vec<u8>,
}

impl Backed {
    /// Takes and touches `bytes`, or what is free less a quarter when that is not there.
    pub(crate) fn take(bytes: u64) -> Self {
        let free = dwcp_hostmem::free_memory_bytes().unwrap_or(0);
        let bytes = bytes.min(free / 4 * 3);
        let mut memory = vec![0u8; usize::try_from(bytes).unwrap_or(0)];
        memory.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
        Self { _bytes: memory }
    }
}
