//! CPU time, of this thread and of this process, from the kernel's clocks.

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread, in nanoseconds.
#[must_use]
pub fn thread_ns() -> u64 {
    nanoseconds(ClockId::ThreadCPUTime)
}

/// CPU time of this process, in microseconds.
#[must_use]
pub fn process_us() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime) / 1000
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}
