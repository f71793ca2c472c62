//! One rail as the session sees it: what it carries, when it was last heard, how fast it is.
//!
//! Round-trip estimate after RFC 6298, section 2. The rate is what its acks say over windows of
//! 100 ms; a rail that was not busy all the window can only raise it.

use dwcp_wire::{HEADER_BYTES, RailId};

use crate::config::{LINK_QUEUE_MAX, RAIL_QUEUE_NS, RAIL_SLICES_MIN};
use crate::outbound::Key;

const RATE_WINDOW_NS: u64 = 100_000_000;
const NS_PER_S: u128 = 1_000_000_000;

/// Measurements of one rail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RailStats {
    /// Smoothed round-trip time of pings, queueing included; 0 before the first.
    pub rtt_smoothed_ns: u64,
    /// Lowest round-trip time seen; 0 before the first.
    pub rtt_min_ns: u64,
    /// Acked body bytes per second; 0 before it is known.
    pub rate_bytes_per_s: u64,
    /// Slices on their way.
    pub unacked_slices: u32,
    /// Their body bytes.
    pub unacked_bytes: u64,
}

/// A rail that is up.
pub(crate) struct Rail {
    pub(crate) id: RailId,
    /// A `CloseRail` went out: it gets nothing more.
    pub(crate) is_closing: bool,
    /// The slice being handed to the kernel.
    pub(crate) sending: Option<Key>,
    link_queued: u8,
    /// Ping of the peer that waits for its answer.
    pub(crate) pong_owed: Option<(u64, u64)>,
    ping_nonce: u64,
    ping_outstanding: bool,
    ping_due_ns: u64,
    /// Last sign of life, or the moment since which one is owed.
    progress_ns: u64,
    stats: RailStats,
    window_start_ns: u64,
    window_bytes: u64,
    window_was_busy: bool,
}

impl Rail {
    pub(crate) fn new(id: RailId, now: u64) -> Self {
        Self {
            id,
            is_closing: false,
            sending: None,
            link_queued: 0,
            pong_owed: None,
            ping_nonce: 0,
            ping_outstanding: false,
            ping_due_ns: now,
            progress_ns: now,
            stats: RailStats::default(),
            window_start_ns: now,
            window_bytes: 0,
            window_was_busy: false,
        }
    }

    pub(crate) fn stats(&self) -> RailStats {
        self.stats
    }

    pub(crate) fn progress_ns(&self) -> u64 {
        self.progress_ns
    }

    pub(crate) fn heard(&mut self, now: u64) {
        self.progress_ns = self.progress_ns.max(now);
    }

    pub(crate) fn takes_link(&self) -> bool {
        !self.is_closing && self.link_queued < LINK_QUEUE_MAX
    }

    pub(crate) fn link_posted(&mut self) {
        self.link_queued += 1;
    }

    pub(crate) fn link_sent(&mut self) {
        self.link_queued = self.link_queued.saturating_sub(1);
    }

    /// Whether a slice of `bytes` would not wait behind more than the rail drains in good time.
    pub(crate) fn has_room(&self, bytes: u32) -> bool {
        if self.stats.unacked_slices < RAIL_SLICES_MIN || self.stats.rate_bytes_per_s == 0 {
            return true;
        }
        let span_ns = self.stats.rtt_smoothed_ns.saturating_mul(2).saturating_add(RAIL_QUEUE_NS);
        let drained = u128::from(self.stats.rate_bytes_per_s) * u128::from(span_ns) / NS_PER_S;
        u128::from(self.stats.unacked_bytes + u64::from(bytes)) <= drained
    }

    /// Nanoseconds until a slice of `bytes` would be acked, by what was measured so far.
    pub(crate) fn finish_ns(&self, bytes: u32) -> u128 {
        let queued = u128::from(self.stats.unacked_bytes + u64::from(bytes));
        let rate = u128::from(self.stats.rate_bytes_per_s.max(1));
        let drain =
            if self.stats.rate_bytes_per_s == 0 { queued } else { queued * NS_PER_S / rate };
        drain + u128::from(self.stats.rtt_smoothed_ns)
    }

    pub(crate) fn slice_posted(&mut self, now: u64, key: Key, bytes: u32) {
        self.expect_answer(now);
        if self.stats.unacked_slices == 0 && self.window_bytes == 0 {
            self.window_start_ns = now;
            self.window_was_busy = true;
        }
        self.sending = Some(key);
        self.stats.unacked_slices += 1;
        self.stats.unacked_bytes += u64::from(bytes);
    }

    pub(crate) fn slice_acked(&mut self, now: u64, bytes: u32) {
        self.heard(now);
        self.stats.unacked_slices -= 1;
        self.stats.unacked_bytes -= u64::from(bytes);
        self.window_bytes += u64::from(bytes) + HEADER_BYTES as u64;
        self.measure_rate(now);
        self.window_was_busy &= self.stats.unacked_slices > 0;
    }

    fn measure_rate(&mut self, now: u64) {
        let elapsed = now.saturating_sub(self.window_start_ns);
        if elapsed < RATE_WINDOW_NS {
            return;
        }
        let sample = u128::from(self.window_bytes) * NS_PER_S / u128::from(elapsed);
        let sample = u64::try_from(sample).unwrap_or(u64::MAX);
        let rate = &mut self.stats.rate_bytes_per_s;
        *rate = match *rate {
            0 => sample,
            known if sample > known => known + (sample - known) / 2,
            known if self.window_was_busy => known - known / 4 + sample / 4,
            known => known,
        };
        self.window_start_ns = now;
        self.window_bytes = 0;
        self.window_was_busy = true;
    }

    /// When the next ping is due; `None` while one is unanswered.
    pub(crate) fn ping_due(&self) -> Option<u64> {
        (!self.ping_outstanding && self.takes_link()).then_some(self.ping_due_ns)
    }

    pub(crate) fn ping_posted(&mut self, now: u64, interval_ns: u64) -> u64 {
        self.expect_answer(now);
        self.ping_nonce += 1;
        self.ping_outstanding = true;
        self.ping_due_ns = now.saturating_add(interval_ns);
        self.ping_nonce
    }

    /// Takes the answer to the ping that is out; others are ignored.
    pub(crate) fn pong(&mut self, now: u64, nonce: u64, sent_ns: u64) {
        if !self.ping_outstanding || nonce != self.ping_nonce || sent_ns > now {
            return;
        }
        self.ping_outstanding = false;
        let sample = now - sent_ns;
        let RailStats { rtt_smoothed_ns, rtt_min_ns, .. } = &mut self.stats;
        let is_first = *rtt_min_ns == 0;
        *rtt_smoothed_ns =
            if is_first { sample } else { *rtt_smoothed_ns - *rtt_smoothed_ns / 8 + sample / 8 };
        *rtt_min_ns = if is_first { sample.max(1) } else { sample.clamp(1, *rtt_min_ns) };
    }

    /// Whether the peer owes a sign of life.
    pub(crate) fn owes_answer(&self) -> bool {
        self.ping_outstanding || self.stats.unacked_slices > 0
    }

    fn expect_answer(&mut self, now: u64) {
        if !self.owes_answer() {
            self.heard(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use dwcp_wire::Channel;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn measures_rate_and_limits_what_a_slow_rail_gets() {
        let mut rail = Rail::new(RailId(1), 0);
        let bytes = 1_000_000;
        for seq in 0..20 {
            assert!(rail.has_room(bytes));
            rail.slice_posted(seq * 100 * MS, (Channel::Pages, seq), bytes);
            rail.sending = None;
            rail.slice_acked((seq + 1) * 100 * MS, bytes);
        }
        let rate = rail.stats().rate_bytes_per_s;
        assert!((9_900_000..10_100_000).contains(&rate), "{rate}");
        let mut taken = 0;
        while rail.has_room(bytes) {
            rail.slice_posted(2_000 * MS, (Channel::Pages, 100 + taken), bytes);
            rail.sending = None;
            taken += 1;
        }
        assert_eq!(taken, u64::from(RAIL_SLICES_MIN), "10 MB/s drain 2.5 MB in 250 ms");
    }

    #[test]
    fn round_trip_is_smoothed_and_wrong_pongs_are_ignored() {
        let mut rail = Rail::new(RailId(1), 0);
        let nonce = rail.ping_posted(0, 100 * MS);
        rail.pong(5 * MS, nonce + 1, 0);
        assert!(rail.owes_answer());
        rail.pong(10 * MS, nonce, 0);
        assert!(!rail.owes_answer());
        let nonce = rail.ping_posted(100 * MS, 100 * MS);
        rail.pong(126 * MS, nonce, 100 * MS);
        assert_eq!(rail.stats().rtt_smoothed_ns, 12 * MS);
        assert_eq!(rail.stats().rtt_min_ns, 10 * MS);
    }
}
