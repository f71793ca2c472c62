//! When an ack is due: after so many consumed slices, after a delay, or at once.
//!
//! At once means: a rail came or went (acks on it may be lost), the peer re-sent something we
//! have, or half of its window lies here and it may be waiting. Pure bookkeeping.

/// Decides when the next ack goes out.
pub(crate) struct AckPolicy {
    every_slices: u32,
    delay_ns: u64,
    window_slices: u32,
    /// Received since the last ack went out and not reported in it.
    unreported: u32,
    /// Consumed since the last ack went out.
    consumed: u32,
    consumed_since_ns: u64,
    at_once: bool,
}

impl AckPolicy {
    pub(crate) fn new(every_slices: u32, delay_ns: u64, window_slices: u32) -> Self {
        Self {
            every_slices,
            delay_ns,
            window_slices,
            unreported: 0,
            consumed: 0,
            consumed_since_ns: 0,
            at_once: false,
        }
    }

    /// A slice that counts against the peer's window came in.
    pub(crate) fn on_received(&mut self) {
        self.unreported = self.unreported.saturating_add(1);
    }

    pub(crate) fn on_consumed(&mut self, now: u64) {
        if self.consumed == 0 {
            self.consumed_since_ns = now;
        }
        self.consumed = self.consumed.saturating_add(1);
    }

    pub(crate) fn request_at_once(&mut self) {
        self.at_once = true;
    }

    /// When the next ack is due; `None` if there is nothing to say.
    pub(crate) fn due_at(&self) -> Option<u64> {
        if self.at_once {
            return Some(0);
        }
        if self.consumed == 0 {
            return None;
        }
        let peer_may_wait = self.unreported.saturating_mul(2) >= self.window_slices;
        if peer_may_wait || self.consumed >= self.every_slices {
            return Some(self.consumed_since_ns);
        }
        Some(self.consumed_since_ns.saturating_add(self.delay_ns))
    }

    /// An ack goes out that reports everything consumed; `unconsumed` slices stay here.
    pub(crate) fn on_posted(&mut self, unconsumed: u32) {
        self.unreported = unconsumed;
        self.consumed = 0;
        self.at_once = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_count_or_delay() {
        let mut policy = AckPolicy::new(3, 100, 1_000);
        assert_eq!(policy.due_at(), None);
        policy.on_received();
        policy.on_consumed(10);
        assert_eq!(policy.due_at(), Some(110));
        policy.on_consumed(20);
        policy.on_consumed(30);
        assert_eq!(policy.due_at(), Some(10));
        policy.on_posted(0);
        assert_eq!(policy.due_at(), None);
    }

    #[test]
    fn acks_at_once_when_the_window_is_half_used() {
        let mut policy = AckPolicy::new(100, 1_000_000, 8);
        for _ in 0..4 {
            policy.on_received();
        }
        assert_eq!(policy.due_at(), None);
        policy.on_consumed(7);
        assert_eq!(policy.due_at(), Some(7));
        policy.on_posted(3);
        policy.on_consumed(9);
        assert_eq!(policy.due_at(), Some(9 + 1_000_000));
        policy.request_at_once();
        assert_eq!(policy.due_at(), Some(0));
    }
}
