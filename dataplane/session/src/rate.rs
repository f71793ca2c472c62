//! Token bucket for the rate ceiling over all rails.
//!
//! A slice may go while the bucket is not in debt, and then costs its wire bytes. Hence in any
//! interval T at most `rate * T + burst + one slice` bytes are posted. Pure arithmetic.

const NS_PER_S: i128 = 1_000_000_000;
/// The bucket holds at most this much of a second.
const BURST_DIVISOR: u64 = 100;

/// Ceiling in bytes per second; without one everything may go at once.
pub(crate) struct TokenBucket {
    rate_bytes_per_s: Option<u64>,
    /// Credit in bytes times nanoseconds-per-second, so that no rounding is lost.
    credit: i128,
    refilled_ns: u64,
}

impl TokenBucket {
    pub(crate) fn new(rate_bytes_per_s: Option<u64>) -> Self {
        Self { rate_bytes_per_s, credit: 0, refilled_ns: 0 }
    }

    pub(crate) fn set_rate(&mut self, now: u64, rate_bytes_per_s: Option<u64>) {
        self.refill(now);
        self.rate_bytes_per_s = rate_bytes_per_s;
        self.credit = self.credit.min(self.credit_max());
    }

    /// Whether a slice may go now.
    pub(crate) fn is_ready(&mut self, now: u64) -> bool {
        self.refill(now);
        match self.rate_bytes_per_s {
            None => true,
            Some(0) => false,
            Some(_) => self.credit >= 0,
        }
    }

    pub(crate) fn charge(&mut self, now: u64, bytes: u64) {
        self.refill(now);
        if self.rate_bytes_per_s.is_some() {
            self.credit -= i128::from(bytes) * NS_PER_S;
        }
    }

    /// When [`Self::is_ready`] will hold without further charges; `None` if never.
    pub(crate) fn ready_at(&self) -> Option<u64> {
        match self.rate_bytes_per_s {
            None => Some(self.refilled_ns),
            Some(0) => None,
            Some(rate) => {
                let debt = (-self.credit).max(0);
                let rate = i128::from(rate);
                let wait = (debt + rate - 1) / rate;
                Some(self.refilled_ns.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX)))
            }
        }
    }

    fn refill(&mut self, now: u64) {
        let elapsed = i128::from(now.saturating_sub(self.refilled_ns));
        self.refilled_ns = self.refilled_ns.max(now);
        let rate = i128::from(self.rate_bytes_per_s.unwrap_or(0));
        self.credit = (self.credit + elapsed * rate).min(self.credit_max());
    }

    fn credit_max(&self) -> i128 {
        i128::from(self.rate_bytes_per_s.unwrap_or(0) / BURST_DIVISOR) * NS_PER_S
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn posts_no_more_than_the_rate() {
        let mut bucket = TokenBucket::new(Some(1_000_000));
        let (mut now, mut posted) = (0, 0u64);
        while now < 1_000 * MS {
            if bucket.is_ready(now) {
                bucket.charge(now, 1_000);
                posted += 1_000;
            }
            now += MS / 10;
        }
        assert!((990_000..=1_011_000).contains(&posted), "{posted}");
    }

    #[test]
    fn ready_at_is_exact() {
        let mut bucket = TokenBucket::new(Some(3_000));
        bucket.charge(5, 1_000);
        let at = bucket.ready_at().expect("a rate above zero");
        assert!(!bucket.is_ready(at - 1));
        assert!(bucket.is_ready(at));
    }

    #[test]
    fn zero_pauses_and_none_does_not_limit() {
        let mut bucket = TokenBucket::new(Some(0));
        assert!(!bucket.is_ready(u64::MAX / 2));
        assert_eq!(bucket.ready_at(), None);
        bucket.set_rate(u64::MAX / 2, None);
        bucket.charge(u64::MAX / 2, u64::MAX);
        assert!(bucket.is_ready(u64::MAX / 2));
    }

    #[test]
    fn debt_survives_a_change_of_rate() {
        let mut bucket = TokenBucket::new(Some(1_000));
        bucket.charge(0, 1_000);
        bucket.set_rate(0, Some(2_000));
        assert_eq!(bucket.ready_at(), Some(500 * MS));
    }
}
