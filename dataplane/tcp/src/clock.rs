//! The loop's clock: real time, less the time in which the loop could not run.
//!
//! A suspended machine, a paused virtual one or a starved thread must not find every peer silent
//! when it goes on: what came meanwhile is still to be read.

use std::time::{Duration, Instant};

/// How much later than asked for a turn may come before the rest counts as time not run.
const LATE_MAX: Duration = Duration::from_millis(500);

pub(crate) struct Clock {
    last: Instant,
    now_ns: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), now_ns: 0 }
    }

    /// Nanoseconds at the start of a turn before which the loop meant to wait at most `waited`.
    pub(crate) fn advance(&mut self, waited: Duration) -> u64 {
        let real = Instant::now();
        let passed = real.saturating_duration_since(self.last);
        self.last = real;
        self.advance_by(passed, waited)
    }

    fn advance_by(&mut self, passed: Duration, waited: Duration) -> u64 {
        let counted = passed.min(waited.saturating_add(LATE_MAX));
        self.now_ns += u64::try_from(counted.as_nanos()).unwrap_or(0);
        self.now_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_was_slept_through_does_not_count() {
        let mut clock = Clock::new();
        let ms = Duration::from_millis;
        assert_eq!(clock.advance_by(ms(20), ms(10)), 20_000_000);
        assert_eq!(clock.advance_by(ms(60_000), ms(100)), 620_000_000);
        assert_eq!(clock.advance_by(ms(1), ms(100)), 621_000_000);
    }
}
