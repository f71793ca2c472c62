//! What a job asks of QEMU and what it sets there, on top of the monitor client.
//! Runs on control threads; every call blocks for at most one monitor command.

pub mod facts;
pub mod ram;
pub mod tuning;

pub use facts::GuestFacts;
pub use ram::{RamBacking, RamBlockInfo};
pub use tuning::Tuning;
