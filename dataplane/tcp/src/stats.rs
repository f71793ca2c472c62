//! Counters that the poll thread publishes and anybody reads.
//!
//! Plain relaxed atomics: each figure is right, two of them may be of different turns.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dwcp_session::SessionStats;
use dwcp_wire::{Channel, SEQUENCED_CHANNELS};

/// Figures of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Bytes handed to sockets: headers, bodies and link messages.
    pub tx_bytes: u64,
    /// Bytes taken from sockets.
    pub rx_bytes: u64,
    /// Rails that are up.
    pub rails: u64,
    /// Lowest smoothed round-trip time of a rail, in microseconds; 0 before the first answer.
    pub rtt_us: u64,
    /// Slices submitted and not acked.
    pub unacked_slices: u64,
    /// Their body bytes.
    pub unacked_bytes: u64,
    /// Body bytes acked by the peer: growth of this is goodput.
    pub acked_bytes: u64,
    /// Body bytes of new slices received.
    pub received_bytes: u64,
    /// Slices sent once more.
    pub resent_slices: u64,
    /// Their wire bytes.
    pub resent_bytes: u64,
    /// Slices received once more and dropped.
    pub duplicate_slices: u64,
    /// Rails closed because they were silent.
    pub stalled_rails: u64,
    /// Rails closed because the peer broke the protocol.
    pub violations: u64,
    /// Times a rail had to wait for a free slot of the arena.
    pub slot_waits: u64,
    /// Sends that the kernel made without copying.
    pub zero_copy_sends: u64,
    /// Turns of the loop.
    pub turns: u64,
}

const FIELDS: usize = 16;

/// The published form.
#[derive(Debug, Default)]
pub(crate) struct Published {
    fields: [AtomicU64; FIELDS],
    acked_below: [AtomicU64; SEQUENCED_CHANNELS],
    abandoned: AtomicBool,
    /// The loop waits for slices: none is queued that some event will let it send.
    hungry: AtomicBool,
    /// Slices delivered and not yet consumed.
    delivered: AtomicU64,
}

impl NetStats {
    /// Takes over what the session counts.
    pub(crate) fn set_session(&mut self, session: &SessionStats) {
        self.rails = session.rails as u64;
        self.rtt_us = session.rtt_ns / 1000;
        self.unacked_slices = session.unacked_slices;
        self.unacked_bytes = session.unacked_bytes;
        self.acked_bytes = session.acked_bytes;
        self.received_bytes = session.received_bytes;
        self.resent_slices = session.resent_slices;
        self.resent_bytes = session.resent_bytes;
        self.duplicate_slices = session.duplicate_slices;
        self.stalled_rails = session.stalled_rails;
        self.violations = session.violations;
    }

    fn to_fields(self) -> [u64; FIELDS] {
        let Self {
            tx_bytes,
            rx_bytes,
            rails,
            rtt_us,
            unacked_slices,
            unacked_bytes,
            acked_bytes,
            received_bytes,
            resent_slices,
            resent_bytes,
            duplicate_slices,
            stalled_rails,
            violations,
            slot_waits,
            zero_copy_sends,
            turns,
        } = self;
        [
            tx_bytes,
            rx_bytes,
            rails,
            rtt_us,
            unacked_slices,
            unacked_bytes,
            acked_bytes,
            received_bytes,
            resent_slices,
            resent_bytes,
            duplicate_slices,
            stalled_rails,
            violations,
            slot_waits,
            zero_copy_sends,
            turns,
        ]
    }

    fn from_fields(fields: [u64; FIELDS]) -> Self {
        let [
            tx_bytes,
            rx_bytes,
            rails,
            rtt_us,
            unacked_slices,
            unacked_bytes,
            acked_bytes,
            received_bytes,
            resent_slices,
            resent_bytes,
            duplicate_slices,
            stalled_rails,
            violations,
            slot_waits,
            zero_copy_sends,
            turns,
        ] = fields;
        Self {
            tx_bytes,
            rx_bytes,
            rails,
            rtt_us,
            unacked_slices,
            unacked_bytes,
            acked_bytes,
            received_bytes,
            resent_slices,
            resent_bytes,
            duplicate_slices,
            stalled_rails,
            violations,
            slot_waits,
            zero_copy_sends,
            turns,
        }
    }
}

impl Published {
    pub(crate) fn publish(&self, stats: NetStats) {
        for (place, value) in self.fields.iter().zip(stats.to_fields()) {
            place.store(value, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> NetStats {
        NetStats::from_fields(std::array::from_fn(|at| self.fields[at].load(Ordering::Relaxed)))
    }

    /// The last handle is gone. Before a wake-up.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::SeqCst)
    }

    /// What the loop says before it sleeps; the wake-up protocol orders it.
    pub(crate) fn set_hungry(&self, hungry: bool) {
        self.hungry.store(hungry, Ordering::SeqCst);
    }

    pub(crate) fn is_hungry(&self) -> bool {
        self.hungry.load(Ordering::SeqCst)
    }

    pub(crate) fn on_delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many slices the engine still has, after it consumed one.
    pub(crate) fn on_consumed(&self) -> u64 {
        self.delivered.fetch_sub(1, Ordering::Relaxed).saturating_sub(1)
    }

    /// Release: who sees the number also sees what was published before.
    pub(crate) fn set_acked_below(&self, channel: Channel, seq: u64) {
        if let Some(index) = channel.index() {
            self.acked_below[index].store(seq, Ordering::Release);
        }
    }

    pub(crate) fn acked_below(&self, channel: Channel) -> u64 {
        channel.index().map_or(0, |index| self.acked_below[index].load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_comes_back_as_itself() {
        let fields = std::array::from_fn(|at| at as u64 + 1);
        let published = Published::default();
        published.publish(NetStats::from_fields(fields));
        assert_eq!(published.read().to_fields(), fields);
        assert_eq!((published.read().tx_bytes, published.read().turns), (1, FIELDS as u64));
    }
}
