//! A leaky bucket beside the session's own: how far above the ceiling the posted bytes are.

use dwcp_wire::Channel;

use crate::Broken;
use crate::rail::Key;

/// Measures what one side posts.
pub(crate) struct RateMeter {
    rate_bytes_per_s: Option<u64>,
    level_bytes: f64,
    burst_bytes: f64,
    at_ns: u64,
}

impl RateMeter {
    pub(crate) fn new(rate_bytes_per_s: Option<u64>) -> Self {
        let burst_bytes = burst(rate_bytes_per_s);
        Self { rate_bytes_per_s, level_bytes: 0.0, burst_bytes, at_ns: 0 }
    }

    pub(crate) fn set_rate(&mut self, now: u64, rate_bytes_per_s: Option<u64>) {
        self.drain(now);
        self.rate_bytes_per_s = rate_bytes_per_s;
        self.burst_bytes = self.burst_bytes.max(burst(rate_bytes_per_s));
    }

    fn drain(&mut self, now: u64) {
        let elapsed_s = now.saturating_sub(self.at_ns) as f64 / 1e9;
        let drained = self.rate_bytes_per_s.map_or(f64::INFINITY, |rate| rate as f64 * elapsed_s);
        self.level_bytes = (self.level_bytes - drained).max(0.0);
        self.at_ns = now;
    }

    /// A slice is posted; Control may exceed the ceiling but counts.
    pub(crate) fn post(&mut self, now: u64, key: Key, wire_bytes: usize) -> Result<(), Broken> {
        self.drain(now);
        if self.rate_bytes_per_s.is_none() {
            return Ok(());
        }
        if key.0 != Channel::Control && self.level_bytes > self.burst_bytes + 1.0 {
            let level = self.level_bytes;
            return Err(format!("{key:?} posted {level:.0} bytes above the ceiling"));
        }
        self.level_bytes += wire_bytes as f64;
        Ok(())
    }
}

/// What may be posted at once: a hundredth of a second's worth.
fn burst(rate_bytes_per_s: Option<u64>) -> f64 {
    rate_bytes_per_s.unwrap_or(0) as f64 / 100.0
}
