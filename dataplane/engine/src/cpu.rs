//! CPU time of this process, from the kernel's clock.

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this process, in microseconds.
#[must_use]
pub fn process_us() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    (time.tv_sec as u64).wrapping_mul(1_000_000).wrapping_add(time.tv_nsec as u64 / 1000)
}
