//! Host memory: slice arenas on huge pages, maps of guest RAM, core pinning, free-memory figures.
//!
//! One of the few homes of `unsafe`. Any thread may call it; `Arena::new` and `GuestRam::map`
//! allocate and fault memory in, taking and returning slots neither allocates nor (without a
//! waiter) locks. It must not know what slices or pages mean to a migration.

mod arena;
mod error;
mod free_list;
mod guest_ram;
mod host;
mod map;
mod racy;
mod smaps;

pub use arena::{Arena, ArenaReport, Backing, HugePages, Slot};
pub use error::HostMemError;
pub use guest_ram::GuestRam;
pub use host::{
    favour_current_thread, free_memory_bytes, free_tmpfs_bytes, online_cores, pin_current_thread,
    total_memory_bytes,
};

/// Bytes in the unit of guest memory that a migration moves.
pub const PAGE_BYTES: usize = 4096;

/// Bytes in the huge page the arena asks for (x86-64 and arm64 with 4 KiB base pages).
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

const _: () = assert!(HUGE_PAGE_BYTES.is_multiple_of(PAGE_BYTES));
