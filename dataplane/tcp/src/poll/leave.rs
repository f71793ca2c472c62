//! Closing in order: last acks, goodbye, half-close, the peer's end of stream.

use dwcp_wire::LinkMessage;

use super::{Phase, Poll, nanos};
use crate::DownReason;
use crate::config::LEAVE_MAX;

impl Poll {
    pub(super) fn leave_deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Running | Phase::Ended => None,
            // The last ack may still be on its way out.
            Phase::Draining { deadline, .. } => {
                Some(deadline.min(self.acks_out_at().max(self.now + 1)))
            }
            Phase::Leaving { deadline } => Some(deadline),
        }
    }

    pub(super) fn leave_if_closing(&mut self) {
        match self.phase {
            Phase::Running | Phase::Ended => {}
            Phase::Draining { code, deadline } => {
                if self.is_drained() || self.now >= deadline {
                    self.say_goodbye(&LinkMessage::Goodbye { code });
                }
            }
            Phase::Leaving { deadline } => {
                if self.rails.iter().all(Option::is_none) {
                    self.phase = Phase::Ended;
                } else if self.now >= deadline {
                    self.close_all();
                }
            }
        }
    }

    /// When an ack for what was consumed last has surely been queued.
    fn acks_out_at(&self) -> u64 {
        self.consumed_last.saturating_add(self.config.session.ack_delay_ns)
    }

    fn is_drained(&self) -> bool {
        self.session.unacked().0 == 0
            && self.pending.iter().all(Option::is_none)
            && self.inbox.slices.iter().all(|mail| mail.is_empty())
            && self.now >= self.acks_out_at()
            && self.rails.iter().flatten().all(|rail| rail.is_quiet())
    }

    fn say_goodbye(&mut self, goodbye: &LinkMessage) {
        self.phase = Phase::Leaving { deadline: self.now.saturating_add(nanos(LEAVE_MAX)) };
        for index in 0..self.rails.len() {
            self.queue_link(index, goodbye);
            self.feed(index);
        }
        if self.rails.iter().all(Option::is_none) {
            self.phase = Phase::Ended;
        }
    }

    fn close_all(&mut self) {
        for index in 0..self.rails.len() {
            self.close_rail(index, DownReason::Closing);
        }
        self.phase = Phase::Ended;
    }
}
